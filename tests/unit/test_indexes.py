"""Deletion and database URLs: what is read from indexes, and what is ignored with a warning."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import Connection, make_url, text

from app.stores import schema
from app.stores.connections.server import DatabaseOptions, PostgresqlServer
from app.stores.generations import SqlGenerationStore

KEY = "DELETE FROM {} WHERE generation_id = 'gen_a'"
"""What a foreign key does when its generation is deleted."""


def _plan(connection: Connection, statement: str) -> str:
    """How the database runs a statement, if it avoids scans wherever an index allows it."""
    if connection.dialect.name == "sqlite":
        return " ".join(map(str, connection.execute(text(f"EXPLAIN QUERY PLAN {statement}"))))
    connection.execute(text("SET LOCAL enable_seqscan = off"))
    return " ".join(map(str, connection.execute(text(f"EXPLAIN {statement}"))))


@pytest.mark.anyio
@pytest.mark.slow
async def test_deletion_scans_no_table(records: SqlGenerationStore) -> None:
    """The index `idempotency_by_generation` and the primary keys; without one, both planners say "scan"."""
    tables = [
        table.name
        for table in schema.metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table is schema.generations
    ]
    assert set(tables) == {"events", "idempotency", "webhooks"}
    for table in tables:
        plan = await records.connections.read(lambda c, table=table: _plan(c, KEY.format(table)))  # type: ignore[misc]
        assert "Seq Scan" not in plan, (table, plan)
        assert "SCAN" not in plan, (table, plan)
        assert "index" in plan.lower(), (table, plan)


def test_options_of_other_drivers_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    url = make_url("postgresql://user@host/name?pgbouncer=true&sslmode=require")
    with caplog.at_level(logging.WARNING):
        PostgresqlServer(url, DatabaseOptions())
    assert [record.getMessage() for record in caplog.records] == [
        "options of other drivers in the database URL have no effect: pgbouncer"
    ]
