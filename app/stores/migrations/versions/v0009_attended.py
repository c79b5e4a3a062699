"""When a client last followed a generation that lives as long as somebody does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; generations from before go on without clients."""
    op.add_column("generations", sa.Column("attended", sa.Double))
