"""Another Frontrunner as a generator: its candidates are ranked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from models.generators.remote.addresses import RemoteAddress
from models.generators.remote.apis import Part, Source, items
from models.generators.remote.calls import Calls
from models.generators.remote.describing import describe
from models.generators.remote.limits import Lost
from models.generators.remote.uploads import as_text, edit_files, form, start_file
from models.load_options import RemoteLimits
from models.protocols import GeneratorInfo, WholeImages

_PER_CALL = 8
"""Candidates that one call asks for: the remote batches them."""

_COPIED = (
    "revision", "size_multiple", "max_size", "steps", "guidance_scale", "sampler", "token_limit", "guidance",
    "negative_prompts", "unguided_scale", "prompt_weights",
)  # fmt: skip
"""Members of the remote's description that hold here too."""


class FrontrunnerApi:
    """`/v1/generations` without pruning: all candidates of a call are returned."""

    def __init__(self, address: RemoteAddress, limits: RemoteLimits) -> None:
        self._address = address
        self._limits = limits
        self._model = address.model

    @property
    def headers(self) -> Mapping[str, str]:
        """The key as a bearer token."""
        key = self._limits.api_key
        return {"authorization": f"Bearer {key}"} if key else {}

    @property
    def most_per_call(self) -> int:
        """As many as the remote makes well in one batch."""
        return self._limits.images_per_call or _PER_CALL

    async def describe(self, calls: Calls) -> GeneratorInfo:
        """Limits and defaults of the remote's model, which it is asked for. Raises Lost."""
        found = items(await calls.ask("/v1/models"), "data")
        models = [each for each in found if isinstance(each, Mapping) and isinstance(each.get("generator"), Mapping)]
        names = [str(each.get("id")) for each in models]
        if not models or (self._model and self._model not in names):
            others = f"it has {', '.join(names)}" if names else "it has no generator"
            raise Lost("rejected", f"has no model {self._model!r}; {others}")
        model = models[names.index(self._model)] if self._model else models[0]
        self._model = str(model["id"])
        told = model["generator"]
        try:
            known: dict[str, Any] = {name: told[name] for name in _COPIED}
            known |= {"samplers": tuple(told["samplers"]), "second_order": tuple(told["second_order"])}
            named = replace(self._address, model=self._model)
            traits = WholeImages(seeds=True, steps=True, init_images=True, strengths=True, masks=True)
            return describe(named, self._limits, (told["width"], told["height"]), traits, **known)
        except (KeyError, TypeError):
            raise Lost("unreadable", "does not describe its model in the form of this release") from None

    def build(self, part: Part, client: httpx.AsyncClient) -> httpx.Request:
        """The request of a part."""
        order, count = part.order, len(part.places)
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": part.prompt,
            "negative_prompt": order.negative_prompt,
            "n_candidates": count,
            "n": count,
            "size": f"{order.width}x{order.height}",
            "seed": part.seed,
            "steps": order.steps,
            "guidance_scale": order.guidance_scale,
            "sampler": order.sampler,
            "pruning": "off",
            "response_format": "b64_json",
        }
        body |= self._limits.parameters
        if order.start is not None:
            body["strength"] = order.strength
        if order.mask is not None:
            return client.build_request(
                "POST", f"{self._address.base}/v1/images/edits", data=form(body), files=edit_files(order)
            )
        if order.start is not None:
            body["image"] = as_text(start_file(order))
        return client.build_request("POST", f"{self._address.base}/v1/generations", json=body)

    def read(self, part: Part, answer: Any) -> Sequence[Source]:
        """Base64 of each candidate, by its index."""
        found: list[Source] = [None] * len(part.places)
        for item in items(answer, "data"):
            index = item.get("index") if isinstance(item, Mapping) else None
            if isinstance(index, int) and 0 <= index < len(found) and isinstance(item.get("b64_json"), str):
                found[index] = item["b64_json"]
        return found
