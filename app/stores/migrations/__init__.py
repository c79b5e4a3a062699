"""Database migrations: alembic revisions, run when a store is opened.

One lock serialises the processes: the first one migrates, the others find the work done.
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
"""The revision of databases created before revisions were recorded."""


def migrate(connection: Connection) -> None:
    """Upgrade the database to the newest revision, inside the caller's transaction.

    Raises StoreUnavailable when a later release created the database.
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
        raise StoreUnavailable(f"the database has revision {current}, unknown to this release: start the later release")
    command.upgrade(config, "head")
