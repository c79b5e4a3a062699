"""Store which replica serves which models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "served_models",
        sa.Column("replica", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(200), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
    )
