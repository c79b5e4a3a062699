"""Store each claim's lease length."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; earlier claims have none."""
    op.add_column("generations", sa.Column("lease_s", sa.Double))
