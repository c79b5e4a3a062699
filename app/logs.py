"""Logs on standard error: lines for eyes or JSON, one form for the service's own and every library's.

Owns the form only. No log line holds a prompt, an image or a header of a request.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog
from fastapi.telemetry import TelemetryConfig
from structlog.typing import EventDict, Processor

_NOISY = ("httpx", "httpcore", "PIL", "asyncio", "alembic", "multipart", "python_multipart")


def configure(level: str, form: str) -> None:
    """Send the logs of this process to standard error; `form` is "console" or "json"."""
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _plain],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last(form)],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def telemetry(*, on: bool) -> TelemetryConfig:
    """OpenTelemetry as FastAPI has it built in: requests as traces and metrics, sent where OTEL_... says.

    Its log records stay off, for they would repeat what callers have sent.
    """
    return TelemetryConfig(tracing=on, metrics=on, logs=False, auto_configure=on, exclude=_of_balancers)


def _of_balancers(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in {"/healthz", "/readyz", "/metrics"}


def _plain(_: object, __: str, entry: EventDict) -> EventDict:
    """Without the copy of its message, coloured, that uvicorn adds."""
    entry.pop("color_message", None)
    return entry


def _last(form: str) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback  # the others print local variables, and prompts with them
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
