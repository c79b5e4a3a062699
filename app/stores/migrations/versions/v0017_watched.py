"""Store when another replica last asked how far a generation is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the column; it is not indexed, so that writing it is cheap."""
    op.add_column("generations", sa.Column("watched", sa.Double))
