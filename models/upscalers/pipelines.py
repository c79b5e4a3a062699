"""Diffusion upscalers of diffusers, from folders and hub ids.

Owns the padding to the sizes that they accept. They run their own loop, one image a call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.errors import ModelUnsupported
from models.protocols.upscaling import UpscalerInfo
from models.runtime.load_errors import check_complete, noted_gaps
from models.runtime.placement import DevicePlacement, fingerprint, memory_guard, quiet_libraries
from models.runtime.seeding import cpu_generator

FACTORS = {"StableDiffusionLatentUpscalePipeline": 2, "StableDiffusionUpscalePipeline": 4}
"""Factor of each pipeline class that is supported."""

_MULTIPLE = 64


class PipelineUpscaler:
    """A diffusion upscaler, see `models.protocols.upscaling.Upscaler`."""

    def __init__(self, source: Path | str, id: str, placement: DevicePlacement, tile: int) -> None:
        """Load a folder or hub id. `tile` is the longest side of one call, in pixels.

        Raises ModelUnsupported for another class of pipeline, and OSError or ValueError if there is none.
        """
        kind = str(diffusers.DiffusionPipeline.load_config(source).get("_class_name"))
        if kind not in FACTORS:
            raise ModelUnsupported(f"a {kind} is no upscaler; use one of {', '.join(FACTORS)}")
        with quiet_libraries(), noted_gaps() as gaps:
            pipe = getattr(diffusers, kind).from_pretrained(source, dtype=placement.dtype)
        check_complete(pipe.components, gaps)
        self._pipe = pipe.to(placement.device)
        self._pipe.set_progress_bar_config(disable=True)
        modules = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
        self._info = UpscalerInfo(
            id=id,
            revision=fingerprint(*modules),
            architecture=kind,
            factor=FACTORS[kind],
            tile=max(_MULTIPLE, tile - tile % _MULTIPLE),
            device=str(placement.device),
            dtype=placement.dtype_name,
        )

    @property
    def info(self) -> UpscalerInfo:
        """Name and limits; constant."""
        return self._info

    def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """One image (H, W, 3), enlarged, with noise of this seed. Raises `OutOfMemory`."""
        height, width = image.shape[:2]
        padding = ((0, -height % _MULTIPLE), (0, -width % _MULTIPLE), (0, 0))
        padded = Image.fromarray(np.pad(image, padding, mode="edge"))
        with memory_guard():
            made: Any = self._pipe(prompt=prompt, image=padded, generator=cpu_generator(seed))
        factor = self._info.factor
        return np.asarray(made.images[0].convert("RGB"), np.uint8)[: factor * height, : factor * width]
