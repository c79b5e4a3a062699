"""How much memory the uploads of callers may take: a budget of pixels for a request, and lanes.

A file of a few KB can hold tens of millions of pixels, so the bound on the body says nothing about them. The images of
a request are measured first, which decodes nothing. Requests with many pixels are then read one at a time, so that they
neither add up nor hold back requests with few.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.errors import FrontrunnerError, Overloaded, TooLarge
from app.imaging import DecoderPool, Upload

Pixels: TypeAlias = NDArray[np.uint8]

SMALL_PIXELS = 8_000_000
"""A request with more pixels than these is a large one. Also the most that are held before they are passed on."""

MAX_CONCURRENT_UPLOADS = 2
"""Small requests: one on the device while the next is decoded; more would only hold pixels and wait."""

MAX_WAITING_UPLOADS = 32
"""Beyond these, a request is told to come back."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An upload, and the JSON Pointer to where it came in the request."""

    upload: Upload
    pointer: str


class UploadLimiter:
    """The limits. `image_pixels` bounds one image, `total_pixels` all of one request. `pool` is closed by its owner."""

    def __init__(self, pool: DecoderPool, image_pixels: int, total_pixels: int) -> None:
        self._pool = pool
        self._image_pixels = image_pixels
        self._total_pixels = total_pixels
        self._small = asyncio.Semaphore(MAX_CONCURRENT_UPLOADS)
        self._large = asyncio.Semaphore(1)
        self._waiting = 0

    @asynccontextmanager
    async def reader(self, sent: Sequence[Sent]) -> AsyncIterator[AsyncIterator[list[Pixels]]]:
        """Inside, the images (H, W, 3) of a request in order, a few at a time: drop them before you take the next.

        Raises Overloaded when too many requests wait, and what is wrong with an image, pointing at it. Not to be
        entered by a request that is inside already.
        """
        if self._waiting >= MAX_WAITING_UPLOADS:
            raise Overloaded(f"{self._waiting} requests with uploads wait for their turn")
        self._waiting += 1
        try:
            sizes = await self._measured(sent)
            lane = self._small if sum(sizes) <= SMALL_PIXELS else self._large
            await lane.acquire()
        finally:
            self._waiting -= 1
        try:
            yield self._batches(sent, sizes)
        finally:
            lane.release()

    @asynccontextmanager
    async def read(self, sent: Sequence[Sent]) -> AsyncIterator[list[Pixels]]:
        """Inside, all images of a request together, where they are needed so."""
        async with self.reader(sent) as batches:
            yield [image async for batch in batches for image in batch]

    async def _measured(self, sent: Sequence[Sent]) -> list[int]:
        """Pixels of each image."""
        sizes: list[int] = []
        for one in sent:
            left = self._total_pixels - sum(sizes)
            try:
                width, height = await self._pool.measure(one.upload, min(self._image_pixels, left))
            except FrontrunnerError as error:
                error.pointer = one.pointer
                if type(error) is TooLarge and left < self._image_pixels:
                    error.detail = f"with this image there are more than the {self._total_pixels} pixels allowed"
                raise
            sizes.append(width * height)
        return sizes

    async def _batches(self, sent: Sequence[Sent], sizes: Sequence[int]) -> AsyncIterator[list[Pixels]]:
        held: list[Pixels] = []
        pixels = 0
        for one, size in zip(sent, sizes, strict=True):
            if held and pixels + size > SMALL_PIXELS:
                yield held
                held, pixels = [], 0
            try:
                held.append(await self._pool.decode(one.upload, size))
            except FrontrunnerError as error:
                error.pointer = one.pointer
                raise
            pixels += size
        if held:
            yield held
