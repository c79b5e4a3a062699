"""The safety classifier is called by one thread at a time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np

from app.service.candidates.safety import SafetyChecker, SafetySettings
from models.guards.safety.synthetic import FakeClassifier


class Slow(FakeClassifier):
    """Waits in the first call until it may go on, and counts calls at once."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.running = self.most = 0

    def classify(self, images: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        first = not self.begun.is_set()
        self.begun.set()
        if first:
            self.go_on.wait(20)
        found = super().classify(images)
        self.running -= 1
        return found


def test_a_cancelled_call_is_not_overtaken_in_the_classifier() -> None:
    slow, image = Slow(), np.zeros((4, 4, 3), np.uint8)

    async def run() -> int:
        checker = SafetyChecker(SafetySettings("slow", lambda: slow))
        gone = asyncio.create_task(checker.classify([image]))
        await asyncio.to_thread(slow.begun.wait, 20)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        next_one = asyncio.create_task(checker.classify([image]))
        done, _ = await asyncio.wait([next_one], timeout=0.1)
        assert not done
        slow.go_on.set()
        return len(await next_one)

    assert asyncio.run(run()) == 1
    assert slow.most == 1
