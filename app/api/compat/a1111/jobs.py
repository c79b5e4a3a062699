"""Requests of the web UI's API in progress, by key.

A process knows its own requests only. Behind a balancer, send the requests of one client to one replica.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request

from app.domain import Event, EventKind


@dataclass(eq=False, slots=True)
class Job:
    """One request; `interrupted` says how its generation was cancelled.

    `read` updates it from the generation's log: `share` of the work, 0 to 1, and the best `preview` of the last round.
    """

    generation_id: str
    owner: str
    kind: Literal["txt2img", "img2img"]
    created: float = field(default_factory=time.time)
    interrupted: bool = False
    seq: int = 0
    step: int = 0
    steps: int = 0
    share: float = 0.0
    preview: Mapping[str, Any] | None = None

    def read(self, event: Event) -> None:
        """Take an event of the log into account."""
        self.seq = event.seq
        self.share = float(event.data.get("progress", self.share))
        if event.kind is EventKind.STEP:
            self.step, self.steps = int(event.data["step"]), int(event.data["steps"])
        elif event.kind is EventKind.PREVIEW and event.data["image"] is not None:
            self.preview = max(self.preview or event.data, event.data, key=_order)


class Jobs:
    """Jobs by owner, oldest first. Use in one event loop."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def of(self, owner: str) -> list[Job]:
        """The owner's jobs that have not ended."""
        return [job for job in self._jobs if job.owner == owner]

    @contextmanager
    def running(self, job: Job) -> Iterator[Job]:
        """List the job for this block."""
        self._jobs.append(job)
        try:
            yield job
        finally:
            self._jobs.remove(job)


def get_jobs(request: Request) -> Jobs:
    """The app's jobs."""
    jobs: Jobs = request.app.state.a1111_jobs
    return jobs


def _order(preview: Mapping[str, Any]) -> tuple[int, float]:
    """Later rounds first, then better scores."""
    score = preview["score"]
    return int(preview["step"]), float("-inf") if score is None else float(score)
