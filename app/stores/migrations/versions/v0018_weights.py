"""Store which weights a generation was made for, and which a replica serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the columns; any replica with the model may run earlier generations."""
    for table in ("generations", "served_models"):
        op.add_column(table, sa.Column("weights", sa.Text, nullable=False, server_default=""))
