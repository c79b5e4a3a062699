"""Frames between a front and its child process.

Each is a length, then a message of `segments.codec`.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any, Literal

from app.engine.segments import codec

_LENGTH = struct.Struct("!Q")

MAX_BYTES = 2**31
"""Maximum length of a frame; a longer one is none of this protocol."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message. `number` is that of the request, 0 for those of none."""

    kind: Literal["ask", "drop", "answer", "end", "lost", "connected", "replicas", "state", "problem"]
    number: int = 0
    value: Any = None


def write_frame(writer: asyncio.StreamWriter, frame: Frame) -> None:
    """Send a frame; returns at once."""
    data = codec.encode((frame.kind, frame.number, frame.value))
    writer.write(_LENGTH.pack(len(data)))
    writer.write(data)


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end. Raises ValueError for bytes that are no frame."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_BYTES:
            raise ValueError("the other side sent a frame that is too long")
        return Frame(*codec.decode(await reader.readexactly(length)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
