"""Store which generations are requests of the web UI's API."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the column; earlier generations have no job."""
    op.add_column("generations", sa.Column("job", sa.String(16)))
