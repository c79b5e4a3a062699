"""How a database becomes what this release reads: alembic revisions, run when a store is opened.

Each process asks for them under one lock, so that the first one migrates and the others find it done.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from app.errors import StoreUnavailable

FIRST = "0001"
"""What databases are that were made before revisions were counted."""


def migrate(connection: Connection) -> None:
    """Bring the database up to the newest revision, inside the caller's transaction.

    Raises StoreUnavailable when a later release has made it.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is None and inspect(connection).has_table("generations"):
        command.stamp(config, FIRST)
    elif current is not None and current not in {revision.revision for revision in scripts.walk_revisions()}:
        raise StoreUnavailable(f"the database is at {current}, which this release does not know: start a later release")
    command.upgrade(config, "head")
