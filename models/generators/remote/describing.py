"""Names, revisions and default limits of remote generators."""

from __future__ import annotations

import hashlib
from typing import Any

from models.generators.remote.addresses import RemoteAddress
from models.load_options import RemoteLimits
from models.protocols import GeneratorInfo, WholeImages

MAX_SIZE = 4096
"""Longest side of an image in pixels, where the API names no limit."""


def describe(
    address: RemoteAddress, limits: RemoteLimits, size: tuple[int, int], traits: WholeImages, **known: Any
) -> GeneratorInfo:
    """A generator's info; `known` replaces what is usual.

    The revision follows from address, model and parameters: what another remote makes is of another revision.
    """
    width, height = limits.size or size
    named = f"{address.base} {address.model} {sorted(limits.parameters.items())} {known.get('revision', '')}"
    usual: dict[str, Any] = {
        "id": address.id,
        "width": width,
        "height": height,
        "size_multiple": 8,
        "max_size": MAX_SIZE,
        "steps": 1,
        "guidance_scale": 0.0,
        "sampler": "remote",
        "samplers": ("remote",),
        "token_limit": 0,
        "prediction_type": "",
        "device": "remote",
        "dtype": "",
        "guidance": "none",
        "negative_prompts": False,
        "whole_images": traits,
    }
    return GeneratorInfo(**{**usual, **known, "revision": hashlib.sha256(named.encode()).hexdigest()[:12]})
