"""Work on images that may run in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SMALL_PIXELS = 2**14
"""Maximum pixels of work that takes no longer than a thread costs.

Four images of 64 x 64 pixels.
"""


async def run_in_thread(pixels: int, work: Callable[[], T]) -> T:
    """The result of `work`, which takes time by `pixels`.

    Small work runs at once.
    """
    return work() if pixels <= SMALL_PIXELS else await asyncio.to_thread(work)
