"""What every API of a remote generator offers, and parts of orders."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import httpx

from models.generators.remote.addresses import RemoteAddress
from models.generators.remote.calls import Calls
from models.generators.remote.limits import Lost
from models.load_options import RemoteLimits
from models.protocols import GeneratorInfo
from models.protocols.narrow import ImageOrder


@dataclass(frozen=True, slots=True)
class Link:
    """The address of an image, perhaps relative to the remote's."""

    url: str


Source: TypeAlias = str | Link | Lost | None
"""An image in an answer: base64 or a data URI, a link, or a loss.

None if it is missing.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Places of an order that one call makes.

    They have one prompt and consecutive seeds.
    """

    order: ImageOrder
    places: range

    @property
    def prompt(self) -> str:
        """The prompt of all its images."""
        return self.order.prompts[self.places[0]]

    @property
    def seed(self) -> int:
        """The seed of its first image; the others follow."""
        return self.order.seeds[self.places[0]]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.order.width, self.order.height


class RemoteApi(Protocol):
    """One API. `build` and `read` are pure."""

    def __init__(self, address: RemoteAddress, limits: RemoteLimits) -> None: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request, with the key."""
        ...

    @property
    def most_per_call(self) -> int:
        """Images that one call may ask for."""
        ...

    async def describe(self, calls: Calls) -> GeneratorInfo:
        """Limits and defaults of the remote.

        Raises Lost if it must be asked and does not answer.
        """
        ...

    def build(self, part: Part, client: httpx.AsyncClient) -> httpx.Request:
        """The request that makes the images of a part.

        Raises Lost for what the API cannot make.
        """
        ...

    def read(self, part: Part, answer: Any) -> Sequence[Source]:
        """The images of an answer, by place; fewer if fewer came.

        Raises Lost for another form.
        """
        ...


def split(order: ImageOrder, most: int) -> Iterator[Part]:
    """An order in parts of at most `most` images."""
    begin = 0
    for place, (prompts, seeds) in enumerate(zip(pairwise(order.prompts), pairwise(order.seeds), strict=True), 1):
        if place - begin == most or prompts[0] != prompts[1] or seeds[0] + 1 != seeds[1]:
            yield Part(order, range(begin, place))
            begin = place
    yield Part(order, range(begin, len(order.seeds)))


def items(answer: Any, name: str) -> Sequence[Any]:
    """The list of that name in an answer. Raises Lost."""
    found = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(found, list):
        raise Lost("unreadable", f"does not answer in the form of its API: {name!r} is missing")
    return found


def from_base64(text: str) -> bytes:
    """The bytes of base64, or of a data URI with it. Raises Lost."""
    body = text.partition(",")[2] if text[:5].lower() == "data:" else text
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Lost("unreadable", "sends an image that is not valid base64") from None
