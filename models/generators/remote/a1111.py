"""The web UI of AUTOMATIC1111, and servers with its API.

Source: `modules/api/api.py` of stable-diffusion-webui, `text2imgapi` and `img2imgapi`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from models.generators.remote.addresses import RemoteAddress
from models.generators.remote.apis import Part, Source, items
from models.generators.remote.calls import Calls
from models.generators.remote.describing import describe
from models.generators.remote.uploads import as_text, start_file, white_mask_file
from models.load_options import RemoteLimits
from models.protocols import GeneratorInfo, WholeImages

_PER_CALL = 4
"""Images of one batch: the web UI makes one call at a time."""

_MAX_SIZE = 2048
_DEFAULT_SAMPLER = "default"
"""The sampler that the web UI chooses itself.

`FRONTRUNNER_REMOTE_PARAMETERS` can name another one.
"""


class A1111Api:
    """`/sdapi/v1/txt2img`, and `img2img` with an initial image."""

    def __init__(self, address: RemoteAddress, limits: RemoteLimits) -> None:
        self._address = address
        self._limits = limits

    @property
    def headers(self) -> Mapping[str, str]:
        """The key as user and password, `user:password`."""
        key = self._limits.api_key
        return {"authorization": f"Basic {base64.b64encode(key.encode()).decode()}"} if key else {}

    @property
    def most_per_call(self) -> int:
        """Images of one batch."""
        return self._limits.images_per_call or _PER_CALL

    async def describe(self, calls: Calls) -> GeneratorInfo:  # noqa: ARG002
        """The web UI's usual values; nothing is asked."""
        traits = WholeImages(seeds=True, steps=True, init_images=True, strengths=True, masks=True)
        return describe(
            self._address,
            self._limits,
            (512, 512),
            traits,
            max_size=_MAX_SIZE,
            steps=20,
            guidance_scale=7.0,
            guidance="cfg",
            negative_prompts=True,
            sampler=_DEFAULT_SAMPLER,
            samplers=(_DEFAULT_SAMPLER,),
            prompt_weights="applied",
        )

    def build(self, part: Part, client: httpx.AsyncClient) -> httpx.Request:
        """The request of a part."""
        order = part.order
        body: dict[str, Any] = {
            "prompt": part.prompt,
            "negative_prompt": order.negative_prompt,
            "width": order.width,
            "height": order.height,
            "steps": order.steps,
            "cfg_scale": order.guidance_scale,
            "seed": part.seed,
            "batch_size": len(part.places),
            "n_iter": 1,
            "send_images": True,
            "save_images": False,
            "do_not_save_grid": True,
        }
        if self._address.model:
            body["override_settings"] = {"sd_model_checkpoint": self._address.model}
        if order.start is not None:
            body |= {"init_images": [as_text(start_file(order))], "denoising_strength": order.strength}
            mask = white_mask_file(order)
            if mask is not None:
                body |= {"mask": as_text(mask), "inpainting_fill": 1, "inpaint_full_res": False}
        route = "txt2img" if order.start is None else "img2img"
        return client.build_request(
            "POST", f"{self._address.base}/sdapi/v1/{route}", json={**body, **self._limits.parameters}
        )

    def read(self, part: Part, answer: Any) -> Sequence[Source]:
        """Base64 of each image, without the grid that may come first."""
        images = items(answer, "images")
        begin = _index_of_first_image(answer.get("info"), max(0, len(images) - len(part.places)))
        return [each if isinstance(each, str) and each else None for each in images[begin:]]


def _index_of_first_image(info: Any, usual: int) -> int:
    """Where the images begin in an answer, behind grids, by its `info`."""
    try:
        found = json.loads(info)["index_of_first_image"]
    except (TypeError, ValueError, KeyError, RecursionError):
        return usual
    return found if isinstance(found, int) and found >= 0 else usual
