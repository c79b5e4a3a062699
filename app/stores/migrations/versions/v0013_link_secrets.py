"""Keys that sign image links, shared by all replicas."""

from __future__ import annotations

import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the table and the first key."""
    table = op.create_table(
        "link_secrets",
        sa.Column("secret", sa.String(64), primary_key=True),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.bulk_insert(table, [{"secret": secrets.token_urlsafe(32), "created": time.time()}])
