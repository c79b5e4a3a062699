"""How much memory the uploads of callers may take: a budget of pixels for a request, and turns.

A file of a few KB can hold tens of millions of pixels, so the bound on the body says nothing about them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.errors import FrontrunnerError, Overloaded, TooLarge

Read: TypeAlias = Callable[[int], NDArray[np.uint8]]
"""Gives the pixels (H, W, 3) of an upload, or raises TooLarge when there are more than so many."""

UPLOADERS_AT_ONCE = 2
"""One on the device while the next is decoded; more would only hold pixels and wait."""

UPLOADERS_WAITING = 32
"""Beyond these, who comes is told to come back."""


class Uploads:
    """The limits. `image_pixels` bounds one image, `total_pixels` all that one `reading` reads."""

    def __init__(self, image_pixels: int, total_pixels: int) -> None:
        self._image_pixels = image_pixels
        self._total_pixels = total_pixels
        self._turns = asyncio.Semaphore(UPLOADERS_AT_ONCE)
        self._waiting = 0

    def reading(self) -> Reading:
        """For the images of one request."""
        return Reading(self._image_pixels, self._total_pixels)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Inside, images may be decoded and held. Raises Overloaded when too many wait for that."""
        if self._waiting >= UPLOADERS_WAITING:
            raise Overloaded(f"{self._waiting} requests with uploads wait for their turn")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()


class Reading:
    """Reads images one after the other in a worker thread, until the pixels of a request are used up."""

    def __init__(self, image_pixels: int, total_pixels: int) -> None:
        self._image_pixels = image_pixels
        self._total_pixels = self._left = total_pixels

    async def __call__(self, read: Read, pointer: str) -> NDArray[np.uint8]:
        """The image's pixels. Raises what `read` raises, pointing at it."""
        try:
            pixels = await asyncio.to_thread(read, min(self._image_pixels, self._left))
        except FrontrunnerError as error:
            error.pointer = pointer
            if isinstance(error, TooLarge) and self._left < self._image_pixels:
                error.detail = f"with this image there are more than the {self._total_pixels} pixels allowed together"
            raise
        self._left -= pixels.shape[0] * pixels.shape[1]
        return pixels
