"""Calls of remote scorers wait apart from other work."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.members import calls
from models.protocols import Pixels, ScoringInfo, to_host

pytestmark = pytest.mark.anyio

WAITING = 40
"""More calls than asyncio has threads for everything else."""


class SlowEndpoint:
    """Answers when it is released."""

    info = ScoringInfo("vlm:slow", "1", "remote", remote=True)

    def __init__(self) -> None:
        self.released = threading.Event()

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        self.released.wait(30)
        return np.arange(len(to_host(images)), dtype=np.float32)


async def on_device(call: object) -> None:
    raise AssertionError("a remote scorer never runs on the device")


async def test_calls_that_wait_for_an_endpoint_leave_the_threads_of_other_work_free() -> None:
    endpoint, image = SlowEndpoint(), np.zeros((8, 8, 3), np.uint8)
    waiting = [
        asyncio.ensure_future(calls.score_images(on_device, endpoint, [image, image], "red")) for _ in range(WAITING)
    ]
    try:
        await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "read a file"), 20) == "read a file"
    finally:
        endpoint.released.set()
    for found in await asyncio.gather(*waiting):
        np.testing.assert_array_equal(found, [0, 1])
