"""A name of the database's own, by which an image store knows whose its files are."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table and its one row."""
    table = op.create_table("identity", sa.Column("id", sa.String(64), primary_key=True))
    op.bulk_insert(table, [{"id": secrets.token_hex(16)}])
