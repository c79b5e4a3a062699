"""Options of loading, from the settings to the loaders. Without torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.loras import LoraFolder

DEFAULT_TILE = 512
"""Longest side of an upscaler's call, in pixels."""

NumberFormat: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
"""Number format of weights and activations; `auto` suits the device."""

Quantization: TypeAlias = Literal[
    "", "torchao-int8", "torchao-int4", "torchao-float8", "bitsandbytes-int8", "bitsandbytes-nf4"
]
"""Library and format of quantised weights; empty for none."""

Offload: TypeAlias = Literal["none", "model", "sequential"]
"""What waits in host memory: nothing, idle models, or all idle weights."""

LongPrompts: TypeAlias = Literal["truncate", "chunks"]
"""What becomes of texts above the token limit.

`truncate`: the rest is dropped. `chunks`: parts of that length are encoded one by one, and joined.
"""

CACHES: dict[str, str] = {
    "first_block": "it decides by the mean of a batch, so a candidate would depend on the others in its call",
    "faster": "it keeps state in the denoiser, which candidates at different steps share",
    "mag": "it keeps state in the denoiser, which candidates at different steps share",
    "pyramid_attention": "it keeps state in the denoiser, which candidates at different steps share",
    "taylor_seer": "it keeps state in the denoiser, which candidates at different steps share",
}
"""Caches of diffusers that are refused, and why."""


_CONTROL_KIND = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Key and limits of scorers behind chat endpoints.

    `concurrency` is requests at once, `timeout_s` the seconds for all images of one call, `calls_per_day` the requests
    of this process in a day of UTC.
    """

    api_key: str = field(default="", repr=False)
    concurrency: int = 4
    timeout_s: float = 60.0
    calls_per_day: int = 10_000


class ImageDecoder(Protocol):
    """Decodes image files of unknown origin. Use in one event loop."""

    async def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Pixels (H, W, 3), sRGB.

        Raises ValueError, with a message for users, for what is no image within limits.
        """
        ...

    async def close(self) -> None:
        """Free its processes."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """Key, limits and parameters of a remote generator.

    `concurrency` is calls at once, `per_minute` calls in any minute (0: any number), `images_per_call` images that one
    call asks for (0: as suits the API). A call may take `timeout_s` seconds, all images of a generation `deadline_s`;
    a call that fails is made at most `attempts` times, after `backoff_s` seconds that double. `calls_per_day` and
    `money_per_day` (0: any amount), at `price` an image, are those of this process in a day of UTC. `size` is the
    default size; None for the API's. `parameters` are added to every request. `decoder` decodes what comes.
    """

    api_key: str = field(default="", repr=False)
    concurrency: int = 4
    per_minute: int = 0
    images_per_call: int = 0
    timeout_s: float = 120.0
    deadline_s: float = 300.0
    attempts: int = 3
    backoff_s: float = 1.0
    calls_per_day: int = 10_000
    price: float = 0.0
    money_per_day: float = 0.0
    size: tuple[int, int] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    decoder: Callable[[], ImageDecoder] | None = None


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How models are loaded, besides their names and their device.

    `upscaler` is a model file, folder or hub id; empty for none. `upscaler_tile` is the longest side of one of its
    calls, in pixels. `controls` are folders or hub ids of ControlNets, by kind. `quantization` is of the generator's
    `quantized_parts`, of its denoiser and its text encoders if there are none. `gguf` is a file with the denoiser's
    weights. `compile` is of the denoiser's repeated blocks. `attention` is an attention backend of diffusers; empty for
    its default. `loras` is the folder of LoRA adapters. `scorers` names the scorers beside the main one, `referee` the
    one that never ranks; empty for none. `long_prompts` is what becomes of texts above the token limit. `endpoint`
    limits scorers behind chat endpoints, `remote` a remote generator.
    """

    upscaler: str = ""
    upscaler_tile: int = DEFAULT_TILE
    controls: Mapping[str, str] = field(default_factory=dict)
    dtype: NumberFormat = "auto"
    quantization: Quantization = ""
    quantized_parts: tuple[str, ...] = ()
    gguf: str = ""
    offload: Offload = "none"
    compile: bool = False
    attention: str = ""
    loras: LoraFolder | None = None
    scorers: tuple[str, ...] = ()
    referee: str = ""
    long_prompts: LongPrompts = "truncate"
    endpoint: EndpointLimits = EndpointLimits()
    remote: RemoteLimits = RemoteLimits()

    @property
    def changes_modules(self) -> bool:
        """Whether modules differ from plain ones: then no call is traced or split."""
        return bool(self.quantization or self.gguf or self.compile or self.attention or self.offload != "none")


DEFAULTS = LoadOptions()
"""Models as they are, without an upscaler and ControlNets."""


def parse_controls(text: str) -> dict[str, str]:
    """Folder or hub id by kind, from `kind=name` separated by commas.

    Raises ValueError.
    """
    found: dict[str, str] = {}
    for entry in filter(None, (each.strip() for each in text.split(","))):
        kind, _, name = (part.strip() for part in entry.partition("="))
        if not _CONTROL_KIND.fullmatch(kind) or not name or kind in found:
            raise ValueError("must be kind=folder or kind=hub id, separated by commas, each kind once")
        found[kind] = name
    return found
