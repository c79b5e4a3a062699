"""The webhook outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "webhooks",
        sa.Column(
            "generation_id", sa.String(64), sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
    )
    op.create_index("webhooks_by_due", "webhooks", ["due"])
