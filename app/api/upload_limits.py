"""Memory limits of uploads: a pixel limit per request, and concurrency limits.

A file of a few KB can hold tens of millions of pixels, so the body limit does not bound them. The images of a request
are measured first, without decoding. Large requests are then decoded one at a time, separately from small ones. Their
memory therefore does not add up, and small requests do not wait for them.
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
"""Maximum pixels of a small request, and of one batch of several images."""

MAX_CONCURRENT_UPLOADS = 2
"""Small requests decoded at once: one is on the device while the next is decoded."""

MAX_WAITING_UPLOADS = 32
"""Maximum requests that wait; further ones get a 503 with `Retry-After`."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An upload and the JSON Pointer to it in the request."""

    upload: Upload
    pointer: str


class UploadLimiter:
    """Limits of uploads: `image_pixels` for one image, `total_pixels` for a request.

    `pool` is closed by its owner.
    """

    def __init__(self, pool: DecoderPool, image_pixels: int, total_pixels: int) -> None:
        self._pool = pool
        self._image_pixels = image_pixels
        self.total_pixels = total_pixels
        self._small = asyncio.Semaphore(MAX_CONCURRENT_UPLOADS)
        self._large = asyncio.Semaphore(1)
        self._waiting = 0

    @asynccontextmanager
    async def reader(
        self, sent: Sequence[Sent], skipped: dict[int, FrontrunnerError] | None = None
    ) -> AsyncIterator[AsyncIterator[list[Pixels]]]:
        """Yield the images (H, W, 3) of a request in order, in batches.

        Release a batch before you take the next one. A request must not enter twice. With `skipped`, an invalid image
        is omitted and its error stored there by index. Raises Overloaded when too many requests wait, and the error
        of an invalid image with a pointer to it.
        """
        if self._waiting >= MAX_WAITING_UPLOADS:
            raise Overloaded(
                f"{self._waiting} requests with uploads are waiting: retry after the interval in `Retry-After`"
            )
        self._waiting += 1
        try:
            sizes = await self._measured(sent, skipped)
            semaphore = self._small if sum(sizes) <= SMALL_PIXELS else self._large
            await semaphore.acquire()
        finally:
            self._waiting -= 1
        try:
            yield self._batches(sent, sizes, skipped)
        finally:
            semaphore.release()

    @asynccontextmanager
    async def read(self, sent: Sequence[Sent]) -> AsyncIterator[list[Pixels]]:
        """Yield all images (H, W, 3) of a request at once. Raises as `reader`."""
        async with self.reader(sent) as batches:
            yield [image async for batch in batches for image in batch]

    async def decode_again(self, sent: Sent) -> Pixels:
        """One image (H, W, 3) of a request whose `reader` is open. Raises as `reader`."""
        return await self._pool.decode(sent.upload, self._image_pixels)

    async def texts(self, sent: Sent) -> dict[str, str]:
        """Texts in the metadata of one image, by name. Raises as `reader`."""
        async with self._small:
            try:
                return await self._pool.texts(sent.upload, self._image_pixels)
            except FrontrunnerError as error:
                error.pointer = sent.pointer
                raise

    async def _measured(self, sent: Sequence[Sent], skipped: dict[int, FrontrunnerError] | None) -> list[int]:
        """Pixels of each image; 0 for one that is skipped."""
        sizes: list[int] = []
        for index, item in enumerate(sent):
            remaining = self.total_pixels - sum(sizes)
            try:
                width, height = await self._pool.measure(item.upload, min(self._image_pixels, remaining))
            except FrontrunnerError as error:
                error.pointer = item.pointer
                if type(error) is TooLarge and remaining < self._image_pixels:
                    error.detail = f"the images exceed {self.total_pixels} pixels in total: send fewer or smaller ones"
                _skip(index, error, skipped)
                width = height = 0
            sizes.append(width * height)
        return sizes

    async def _batches(
        self, sent: Sequence[Sent], sizes: Sequence[int], skipped: dict[int, FrontrunnerError] | None
    ) -> AsyncIterator[list[Pixels]]:
        batch: list[Pixels] = []
        pixels = 0
        for index, (item, size) in enumerate(zip(sent, sizes, strict=True)):
            if skipped and index in skipped:
                continue
            if batch and pixels + size > SMALL_PIXELS:
                yield batch
                batch, pixels = [], 0
            try:
                batch.append(await self._pool.decode(item.upload, size))
                pixels += size
            except FrontrunnerError as error:
                error.pointer = item.pointer
                _skip(index, error, skipped)
        if batch:
            yield batch


def _skip(index: int, error: FrontrunnerError, skipped: dict[int, FrontrunnerError] | None) -> None:
    """Store an error of the image itself if images may be skipped; else raise it."""
    if skipped is None or error.status >= 500:
        raise error
    skipped[index] = error
