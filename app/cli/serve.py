"""`frontrunner serve`: runs uvicorn and drains it before it stops.

The exit code is 1 if the engine dies.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app import logs
from app.cli.client import CliError
from app.cli.http_protocol import Crowd, LimitedProtocol
from app.imaging.provenance import CertificateError
from app.main import create_app
from app.settings import Settings, format_errors
from app.stores.privacy import private_umask
from models.errors import ModelError

KEEP_ALIVE_S = 75
"""Longer than load balancers keep idle connections (nginx: 60 s).

Otherwise requests are lost on connections that just closed.
"""

RELEASE_TIMEOUT_S = 5
"""Seconds that releasing the claims in the database may take."""

GRACEFUL_SHUTDOWN_S = 10
"""Seconds that running responses may take once sampling has ended."""


class DrainingServer(uvicorn.Server):
    """uvicorn server whose first signal drains.

    For `notice_s` the server is unready but still serves, so that load balancers notice. Then it rejects new work for
    `drain_s` or until running generations have ended. Other replicas take over the rest.
    """

    def __init__(self, config: uvicorn.Config, drain_s: float, notice_s: float = 0.0) -> None:
        super().__init__(config)
        self.engine_error: BaseException | None = None
        self._drain_s = drain_s
        self._notice_s = notice_s
        self._signalled_at: float | None = None
        self._frozen = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, stop on the second.

        A third Ctrl-C drops running responses.
        """
        if self._signalled_at is None:
            self._signalled_at = time.monotonic()
            if self._notice_s == 0:
                self._app.state.engine.drain()
            elif self.started:
                self._app.state.services.generations.mark_unready()
        else:
            self._app.state.drain_s = 0.0
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    def on_engine_death(self, reason: BaseException) -> None:
        """Stop the server: a dead engine requires a new process."""
        self.engine_error = reason
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Check the drain; uvicorn calls this ten times a second."""
        if not self._frozen and self._app.state.engine.stats().ready:
            gc.freeze()  # a full collection over the libraries' objects stopped every thread for a second
            self._frozen = True
        if self._signalled_at is not None and not self.should_exit:
            waited = time.monotonic() - self._signalled_at - self._notice_s
            if waited >= 0:
                await self._drain(overdue=waited >= self._drain_s)
        return await super().on_tick(counter)

    async def _drain(self, *, overdue: bool) -> None:
        """Reject new work; stop when no work remains, or when `overdue`."""
        self._app.state.engine.drain()
        stats = self._app.state.engine.stats()
        if overdue or stats.held == 0:
            self._app.state.drain_s = 0.0
            self._app.state.mcp.close()
            with suppress(TimeoutError):  # other replicas claim the rest when its lease expires
                every = self._app.state.services.models.every
                released = asyncio.gather(*(services.generations.release_claims() for services in every))
                await asyncio.wait_for(released, RELEASE_TIMEOUT_S)
            self.should_exit = True

    @property
    def startup_error(self) -> str:
        """Why the server did not start: a store or the address."""
        return str(
            self._app.state.startup_error
            or f"port {self.config.port} on {self.config.host} is in use or not permitted: set another host or port"
        )

    @property
    def _app(self) -> FastAPI:
        app: FastAPI = self.config.app  # type: ignore[assignment]
        return app


def run_server(options: Mapping[str, Any], fd: int | None = None) -> int:
    """Serve until a signal; return the exit code. Raises CliError.

    `fd` is a listening socket to use.
    """
    try:
        settings = Settings(**options)
    except ValidationError as error:
        raise CliError("; ".join(format_errors(error))) from None
    logs.configure(settings.log_level, settings.log_format)
    private_umask()
    try:
        server = _server(settings)
    except (CertificateError, ModelError) as error:
        raise CliError(str(error)) from None
    try:
        server.run(sockets=[socket.socket(fileno=fd)] if fd is not None else None)
    except SystemExit:
        raise CliError(f"the service did not start: {server.startup_error}") from None
    if server.engine_error is not None:
        raise CliError(f"the engine died: {server.engine_error}")
    return 0


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for the app."""
    protocol = partial(LimitedProtocol, Crowd(settings.max_connections))
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=cast(type[asyncio.Protocol], protocol),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )


def _server(settings: Settings) -> DrainingServer:
    servers: list[DrainingServer] = []
    app = create_app(settings, on_death=lambda reason: servers[0].on_engine_death(reason))
    config = server_config(app, settings)
    server = DrainingServer(config, settings.drain_s, settings.notice_s)
    servers.append(server)
    return server
