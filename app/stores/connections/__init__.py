"""Connections to SQLite and PostgreSQL: pools, notifications, poolers, errors."""

from app.stores.connections.facade import Connections, dialect_insert
from app.stores.connections.server import DatabaseOptions, notify_statement

__all__ = ["Connections", "DatabaseOptions", "dialect_insert", "notify_statement"]
