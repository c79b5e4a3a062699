"""Store each webhook's host, so that a slow one uses only its share of attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; earlier webhooks share one empty name."""
    op.add_column("webhooks", sa.Column("host", sa.String(255), nullable=False, server_default=""))
