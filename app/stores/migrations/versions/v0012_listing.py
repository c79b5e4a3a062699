"""Indexes for listing an owner's generations by age."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the indexes."""
    op.create_index("generations_by_owner", "generations", ["owner", "created", "id"])
    op.create_index("generations_by_owner_status", "generations", ["owner", "status", "created", "id"])
