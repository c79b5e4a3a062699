"""Server-sent events, and the log of a generation across broken connections."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx

from frontrunner import calls, errors
from frontrunner.calls import Call
from frontrunner.types import GenerationResponse

FINAL = frozenset({"succeeded", "failed", "cancelled"})
"""The events that hold the generation and end its log."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a generation: its kind, its data and its number in the log, from 1."""

    kind: str
    data: Mapping[str, Any]
    id: int | None

    @property
    def progress(self) -> float | None:
        """The completed share of the work, 0 to 1; None for events that do not say."""
        if self.kind == "succeeded":
            return 1.0
        share = self.data.get("progress") if self.kind not in FINAL else None
        return float(share) if share is not None else None

    @property
    def generation(self) -> GenerationResponse | None:
        """The generation, in a final event."""
        return cast(GenerationResponse, self.data) if self.kind in FINAL else None


class EventDecoder:
    """Decodes the chunks of a stream; only CR and LF end lines, as the standard says."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._fields: dict[str, str] = {}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end in this chunk."""
        self._chunks.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            return
        *lines, rest = _LINE_END.split(b"".join(self._chunks))
        self._chunks = [rest]
        for line in lines:
            if not line and "data" in self._fields:
                yield self._event()
            if not line:
                self._fields = {}
                continue
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            before = self._fields.get("data")
            self._fields[name] = f"{before}\n{value}" if name == "data" and before is not None else value

    def _event(self) -> Event:
        number = self._fields.get("id", "")
        return Event(
            self._fields.get("event", "message"),
            json.loads(self._fields["data"]),
            int(number) if number.isascii() and number.isdigit() else None,
        )


class EventLog:
    """What a client has read of a generation's log, and the request that reads on.

    `start` is the request that creates the generation; None follows an existing one.
    """

    def __init__(
        self, start: Call[GenerationResponse] | None, generation_id: str | None = None, after: int = 0
    ) -> None:
        self.generation_id = generation_id
        self.owned = start is not None
        self.ended = False
        self.progressed = False
        self._start = start
        self._last = after
        self._decoder = EventDecoder()

    @property
    def resumable(self) -> bool:
        """Whether a further request continues the log instead of sampling again."""
        return self.generation_id is not None or (self._start is not None and self._start.idempotent)

    @property
    def next_call(self) -> Call[Any]:
        """The request for the log, or for the rest of it.

        A creating request with a key is repeated as it is when files are asked for in the events: only its own log has
        them.
        """
        start = self._start
        if start is not None and (self.generation_id is None or (start.idempotent and start.with_files)):
            return start
        return calls.events(self.generation_id or "", self._last)

    def opened(self, response: httpx.Response) -> None:
        """Note a new connection; an empty log has ended."""
        self._decoder = EventDecoder()
        self.progressed = False
        self.generation_id = errors.generation_id(response.headers.get("location")) or self.generation_id
        self.ended = response.status_code == 204

    def read(self, chunk: bytes) -> Iterator[Event]:
        """The new events in a chunk.

        Raises ApiError for an `error` event, except one of a stopping replica: the log goes on elsewhere.
        """
        for event in self._decoder.feed(chunk):
            if event.kind == "error":
                error = errors.from_event(event.data)
                if isinstance(error, errors.Unavailable):
                    return
                raise error
            if event.id is not None and event.id <= self._last:
                continue
            self._last, self.progressed = event.id or self._last, True
            self.ended = event.kind in FINAL
            yield event


def result(event: Event | None) -> GenerationResponse:
    """The generation of a log's last event. Raises GenerationFailed, ConnectionFailed."""
    generation = event.generation if event is not None else None
    if generation is None:
        raise errors.ConnectionFailed("the event stream ended before the result: read the generation", unsent=False)
    if generation["status"] != "succeeded":
        raise errors.GenerationFailed(generation)
    return generation
