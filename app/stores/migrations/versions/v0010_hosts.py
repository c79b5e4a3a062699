"""Webhooks name the host that they go to, so that a slow one has its share of the attempts and no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; webhooks of before share one empty name."""
    op.add_column("webhooks", sa.Column("host", sa.String(255), nullable=False, server_default=""))
