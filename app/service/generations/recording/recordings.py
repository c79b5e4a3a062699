"""The generations of one model that this process records, and how they ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from app.domain import Generation, Status
from app.errors import StoreUnavailable
from app.service.generations.recorder import GenerationRecorder
from app.service.generations.recording.supervisor import Supervisor
from app.stores.protocols import GenerationStore

log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 5.0
"""Seconds to wait for the device to drop a cancelled generation."""


class Recordings:
    """See the module; oldest first.

    `cancel` drops a generation from the device; `on_end` is called when one ended here, or was taken over.
    """

    def __init__(
        self,
        records: GenerationStore,
        lease_s: float,
        cancel: Callable[[str], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._cancel = cancel
        self._on_end = on_end
        self._recordings: dict[str, tuple[GenerationRecorder, asyncio.Task[None]]] = {}
        self._supervisor = Supervisor(records, lease_s, self.recorders)
        self._outcomes: dict[str, int] = {}
        self._pruning_regrets = (0, 0.0)

    def __contains__(self, generation_id: str) -> bool:
        return generation_id in self._recordings

    def __len__(self) -> int:
        return len(self._recordings)

    def __iter__(self) -> Iterator[Generation]:
        return (recorder.generation for recorder, _ in self._recordings.values())

    def recorders(self) -> Mapping[str, GenerationRecorder]:
        """The recorders by generation."""
        return {name: recorder for name, (recorder, _) in self._recordings.items()}

    def outcomes(self) -> Mapping[str, int]:
        """Generations this process ended, by status."""
        return dict(self._outcomes)

    def count_outcome(self, generation_id: str, status: Status) -> None:
        """Count a generation that this process ended."""
        log.info("generation ended", extra={"generation": generation_id, "status": str(status)})
        self._outcomes[str(status)] = self._outcomes.get(str(status), 0) + 1

    def pruning_regrets(self) -> tuple[int, float]:
        """Number of shadow generations, and the sum of their lost gain shares."""
        return self._pruning_regrets

    def record(self, recorder: GenerationRecorder) -> None:
        """Record a generation that engine and store have accepted."""
        name = recorder.generation.id
        task = asyncio.create_task(recorder.run(), name=f"follow {name}")
        self._recordings[name] = recorder, task
        task.add_done_callback(partial(self._recording_done, name))
        self._supervisor.start()

    def recorder_for(self, generation_id: str) -> GenerationRecorder | None:
        """The generation's recorder, while this process holds its claim."""
        recorder, _ = self._recordings.get(generation_id, (None, None))
        return None if recorder is None or recorder.claim_lost else recorder

    async def wait_ended(self, generation_id: str, timeout_s: float | None = None) -> Generation | None:
        """The final generation if it ends here, else None.

        Raises StoreUnavailable while it is not stored, see `check_stored`.
        """
        if generation_id not in self._recordings:
            return None
        recorder, task = self._recordings[generation_id]
        stuck = asyncio.create_task(recorder.stuck.wait())
        try:
            await asyncio.wait([task, stuck], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stuck.cancel()
        if not task.done():
            self.check_stored(generation_id)
        if recorder.claim_lost or not task.done():
            return None
        task.result()
        return recorder.generation

    def check_stored(self, generation_id: str) -> None:
        """Raises StoreUnavailable while storing the result fails and is retried."""
        recorder = self.recorder_for(generation_id)
        if recorder is not None and recorder.stuck.is_set():
            raise StoreUnavailable(
                "the result is not stored yet; storing is retried for some minutes: request it again later"
            )

    async def cancel(self, generation_id: str) -> Generation | None:
        """Cancel it if claimed here; returns the final generation."""
        if self.recorder_for(generation_id) is None:
            return None
        self._cancel(generation_id)
        with suppress(StoreUnavailable):
            return await self.wait_ended(generation_id, CANCEL_TIMEOUT_S)
        return None

    async def release_claims(self) -> None:
        """Release unfinished generations to other processes at once."""
        await asyncio.gather(*(recorder.release_claim() for recorder, _ in self._recordings.values()))

    async def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for recorders; leave the rest to other processes."""
        tasks = [task for _, task in self._recordings.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
        self._supervisor.stop()

    def _recording_done(self, generation_id: str, task: asyncio.Task[None]) -> None:
        """A recorder ended: stored, taken over by another process, or failed."""
        recorder, _ = self._recordings.pop(generation_id)
        if task.cancelled() or recorder.claim_lost:
            status = None
        elif task.exception() is not None:
            log.error("recording a generation failed", exc_info=task.exception())
            status = None
        else:
            status = recorder.generation.status
        if status is not None:
            self.count_outcome(generation_id, status)
            if recorder.regret is not None:
                count, total = self._pruning_regrets
                self._pruning_regrets = count + 1, total + recorder.regret
        self._on_end(generation_id)
