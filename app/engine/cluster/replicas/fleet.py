"""Workers that join and leave by themselves: the replicas of an application.

Owns who may take part. Ray starts replicas, also again after a loss; `dispatcher` gives them work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from app import __version__
from app.engine.cluster.crew import Crew
from app.engine.cluster.replicas.link import LinkState
from app.engine.cluster.replicas.worker import OtherVersion, ReplicaWorker, Requests
from app.engine.cluster.slots import Slot
from app.engine.cluster.workers import WorkerLeft, WorkerLost
from app.errors import EngineDead, EngineFailed, FrontrunnerError

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""Seconds between looks at what the workers lack."""

AGAIN_S = 1.0
"""Seconds after which a worker that was lost and still runs may join again."""

RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before a worker is asked again, by the failed questions before."""

ASK_S = 30.0
"""Seconds that a worker has to say what it holds."""

AWAY_S = 15.0
"""Seconds without a cluster after which running generations are given up."""

CONNECT_S = 120.0
"""Seconds that a start waits for the cluster and the application."""

STARTING_S = 900.0
"""The same for a cluster that is there, and has no worker."""

USABLE_S = 60.0
"""Maximum seconds that a one-off call waits for a worker."""

FAILED = {"DEPLOY_FAILED", "DELETED"}
"""States of an application that waiting does not change."""


class Replicas(Requests, Protocol):
    """The way to the replicas; see `link.Link`."""

    application: str
    state: LinkState
    on_replicas: Callable[[frozenset[str]], None]

    def start(self) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """How often a worker did not say what it holds, and why it did not the last time."""

    times: int
    why: str


class JoiningFleet(Crew):
    """Replicas of one application, in order of their arrival.

    `info` is that of the first one; any with other models or of another version is refused while it runs. One that
    cannot say what it holds, because of a timeout for example, is asked again. `on_away` receives an error
    for running generations when there is no worker for long. `on_death` is called once: when the application cannot be
    used at first, or when it holds other models now.
    """

    def __init__(
        self,
        link: Replicas,
        max_attempts: int,
        on_away: Callable[[FrontrunnerError], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        super().__init__([], max_attempts)
        self._link = link
        self._on_away = on_away
        self._on_death = on_death
        self._joining: set[str] = set()
        self._running: frozenset[str] = frozenset()
        self._not_before: dict[str, float] = {}
        self._unanswered: dict[str, _Unanswered] = {}
        self._woken = False
        self._dead = False
        self._since = monotonic()
        link.on_replicas = self._update

    @property
    def part(self) -> str:
        """See `Crew`."""
        if self.info is not None:
            return "ready"
        state = self._link.state
        if not state.connected:
            return state.problem
        problem = next((f"a worker does not say what it holds: {one.why}" for one in self._unanswered.values()), "")
        return f"application {self._link.application}: {state.problem or problem or 'waiting for its first worker'}"

    @property
    def usable(self) -> bool:
        """See `Crew`: also without a worker, if the cluster can start one."""
        return super().usable or (self._link.state.connected and self._link.state.application not in FAILED)

    def start(self) -> None:
        """See `Crew`."""
        self.dispatcher.start()
        self._link.start()
        self._spawn(self._look_repeatedly())

    async def close(self) -> None:
        """See `Crew`."""
        await super().close()
        await self._link.close()

    async def wait_usable(self) -> None:
        """See `Crew`."""
        end = monotonic() + USABLE_S
        while not self.dispatcher.alive and self.usable and monotonic() < end:
            self._wake()
            await asyncio.sleep(LOOK_S)

    def lose(self, slot: Slot, reason: BaseException) -> None:
        """See `Crew`."""
        if slot not in self.slots or self._closed:
            return
        if isinstance(reason, WorkerLeft):
            self._leave(slot)
            return
        log.error("a worker was lost: %s", reason, extra={"worker": slot.worker.name})
        self.dispatcher.lose(slot, blameless=not self._link.state.connected)
        self._remove(slot)

    # who is there

    def _update(self, running: frozenset[str]) -> None:
        """Take in which replicas run now."""
        self._running, self._woken = running, False
        self.refused = {name: reason for name, reason in self.refused.items() if name in running}
        self._not_before = {name: when for name, when in self._not_before.items() if name in running}
        self._unanswered = {name: one for name, one in self._unanswered.items() if name in running}
        self._join_new()
        for slot in list(self.slots):
            if slot.worker.name not in running:
                self._leave(slot)
        self._check_replaced()

    def _join_new(self) -> None:
        """Let replicas join that run and do not take part, also after a loss."""
        later = {name for name, when in self._not_before.items() if monotonic() < when}
        known = self._joining | self.refused.keys() | later | {slot.worker.name for slot in self.slots}
        for name in self._running - known:
            self._joining.add(name)
            self._spawn(self._join(name))

    async def _join(self, name: str) -> None:
        worker = ReplicaWorker(name, self._link)
        try:
            async with asyncio.timeout(ASK_S):
                await worker.start(lambda _: None)
            reason = self._refusal(worker)
        except WorkerLost as error:
            log.debug("a worker left before it joined: %s", error, extra={"worker": name})
            self._note_left(name)
            return
        except OtherVersion as error:
            reason = str(error)
        except Exception as error:
            self._ask_later(name, error)
            return
        finally:
            self._joining.discard(name)
        if self._closed or name not in self._running:
            return
        if reason is not None:
            self.refused[name] = reason
            log.error("a worker was refused: %s", reason, extra={"worker": name})
            self._check_replaced()
            return
        self._unanswered.pop(name, None)
        self.slots.append(Slot(worker, alive=True))
        self.info = self.info or worker.info
        self._compare_speeds()
        log.info("a worker has joined", extra={"worker": name, "workers": len(self.dispatcher.alive)})
        self.dispatcher.pump()

    def _ask_later(self, name: str, error: Exception) -> None:
        """Note that a worker did not say what it holds; it may join later."""
        if name not in self._running:
            return
        why = error.detail if isinstance(error, FrontrunnerError) else type(error).__name__
        times = self._unanswered[name].times if name in self._unanswered else 0
        self._unanswered[name] = _Unanswered(times + 1, why)
        self._not_before[name] = monotonic() + RETRY_S[min(times, len(RETRY_S) - 1)]
        log.warning("a worker did not say what it holds: %s", why, extra={"worker": name})

    def _refusal(self, worker: ReplicaWorker) -> str | None:
        """Why a worker may not take part, or None."""
        if worker.about.version != __version__:
            return f"it runs Frontrunner {worker.about.version} and this front {__version__}: run one version"
        if self.info is not None and worker.info.revisions != self.info.revisions:
            return "it holds other models than those of this front: restart the front to use them"
        return None

    def _leave(self, slot: Slot) -> None:
        """Give no more work to a replica that is asked to stop; what it runs may end."""
        slot.alive = False
        if not slot.attempts:
            self._remove(slot)

    def _remove(self, slot: Slot) -> None:
        if slot in self.slots:
            self.slots.remove(slot)
            self.past = self.past.after(slot.worker.stats())
            self._note_left(slot.worker.name)
        if self.dispatcher.alive:
            self._compare_speeds()
        self.dispatcher.pump()

    def _note_left(self, name: str) -> None:
        if name in self._running:
            self._not_before[name] = monotonic() + AGAIN_S

    def _check_replaced(self) -> None:
        """End the process when only workers with other models are there.

        The facts of a model do not change while it runs.
        """
        if self.refused and not self.slots and self._running <= self.refused.keys():
            reasons = "; ".join(sorted(set(self.refused.values())))
            self._die(EngineFailed(f"no worker of application {self._link.application} fits: {reasons}"))

    # what is lacking

    async def _look_repeatedly(self) -> None:
        while not self._dead:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        for slot in [s for s in self.slots if not s.alive and not s.attempts]:
            self._remove(slot)
        self._join_new()
        self._check_replaced()
        now, state = monotonic(), self._link.state
        wanted = self.info is None or self.dispatcher.waits
        if self.dispatcher.alive or not wanted:
            self._since = now
            return
        self._wake()
        if self.info is None:
            if state.application in FAILED or (not state.connected and now - self._since > CONNECT_S):
                why = f"application {self._link.application} cannot be used: {state.problem or state.application}"
                self._die(EngineFailed(f"{why}; see `frontrunner cluster status`"))
        elif now - self._since > (STARTING_S if self.usable else AWAY_S):
            self._since = now
            self._on_away(EngineDead("the cluster has no worker for this model now: retry later"))

    def _wake(self) -> None:
        """Ask for any replica, once, so that Serve starts one."""
        if not self._woken and self._link.state.connected:
            self._woken = True
            self._link.tell("", "describe", b"")

    def _die(self, reason: BaseException) -> None:
        if not self._dead and not self._closed:
            self._dead = True
            self._on_death(reason)
