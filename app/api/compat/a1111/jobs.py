"""Requests of the web UI's API in progress, by key, on all replicas."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request

from app.domain import Event, EventKind, Generation, Status
from app.service import GenerationService, ListQuery, current_owner

OPEN = tuple(status for status in Status if not status.is_final)

MAX_JOBS = 100
"""Maximum requests of one key whose progress is reported, the newest."""

MAX_OWNERS = 256
"""Keys whose requests on other replicas are followed, those that asked last."""


@dataclass(eq=False, slots=True)
class Job:
    """One request; `interrupted` says whether this replica cancelled its generation.

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

    @classmethod
    def of(cls, generation: Generation) -> Job:
        """The job of a generation that another replica serves."""
        return cls(generation.id, generation.spec.owner, generation.job or "txt2img", generation.created)

    def follow(self, generation: Generation) -> Job:
        """The job itself, with the generation's progress; what it read is kept."""
        self.step, self.steps = generation.progress.step or 0, generation.spec.steps_made
        self.share = generation.completed
        return self

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
        self._elsewhere: OrderedDict[str, dict[str, Job]] = OrderedDict()

    def of(self, owner: str) -> list[Job]:
        """The owner's jobs that have not ended."""
        return [job for job in self._jobs if job.owner == owner]

    def elsewhere(self, owner: str, generations: Sequence[Generation]) -> list[Job]:
        """Jobs of an owner's open generations on other replicas.

        Those of earlier calls continue.
        """
        known = self._elsewhere.pop(owner, {})
        jobs = {one.id: known.get(one.id, Job.of(one)).follow(one) for one in generations}
        if jobs:
            self._elsewhere[owner] = jobs
        while len(self._elsewhere) > MAX_OWNERS:
            self._elsewhere.popitem(last=False)
        return list(jobs.values())

    @contextmanager
    def running(self, job: Job) -> Iterator[Job]:
        """List the job for this block."""
        self._jobs.append(job)
        try:
            yield job
        finally:
            self._jobs.remove(job)


async def open_jobs(request: Request, service: GenerationService) -> list[Job]:
    """The caller's requests that have not ended, on any replica, oldest first."""
    jobs, owner = get_jobs(request), current_owner()
    own = {job.generation_id: job for job in jobs.of(owner)}
    found, _ = await service.find(ListQuery("", OPEN, jobs=True), None, MAX_JOBS)
    others = jobs.elsewhere(owner, [generation for generation in found if generation.id not in own])
    return sorted([*own.values(), *others], key=lambda job: job.created)


def get_jobs(request: Request) -> Jobs:
    """The app's jobs."""
    jobs: Jobs = request.app.state.a1111_jobs
    return jobs


def _order(preview: Mapping[str, Any]) -> tuple[int, float]:
    """Later rounds first, then better scores."""
    score = preview["score"]
    return int(preview["step"]), float("-inf") if score is None else float(score)
