"""When a client last followed a generation that needs a client."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; earlier generations run without clients."""
    op.add_column("generations", sa.Column("attended", sa.Double))
