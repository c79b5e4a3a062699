"""Reading JSON bodies at a bounded cost: the event loop parses them, so their size and shape are checked first.

Pictures travel as data URIs and may be large; all other text is small. What parses slowly is many values, which
pictures do not have. A member that comes twice in one object is refused: parsers disagree about which one counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.api.problems import InvalidJson

TEXT_BYTES = 2 * 2**20
"""Most bytes of a body outside of its pictures."""

MOST_VALUES = 100_000
"""Most values of a body: they are counted by commas and opening brackets, inside texts too. Parsed in about 50 ms."""

_PICTURES = 2048
"""Data URIs that are looked for; what follows them counts as text."""

_DIGITS = 32
"""Longest integer that is read; converting one takes time that grows with the square of its digits."""

_URI = b'"data:'


def parse(data: bytes, text_bytes: int | None = TEXT_BYTES) -> Any:
    """The value of a JSON document in UTF-8. `text_bytes` bounds what is not a picture; None is for no bound.

    Raises InvalidJson, and HTTPException 413: only such errors pass FastAPI unwrapped, and free the body at once.
    """
    text = data if text_bytes is None else _without_pictures(data)
    if text_bytes is not None and len(text) > text_bytes:
        raise HTTPException(413, f"the body is larger than {text_bytes} bytes without its data URIs")
    if sum(map(text.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise HTTPException(413, f"the body holds more than {MOST_VALUES} values")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_integer)
    except _Duplicate as error:
        raise InvalidJson(f"the member {error.name!r} comes twice in one object") from None
    except (ValueError, RecursionError):
        raise InvalidJson("the body cannot be read as JSON") from None


class JsonRoute(APIRoute):
    """A route that reads its JSON body with `parse`."""

    text_bytes: int | None = TEXT_BYTES

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See APIRoute."""
        handler, text_bytes = super().get_route_handler(), self.text_bytes

        async def bounded(request: Request) -> Response:
            answer: Response = await handler(_Bounded(request, text_bytes))
            return answer

        return bounded


class LongJsonRoute(JsonRoute):
    """A `JsonRoute` whose text may be as large as the body."""

    text_bytes = None


class _Bounded(Request):
    def __init__(self, request: Request, text_bytes: int | None) -> None:
        super().__init__(request.scope, request.receive)
        self._request = request
        self._text_bytes = text_bytes

    async def body(self) -> bytes:
        return await self._request.body()  # kept there, where handlers of errors look for it

    async def json(self) -> Any:
        return parse(await self.body(), self._text_bytes)


class _Duplicate(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name[:64]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names: set[str] = set()
        raise _Duplicate(next(name for name, _ in pairs if name in names or names.add(name)))  # type: ignore[func-returns-value]
    return members


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("an integer of too many digits")
    return int(digits)


def _without_pictures(data: bytes) -> bytes:
    """`data` less the contents of its data URIs: plain ASCII, in which at most slashes are escaped."""
    kept, end = [], 0
    for _ in range(_PICTURES):
        start = data.find(_URI, end)
        close = data.find(b'"', start + len(_URI)) if start >= 0 else -1
        if close < 0:
            break
        kept.append(data[end : start + len(_URI)])
        uri = data[start + len(_URI) : close]
        if not uri.isascii() or uri.count(b"\\") != uri.count(b"\\/"):
            kept.append(uri)
        end = close
    kept.append(data[end:])
    return b"".join(kept)
