"""What a replica answers, as bytes.

Owns the kinds of requests and answers, and errors on the way. Values are encoded by `segments.codec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeAlias

from app.engine.cluster.workers import WorkerInfo
from app.engine.protocols import EngineStats
from app.engine.segments import codec
from app.errors import EngineFailed, FrontrunnerError, Unavailable
from models.errors import FailureReason, ScoringFailed

RequestKind: TypeAlias = Literal["describe", "segment", "call", "cancel", "forget"]
"""What a front asks of a replica."""

CALLS = frozenset(
    {
        "embed_texts",
        "embed_images",
        "score_images",
        "embed_patches",
        "decode",
        "encode_images",
        "upscale",
        "prepare",
    }
)
"""Methods of `Engine` that a front may call on a replica."""


class AnswerKind(Enum):
    """The first byte of an answer.

    `AWAY`: the request was meant for another replica, and has not run. `LOST`: the device is dead.
    """

    STEP = b"s"
    RESULT = b"r"
    ERROR = b"e"
    CANCELLED = b"c"
    AWAY = b"a"
    LOST = b"l"


@dataclass(frozen=True, slots=True)
class Description:
    """What a replica says of itself. Fronts accept those of their own `version`."""

    version: str
    name: str
    info: WorkerInfo
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class ErrorNote:
    """An error of the service as values. `reason` is that of a `ScoringFailed`."""

    name: str
    detail: str
    pointer: str | None
    retry_after_s: float | None
    reason: FailureReason | None = None


def answer(kind: AnswerKind, value: object = None) -> bytes:
    """The bytes of an answer."""
    return kind.value + codec.encode(value)


def read_answer(data: bytes) -> tuple[AnswerKind, Any]:
    """Kind and value of an answer. Raises ValueError."""
    return AnswerKind(data[:1]), codec.decode(memoryview(data)[1:])


def note_of(error: Exception) -> ErrorNote:
    """The values of an error.

    ScoringFailed keeps its text and reason. Any other error that is none of the service becomes EngineFailed without
    its text.
    """
    if isinstance(error, ScoringFailed):
        return ErrorNote(ScoringFailed.__name__, str(error), None, None, error.reason)
    if not isinstance(error, FrontrunnerError):
        error = EngineFailed(f"a worker failed ({type(error).__name__})")
    return ErrorNote(type(error).__name__, error.detail, error.pointer, getattr(error, "retry_after_s", None))


def error_of(note: ErrorNote) -> FrontrunnerError | ScoringFailed:
    """The error of a note; EngineFailed for a class that this version does not have."""
    if note.reason is not None:
        return ScoringFailed(note.reason, note.detail)
    found = next((each for each in _classes(FrontrunnerError) if each.__name__ == note.name), EngineFailed)
    if issubclass(found, Unavailable):
        return found(note.detail, retry_after_s=note.retry_after_s or 1.0)
    return found(note.detail, pointer=note.pointer)


def _classes(base: type[FrontrunnerError]) -> Iterator[type[FrontrunnerError]]:
    for each in base.__subclasses__():
        yield each
        yield from _classes(each)
