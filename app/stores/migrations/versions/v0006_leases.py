"""Claims tell how long they last without a write."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; claims of before have none."""
    op.add_column("generations", sa.Column("lease_s", sa.Double))
