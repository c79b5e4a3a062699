"""Logging to standard error in console or JSON format, for all libraries.

Owns the format only. No log line contains a prompt, an image or a request header.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog
from fastapi.telemetry import TelemetryConfig
from structlog.typing import EventDict, Processor

_QUIETED_LOGGERS = ("httpx", "httpcore", "PIL", "asyncio", "alembic", "multipart", "python_multipart", "mcp")


def configure(level: str, form: str) -> None:
    """Configure logging to standard error; `form` is "console" or "json"."""
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
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _drop_color_message],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(form)],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIETED_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def telemetry(*, on: bool) -> TelemetryConfig:
    """Configure FastAPI's OpenTelemetry traces and metrics; OTEL_... sets the export.

    Its log records stay off, because they would repeat the content of requests.
    """
    return TelemetryConfig(tracing=on, metrics=on, logs=False, auto_configure=on, exclude=_is_probe)


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in {"/healthz", "/readyz", "/metrics"}


def _drop_color_message(_: object, __: str, entry: EventDict) -> EventDict:
    """Remove the coloured copy of the message that uvicorn adds."""
    entry.pop("color_message", None)
    return entry


def _renderers(form: str) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback  # other formatters print local variables, including prompts
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
