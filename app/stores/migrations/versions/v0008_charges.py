"""Store each generation's charge, so that undelivered candidates are refunded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns; earlier generations get no refund."""
    op.add_column("generations", sa.Column("charged", sa.Integer, nullable=False, server_default="0"))
    op.add_column("generations", sa.Column("charged_window", sa.BigInteger))
