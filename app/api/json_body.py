"""JSON bodies, parsed at a bounded cost: size and shape are checked first.

The event loop parses them. Images are data URIs or base64 and may be large; all other text is small. Parsing time
grows with the number of values, which images do not add to. A repeated member is refused: parsers disagree about which
one counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.api.problems import InvalidJson

TEXT_BYTES = 2 * 2**20
"""Maximum bytes of a body outside its images."""

MAX_VALUES = 100_000
"""Maximum values of a body, which parse in about 50 ms.

Commas and opening brackets are counted, also inside strings.
"""

_MAX_IMAGES = 2048
"""Maximum images that are recognized; later ones count as text."""

_MAX_DIGITS = 32
"""Digits of an integer that are converted: the time is quadratic in the digits."""

_TOO_LONG = 10**32
"""Stands for a larger whole number: no field accepts either."""

_IMAGE_START = re.compile(rb'"(?:data:|iVBORw0KGgo|\\?/9j|R0lGOD|UklGR|Qk[0-3])')
"""A data URI, or base64 with the first bytes of PNG, JPEG, GIF, WebP or BMP."""

_MAX_START = 12
"""Maximum bytes of `_IMAGE_START`."""

_IMAGE = re.compile(_IMAGE_START.pattern + rb'[^"]*"')


async def read(request: Request, text_bytes: int | None = TEXT_BYTES) -> bytes:
    """Read a JSON body.

    Stops as soon as it exceeds `text_bytes` outside its images. Raises HTTPException 413.
    """
    parts, text = [], _TextCounter()
    async for part in request.stream():
        parts.append(part)
        if text_bytes is not None and text.add(part) > text_bytes:
            raise _too_long(text_bytes)
    return b"".join(parts)


def parse(data: bytes, text_bytes: int | None = TEXT_BYTES) -> Any:
    """Parse a JSON document in UTF-8.

    `text_bytes` bounds the bytes outside images; None means no bound. Raises InvalidJson, or HTTPException 413.
    Only these pass FastAPI unwrapped, which frees the body at once.
    """
    text = data if text_bytes is None else _without_images(data)
    if text_bytes is not None and len(text) > text_bytes:
        raise _too_long(text_bytes)
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise HTTPException(413, f"the body has more than {MAX_VALUES} values: send fewer")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_integer, parse_float=_number)
    except _DuplicateMember as error:
        raise InvalidJson(f"the member {error.name!r} is repeated in one object: send it once") from None
    except (ValueError, RecursionError):
        raise InvalidJson("the body is not valid JSON: send one JSON document in UTF-8") from None


class JsonRoute(APIRoute):
    """A route that parses its JSON body with `parse`."""

    text_bytes: int | None = TEXT_BYTES

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See APIRoute."""
        handler, text_bytes = super().get_route_handler(), self.text_bytes

        async def bounded(request: Request) -> Response:
            response: Response = await handler(_Bounded(request, text_bytes))
            return response

        return bounded


class LongJsonRoute(JsonRoute):
    """A `JsonRoute` without a bound on text; the limit of the body applies."""

    text_bytes = None


class _Bounded(Request):
    def __init__(self, request: Request, text_bytes: int | None) -> None:
        super().__init__(request.scope, request.receive)
        self._request = request
        self._text_bytes = text_bytes

    async def body(self) -> bytes:
        if not hasattr(self._request, "_body"):
            self._request._body = await read(self._request, self._text_bytes)  # error handlers read it there
        return await self._request.body()

    async def json(self) -> Any:
        return parse(await self.body(), self._text_bytes)


class _TextCounter:
    """Counts the bytes of a body outside its images while it arrives.

    Never counts more than there are.
    """

    def __init__(self) -> None:
        self._text = 0
        self._images = 0
        self._inside = False
        self._rest = b""

    def add(self, part: bytes) -> int:
        """Return the bytes counted so far; the last few wait for the next part."""
        data, place = self._rest + part, 0
        while self._inside or self._images < _MAX_IMAGES:
            if self._inside:
                end = data.find(b'"', place)
                if end < 0:
                    self._rest = b""
                    return self._text
                self._inside, place = False, end + 1
            found = _IMAGE_START.search(data, place)
            if found is None:
                break
            self._text += found.start() - place
            self._images, self._inside, place = self._images + 1, True, found.end()
        kept = max(place, len(data) - _MAX_START)
        self._text += kept - place
        self._rest = data[kept:]
        return self._text


def _too_long(text_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body exceeds {text_bytes} bytes outside its images: send a smaller one")


class _DuplicateMember(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name[:64]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names: set[str] = set()
        raise _DuplicateMember(next(name for name, _ in pairs if name in names or names.add(name)))  # type: ignore[func-returns-value]
    return members


def _integer(digits: str) -> int:
    if len(digits) <= _MAX_DIGITS:
        return int(digits)
    return -_TOO_LONG if digits.startswith("-") else _TOO_LONG


def _number(text: str) -> float:
    """A number with a point or an exponent.

    JSON has one type of numbers, so a whole one, such as 4.0 or 1e23, becomes an int.
    """
    value = float(text)
    if abs(value) >= _TOO_LONG:
        return -_TOO_LONG if value < 0 else _TOO_LONG
    return int(value) if value.is_integer() else value


def _without_images(data: bytes) -> bytes:
    """`data` without its images.

    Images are kept unless they are plain ASCII without escapes other than `\\/`.
    """
    parts, end = [], 0
    for found in islice(_IMAGE.finditer(data), _MAX_IMAGES):
        image = found[0]
        parts.append(data[end : found.start()])
        if not image.isascii() or image.count(b"\\") != image.count(b"\\/"):
            parts.append(image)
        end = found.end()
    parts.append(data[end:])
    return b"".join(parts)
