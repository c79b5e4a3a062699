"""Turn the generations table into a queue; add callers' idempotency keys."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add claims, and what a replica needs to run a generation."""
    op.add_column("generations", sa.Column("claim", sa.String(64)))
    op.add_column("generations", sa.Column("claims", sa.Integer, nullable=False, server_default="0"))
    op.add_column("generations", sa.Column("model", sa.Text, nullable=False, server_default=""))
    op.add_column("generations", sa.Column("scorer", sa.Text, nullable=False, server_default=""))
    op.add_column("generations", sa.Column("candidates", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("generation_id", sa.String(64), sa.ForeignKey("generations.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("idempotency_by_generation", "idempotency", ["generation_id"])
    op.execute("DROP TABLE IF EXISTS schema_version")
    _fill_in(op.get_bind())


def _fill_in(connection: sa.Connection) -> None:
    """Fill the new columns of open generations; others are never claimed."""
    found = connection.execute(sa.text("SELECT id, record FROM generations WHERE status IN ('queued', 'running')"))
    fill = sa.text("UPDATE generations SET model = :model, scorer = :scorer, candidates = :candidates WHERE id = :id")
    for row in found.all():
        record = json.loads(row.record)
        values = {"model": record["model"], "scorer": record["scorer"], "candidates": record["spec"]["n_candidates"]}
        connection.execute(fill, {"id": row.id, **values})
