"""Store how far each running generation is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns; earlier generations show no progress until they end."""
    op.add_column("generations", sa.Column("progress", sa.Double, nullable=False, server_default="0"))
    op.add_column("generations", sa.Column("step", sa.Integer))
    op.add_column("generations", sa.Column("live", sa.Integer))
