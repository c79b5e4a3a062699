"""Batches, and the place of generations in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the table, the columns and their indexes."""
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("refused", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("served", sa.Double, nullable=False),
        sa.Column("cancelled", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("status", sa.String(16)),
        sa.Column("webhook_host", sa.String(255)),
        sa.Column("webhook_due", sa.Double),
        sa.Column("webhook_attempts", sa.Integer, nullable=False),
    )
    op.create_index("batches_by_owner", "batches", ["owner", "created", "id"])
    op.create_index("batches_by_end", "batches", ["finished"])
    op.add_column("generations", sa.Column("batch", sa.String(64)))
    op.add_column("generations", sa.Column("batch_index", sa.Integer))
    op.create_index("generations_by_batch", "generations", ["batch", "status", "batch_index"])
