"""OpenAI's Images API, of OpenAI and of the many servers that speak it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from models.generators.remote.addresses import RemoteAddress
from models.generators.remote.apis import Link, Part, Source, items
from models.generators.remote.calls import Calls
from models.generators.remote.describing import describe
from models.generators.remote.uploads import edit_files, form
from models.load_options import RemoteLimits
from models.protocols import GeneratorInfo, WholeImages

_MOST = 10
"""Images that one call of the API may ask for."""

_SIZES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "dall-e-2": ((256, 256), (512, 512), (1024, 1024)),
    "dall-e-3": ((1024, 1024), (1792, 1024), (1024, 1792)),
    "gpt-image-1": ((1024, 1024), (1536, 1024), (1024, 1536)),
}
"""Sizes of OpenAI's models, by the beginning of their name.

Other models are asked for any size.

Source: OpenAI's API reference, "Create image", `size`.
"""

_SINGLE = "dall-e-3"
"""Beginning of the names of models that make one image a call, and that edit none."""

_ALWAYS_BASE64 = ("gpt-image-", "chatgpt-image-")
"""Beginnings of the names of models that refuse `response_format`."""


class OpenAiImages:
    """`/images/generations`, and `/images/edits` with an initial image."""

    def __init__(self, address: RemoteAddress, limits: RemoteLimits) -> None:
        self._address = address
        self._limits = limits
        self._sizes = next((sizes for name, sizes in _SIZES.items() if address.model.startswith(name)), ())

    @property
    def headers(self) -> Mapping[str, str]:
        """The key as a bearer token."""
        key = self._limits.api_key
        return {"authorization": f"Bearer {key}"} if key else {}

    @property
    def most_per_call(self) -> int:
        """One, unless the operator allows more; DALL-E 3 makes one."""
        return 1 if self._address.model.startswith(_SINGLE) else min(_MOST, self._limits.images_per_call or 1)

    async def describe(self, calls: Calls) -> GeneratorInfo:  # noqa: ARG002
        """Limits and defaults; nothing is asked."""
        edits = not self._address.model.startswith(_SINGLE)
        return describe(self._address, self._limits, (1024, 1024), WholeImages(init_images=edits, masks=edits))

    def build(self, part: Part, client: httpx.AsyncClient) -> httpx.Request:
        """The request of a part."""
        width, height = self._size(*part.size)
        body: dict[str, Any] = {
            "model": self._address.model,
            "prompt": part.prompt,
            "n": len(part.places),
            "size": f"{width}x{height}",
        }
        if not self._address.model.startswith(_ALWAYS_BASE64):
            body["response_format"] = "b64_json"
        body |= self._limits.parameters
        if part.order.start is None:
            return client.build_request("POST", f"{self._address.base}/images/generations", json=body)
        return client.build_request(
            "POST", f"{self._address.base}/images/edits", data=form(body), files=edit_files(part.order)
        )

    def read(self, part: Part, answer: Any) -> Sequence[Source]:  # noqa: ARG002
        """Base64 or link of each image."""
        return [_source(item) for item in items(answer, "data")]

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """The model's own size that is nearest in ratio, then in area."""

        def distance(size: tuple[int, int]) -> tuple[float, float]:
            ratio, area = size[0] / size[1] * height / width, size[0] * size[1] / (width * height)
            return abs(math.log(ratio)), abs(math.log(area))

        return min(self._sizes, key=distance, default=(width, height))


def _source(item: Any) -> Source:
    if not isinstance(item, Mapping):
        return None
    found, url = item.get("b64_json"), item.get("url")
    if isinstance(found, str) and found:
        return found
    if not isinstance(url, str) or not url:
        return None
    return url if url[:5].lower() == "data:" else Link(url)
