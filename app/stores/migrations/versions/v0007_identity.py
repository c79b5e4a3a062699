"""The database's own id, by which a blob store recognises its database."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table and its only row."""
    table = op.create_table("identity", sa.Column("id", sa.String(64), primary_key=True))
    op.bulk_insert(table, [{"id": secrets.token_hex(16)}])
