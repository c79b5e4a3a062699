"""Enlarges images with the engine's upscaler, or by Lanczos filtering without one.

Owns passes, tiles and what is reported; the engine makes one tile a call, between two ticks.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import Generation, Notice
from app.engine.protocols import Engine
from app.errors import Draining, EngineDead, EngineFailed, TooLarge
from app.service.candidates.keys import file_size
from models.protocols.upscaling import UpscalerInfo

log = logging.getLogger(__name__)

LANCZOS = "lanczos"
"""Name of the filter that enlarges where no upscaler does."""

UPSCALED = "upscaled"
"""Code of the notice about enlarged images."""

MAX_PASSES = 2
"""Times that the upscaler may enlarge its own result."""

MAX_PIXELS = 2**26
"""Pixels of the largest image that an upscaler makes."""

MIN_TILE = 96
"""Longest side of the smallest tiles, in pixels."""


@dataclass(frozen=True, slots=True)
class Enlargement:
    """Who enlarged an image, by which factor; `reason` is why no upscaler did."""

    upscaler: str
    factor: float
    reason: str | None = None

    @property
    def header(self) -> str:
        """The value of the response header."""
        return f"{self.upscaler}; factor={self.factor:g}"


class ImageUpscaler:
    """See the module. Use in one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tile: int | None = None

    @property
    def info(self) -> UpscalerInfo | None:
        """The loaded upscaler, if any. Raises Loading."""
        return self._engine.upscaler

    def passes(self, image_size: tuple[int, int], scale: float) -> int:
        """How often the upscaler runs to enlarge `scale` times; 0 if it cannot."""
        info = self.info
        if info is None or scale <= 1:
            return 0
        wanted = min(MAX_PASSES, math.ceil(math.log(scale) / math.log(info.factor) - 1e-9))
        fits = (n for n in range(wanted, 0, -1) if math.prod(image_size) * info.factor ** (2 * n) <= MAX_PIXELS)
        return next(fits, 0)

    async def upscale(
        self, image: NDArray[np.uint8], scale: float, prompt: str, seed: int
    ) -> tuple[NDArray[np.uint8], Enlargement]:
        """The image (H, W, 3) after the upscaler's passes, and what to report.

        The result may be larger or smaller than `scale` times the image: resize it. Without an upscaler, or if it
        fails, it is the image itself, to be resized by Lanczos filtering.
        """
        lanczos = Enlargement(LANCZOS, round(scale, 4))
        try:
            info = self.info
            if info is None:
                return image, lanczos
            passes = self.passes((image.shape[1], image.shape[0]), scale)
            if passes == 0:
                return image, replace(lanczos, reason=f"the upscaler would exceed {MAX_PIXELS} pixels")
            enlarged = image
            with self._engine.hold():
                for _ in range(passes):
                    enlarged = await self._once(enlarged, info, prompt, seed)
        except (TooLarge, EngineFailed, Draining, EngineDead) as error:
            log.warning("the upscaler failed: %s", error)
            return image, replace(lanczos, reason=f"the upscaler failed: {error.detail}")
        return enlarged, Enlargement(info.id, info.factor**passes)

    async def _once(self, image: NDArray[np.uint8], info: UpscalerInfo, prompt: str, seed: int) -> NDArray[np.uint8]:
        """One pass, in smaller tiles if memory is full. Raises TooLarge."""
        longest = max(image.shape[:2])
        while True:
            side = min(longest, self._tile or info.tile or longest)
            try:
                return await self._in_tiles(image, side, info.factor, prompt, seed)
            except TooLarge:
                if side // 2 < MIN_TILE:
                    raise
                self._tile = side // 2

    async def _in_tiles(
        self, image: NDArray[np.uint8], side: int, factor: int, prompt: str, seed: int
    ) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if max(height, width) <= side:
            return await self._engine.upscale(image, prompt, seed)
        canvas = np.zeros((height * factor, width * factor, 3), np.uint8)
        for tile in imaging.cut_tiles(height, width, side):
            enlarged = await self._engine.upscale(np.ascontiguousarray(tile.of(image)), prompt, seed)
            await asyncio.to_thread(imaging.paste_tile, canvas, tile, enlarged, factor)
        return canvas


def file_scale(generation: Generation) -> float:
    """Factor from the sampled size to that of the files; above 1 they are enlarged."""
    width, height = file_size(generation)
    return max(width / generation.spec.width, height / generation.spec.height)


def upscaled_notice(generation: Generation, made: Enlargement, indices: Sequence[int]) -> Notice:
    """The warning that the images of candidates `indices` were enlarged, and how."""
    spec, (width, height) = generation.spec, file_size(generation)
    how = f"{spec.width}x{spec.height} to {width}x{height}"
    by = "Lanczos filtering" if made.upscaler == LANCZOS else f"the upscaler {made.upscaler!r} ({made.factor:g}x)"
    reason = f"; {made.reason}" if made.reason else ""
    data = {"upscaler": made.upscaler, "factor": made.factor, "reason": made.reason, "indices": list(indices)}
    return Notice(UPSCALED, f"the returned images were enlarged from {how} by {by}{reason}", data)


def file_enlargement(generation: Generation, index: int) -> Enlargement | None:
    """How a candidate's file was enlarged; None if it was not."""
    scale = file_scale(generation)
    if scale <= 1:
        return None
    told = next((notice.data for notice in generation.warnings if notice.code == UPSCALED), None)
    if told is None or index not in told["indices"]:
        return Enlargement(LANCZOS, round(scale, 4))
    return Enlargement(str(told["upscaler"]), float(told["factor"]), told.get("reason"))
