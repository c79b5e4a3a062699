"""Generations tell what they were charged, so that what was not made can be given back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns; of generations from before nothing is given back."""
    op.add_column("generations", sa.Column("charged", sa.Integer, nullable=False, server_default="0"))
    op.add_column("generations", sa.Column("charged_window", sa.BigInteger))
