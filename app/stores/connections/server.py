"""A PostgreSQL server: connecting, what stands between, and notifications.

A pooler such as PgBouncer may run each transaction on another server connection. Behind one, prepared statements do not
outlive their transaction, and notifications may not arrive. Both are found out by trying.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Select, func, make_url, select

from app.errors import StoreUnavailable
from app.stores.connections.pools import COMMAND_TIMEOUT_S

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
"""Timeout for connecting to a PostgreSQL server."""

CHANNEL = "frontrunner"
"""PostgreSQL channel of writes: a generation's id, or empty when one is claimable."""

ECHO = "echo "
"""Prefix of the notification that a listener sends to itself to verify delivery."""

ECHO_S = 5.0
"""Seconds within which the echo must arrive."""

LISTEN_CHECK_S = 30.0
"""Seconds between two echo checks."""

RECONNECT_S = 1.0
"""Seconds before the listener reconnects."""

SILENCE_RETRY_S = 60.0
"""Seconds before the listener tries again where notifications did not arrive."""

EXTRA_CONNECTIONS = 2
"""Connections beside the pool: the listener, and a spare one."""

NO_NOTIFICATIONS = (
    "PostgreSQL notifications do not arrive, so this replica polls. To receive them, set "
    "FRONTRUNNER_DATABASE_LISTEN_URL to the address of the server, or to a pooler with pool_mode = session"
)

NO_LISTENER = (
    "the connection for PostgreSQL notifications failed (%s), so this replica polls and tries again: check the server "
    "and FRONTRUNNER_DATABASE_LISTEN_URL"
)

FOREIGN_OPTIONS = {"channel_binding", "connect_timeout", "connection_limit", "keepalives", "pgbouncer", "pool_timeout"}
"""Options in the URLs of providers that are for other drivers, and left out."""


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How a process uses PostgreSQL.

    `connections` is the size of the pool. `listen_url` replaces the URL for notifications, if set.
    """

    connections: int = 10
    listen_url: str = ""


class PostgresqlServer:
    """See the module. `pooled` is known after `inspect`."""

    def __init__(self, url: URL, options: DatabaseOptions) -> None:
        self._url = _usable(url)
        self._listen_url = _usable(make_url(options.listen_url)) if options.listen_url else self._url
        self._options = options
        self._silent = False
        self.pooled = False
        self.errors: tuple[type[Exception], ...] = (OSError, *_asyncpg_errors())

    async def connect(self, *, kept: bool | None = None, listening: bool = False) -> Any:
        """Open a driver connection.

        The URL takes PostgreSQL's own options (`?sslmode=...`). Prepared statements are `kept` unless a pooler is in
        between.
        """
        import asyncpg

        url = self._listen_url if listening else self._url
        address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        cache = {} if (not self.pooled if kept is None else kept) else {"statement_cache_size": 0}
        return await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, **cache)

    async def inspect(self) -> None:
        """Find a pooler, and log how many connections are used.

        The process id that a pooler gives differs from the server's. Raises StoreUnavailable with what to change.
        """
        try:
            connection = await self.connect(kept=False)
            try:
                async with connection.transaction():
                    row = await connection.fetchrow(_INSPECT)
                    self.pooled = connection.get_server_pid() != row["pid"]
            finally:
                connection.terminate()
        except self.errors as error:
            raise StoreUnavailable(_advice(error)) from error
        if row["standby"]:
            raise StoreUnavailable("the database is a read-only standby: set database_url to the primary server")
        if self.pooled:
            log.info("connection pooler detected: prepared statements are not kept")
        self._log_connections(int(row["connections"]))

    def _log_connections(self, allowed: int) -> None:
        """Compare what this replica uses with what the server allows to all clients."""
        used = self._options.connections + EXTRA_CONNECTIONS
        log.log(
            logging.WARNING if used > allowed else logging.INFO,
            "this replica uses up to %d PostgreSQL connections (FRONTRUNNER_DATABASE_CONNECTIONS + %d); "
            "the server allows %d: enough for %d replicas",
            used,
            EXTRA_CONNECTIONS,
            allowed,
            allowed // used,
        )

    async def listen(
        self,
        notify: Callable[[str], Awaitable[object]],
        on_message: Callable[[str], None],
        on_state: Callable[[bool], None],
    ) -> None:
        """Receive notifications until cancelled.

        `notify` sends one over the pool. `on_message` gets each payload; `on_state` gets whether notifications arrive.
        """
        errors: tuple[type[Exception], ...] = (StoreUnavailable, *self.errors)
        while True:
            pause = RECONNECT_S
            try:
                connection = await self.connect(listening=True)
                try:
                    silent = await self._receive(connection, notify, on_message, on_state)
                    pause = SILENCE_RETRY_S if silent else RECONNECT_S
                finally:
                    on_state(False)
                    connection.terminate()
            except errors as error:
                self._log_silence(NO_LISTENER, type(error).__name__)
            await asyncio.sleep(pause)

    async def _receive(
        self,
        connection: Any,
        notify: Callable[[str], Awaitable[object]],
        on_message: Callable[[str], None],
        on_state: Callable[[bool], None],
    ) -> bool:
        """Listen until the connection is lost (False), or an echo does not arrive (True)."""
        echo_payload, echo, lost = ECHO + secrets.token_hex(8), asyncio.Event(), asyncio.Event()

        def received(*arguments: object) -> None:
            payload = str(arguments[-1])
            if payload == echo_payload:
                echo.set()
            elif not payload.startswith(ECHO):
                on_message(payload)

        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(CHANNEL, received)
        open_before = False
        while not lost.is_set():
            echo.clear()
            await notify(echo_payload)
            if not await _set_within(echo, ECHO_S) and not lost.is_set():
                await connection.remove_listener(CHANNEL, received)
                self._log_silence(NO_NOTIFICATIONS)
                return True
            if not open_before:
                open_before, self._silent = True, False
                on_state(True)
                on_message("")
            await _set_within(lost, LISTEN_CHECK_S)
        return False

    def _log_silence(self, message: str, *values: object) -> None:
        """Log once per silence."""
        if not self._silent:
            log.warning(message, *values)
        self._silent = True


_INSPECT = """
SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS connections
"""


def notify_statement(payload: str) -> Select[Any]:
    """Statement that notifies all listeners at commit. PostgreSQL only."""
    return select(func.pg_notify(CHANNEL, payload))


def _usable(url: URL) -> URL:
    """The URL without options of other drivers."""
    if foreign := FOREIGN_OPTIONS & set(url.query):
        log.warning("options of other drivers in the database URL have no effect: %s", ", ".join(sorted(foreign)))
    return url.difference_update_query(FOREIGN_OPTIONS & set(url.query))


def _advice(error: Exception) -> str:
    """What the operator should change when the first connection fails."""
    import asyncpg

    kinds: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
        (
            (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
            "the database refuses the user or the password: check database_url",
        ),
        (asyncpg.InvalidCatalogNameError, "the database does not exist: create it, or correct database_url"),
        (
            asyncpg.TooManyConnectionsError,
            "the database server has no free connection: lower FRONTRUNNER_DATABASE_CONNECTIONS of all replicas, or "
            "raise max_connections",
        ),
        (
            (asyncpg.CantChangeRuntimeParamError, asyncpg.UndefinedObjectError, asyncpg.ProtocolViolationError),
            "the database server or its pooler refuses an option of database_url: remove it, or list it in PgBouncer's "
            "ignore_startup_parameters",
        ),
    ]
    for kind, advice in kinds:
        if isinstance(error, kind):
            return advice
    return "the database is unreachable or full; check the server and free space, then retry"


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    try:
        import asyncpg
    except ImportError as error:
        raise StoreUnavailable("PostgreSQL requires asyncpg: pip install 'frontrunner[production]'") from error
    return asyncpg.PostgresError, asyncpg.InterfaceError
