"""Taste profiles and their votes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "taste_profiles",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("profile", sa.String(64), primary_key=True),
        sa.Column("scorer", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("centre", sa.LargeBinary, nullable=False),
        sa.Column("fields", sa.Integer, nullable=False),
    )
    op.create_table(
        "taste_votes",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("generation_id", sa.String(64), nullable=False),
        sa.Column("candidate", sa.Integer, nullable=False),
        sa.Column("over", sa.Integer),
        sa.Column("direction", sa.LargeBinary, nullable=False),
    )
    op.create_index("taste_votes_by_profile", "taste_votes", ["owner", "profile", "seq"])
