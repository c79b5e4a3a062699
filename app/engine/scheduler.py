"""Scheduler: chooses the rows of the next device call.

Owns the order of work, fairness and batch sizes; it knows rows, steps and measured seconds, never a tensor.
Fairness is deficit round robin (Shreedhar and Varghese 1995). Each generation earns credit per turn; a row costs
its denoiser entries. Callers (`spec.owner`) earn equal credit, independent of their number of generations.
Engine thread only.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import Any, TypeAlias

from app.engine.config import EngineConfig
from app.engine.cost_model import CallSeconds, Costs
from app.engine.pruning import checkpoints
from app.engine.state import Phase, Row, Run

Key: TypeAlias = tuple[Any, ...]
"""See `Run.key`."""

NEARLY = 1.03
"""Tolerance in seconds per row: the smallest bucket within it of the best is used."""

KNEE = 1.3
"""Limit for shared calls: seconds per row relative to the best bucket."""

SLOWDOWN = 2.5
"""Limit for shared calls: duration relative to the smallest generation alone."""

LONGEST_CALL_S = 5.0
"""Maximum seconds of a decoding call, so that cancels and results do not wait."""

SMALL_SHARE = 16
"""A small generation has at most `live_rows` / `SMALL_SHARE` candidates."""

SMALL_ROOM = 4
"""Small generations have additional room: this fraction (1/4) of `live_rows`."""

OVERHEAD_ROWS = 4.0
"""Assumed fixed cost of a call, in rows, until it is measured."""

RETRY_CALLS = 200
"""Successful calls after which larger ones are tried again.

The memory that was in use may be free again.
"""

QUANTUM = 2.0
"""Credit of a caller per round, in denoiser entries: the cost of one guided row."""


class Kind(StrEnum):
    """The four kinds of device work."""

    ENCODE = "encode"
    STEP = "step"
    PREVIEW = "preview"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Plan:
    """One device call. ENCODE takes `run`, the other kinds take `rows`.

    `size` is the padded batch size in rows.
    """

    kind: Kind
    rows: tuple[Row, ...] = ()
    run: Run | None = None
    size: int = 0

    @property
    def runs(self) -> list[Run]:
        """The generations of the call, each once."""
        return [self.run] if self.run is not None else list(dict.fromkeys(r.run for r in self.rows))


@dataclass(slots=True)
class _Ceiling:
    """The maximum rows of a call after one did not fit, and later successful calls."""

    rows: int
    calls: int = 0


class Scheduler:
    """The running generations and those that wait for room on the device."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._waiting: deque[Run] = deque()
        self._running: deque[Run] = deque()
        self._seconds: dict[int, float] = {b: OVERHEAD_ROWS + b for b in config.buckets}
        self._timed: dict[Kind, CallSeconds] = {}
        self._ceilings: dict[tuple[bool, Key], _Ceiling] = {}
        self._owed = False

    def learn(self, seconds: Mapping[int, float], **pixels: Mapping[int, float]) -> None:
        """Set timed seconds of a denoiser call by bucket.

        Missing buckets are estimated. `pixels` holds seconds of `preview` and `finish` calls by rows.
        """
        self._timed = {Kind(kind): CallSeconds(some) for kind, some in pixels.items()}
        self._timed[Kind.STEP] = CallSeconds(seconds)
        self._estimate()

    def note(self, kind: Kind, rows: int, seconds: float) -> bool:
        """Learn from a call made while serving; return False if its kind was never timed."""
        if kind not in self._timed:
            return False
        self._timed[kind].note(rows, seconds)
        self._estimate()
        return True

    def _estimate(self) -> None:
        self._seconds = {b: self._timed[Kind.STEP].estimate(b) for b in self._config.buckets}

    @property
    def costs(self) -> Costs:
        """Known costs of all calls; steps include estimates, untimed pixels are free."""
        free = CallSeconds({1: 0.0})
        preview, finish = (self._timed.get(kind, free).known for kind in (Kind.PREVIEW, Kind.FINISH))
        return Costs.of(self._seconds, preview, finish)

    def shrink(self, plan: Plan) -> bool:
        """Limit such calls after one ran out of memory; return whether that is possible.

        The limit applies to rows with the same key only.
        """
        if not plan.rows or plan.rows[0].run.spec.deterministic:
            return False
        stepping, key = plan.kind is Kind.STEP, plan.rows[0].run.key
        size = plan.size if stepping else len(plan.rows)
        self._ceilings[stepping, key] = _Ceiling(size - 1 if stepping else max(1, size // 2))
        return size > (self._config.buckets[0] if stepping else 1)

    def fitted(self, plan: Plan) -> None:
        """Count a call that fitted; after `RETRY_CALLS` its limit is removed."""
        place = (plan.kind is Kind.STEP, plan.rows[0].run.key) if plan.rows else None
        if place in self._ceilings:
            self._ceilings[place].calls += 1
            if self._ceilings[place].calls == RETRY_CALLS:
                del self._ceilings[place]

    def _ceiling(self, stepping: bool, key: Key) -> int:
        found = self._ceilings.get((stepping, key))
        return found.rows if found is not None else self._config.buckets[-1]

    @property
    def seconds(self) -> Mapping[int, float]:
        """Seconds of a denoiser call by bucket."""
        return dict(self._seconds)

    @property
    def runs(self) -> list[Run]:
        """All held generations, running ones first."""
        return [*self._running, *self._waiting]

    def add(self, run: Run) -> None:
        """Queue a generation."""
        self._waiting.append(run)

    def remove(self, run: Run) -> None:
        """Remove a generation and its rows."""
        for queue in (self._waiting, self._running):
            if run in queue:
                queue.remove(run)

    @property
    def live(self) -> int:
        """Number of candidates that occupy the device."""
        return sum(len(r.live()) for r in self._running)

    def plan(self) -> Plan | None:
        """Return the next device call, or None when there is no work."""
        self._admit()
        fresh = next((r for r in self._running if r.due), None)
        if fresh is not None:
            return Plan(Kind.ENCODE, run=fresh)
        owed = self._step() if self._owed else None
        self._owed = False
        if owed is not None:
            return owed
        pixels = self._pixels(Kind.FINISH, Phase.FINISH) or self._pixels(Kind.PREVIEW, Phase.PREVIEW)
        if pixels is None:
            return self._step()
        self._owed = self._keeps_waiting(pixels)
        return pixels

    def _keeps_waiting(self, pixels: Plan) -> bool:
        """Whether a generation smaller than all in the call can step.

        It steps before further decoding.
        """
        smallest = min(len(r.live()) for r in pixels.runs)
        return any(len(r.live()) < smallest and r.ready() for r in self._running)

    def _admit(self) -> None:
        """Start waiting generations while rows have room; a single one always starts.

        Small generations have separate room, so that small and large ones never wait for each other. The caller with
        the fewest candidates on the device comes first, then the order of arrival. An exclusive generation waits for
        earlier ones; later ones wait for it.
        """
        if self._waiting and self._waiting[0].alone and not self._running:
            self._running.append(self._waiting.popleft())
        if any(r.alone for r in self._running):
            return
        free = list(takewhile(lambda r: not r.alone, self._waiting))
        for small, room in ((False, self._config.live_rows), (True, self._config.live_rows // SMALL_ROOM)):
            waiting = [r for r in free if self._small(r) is small]
            live = sum(_held(r) for r in self._running if self._small(r) is small)
            while waiting:
                held = Counter({r.spec.owner: 0 for r in waiting})
                for run in self._running:
                    held[run.spec.owner] += _held(run)
                first = min(waiting, key=lambda r: held[r.spec.owner])
                if live and live + first.spec.n_candidates > room:
                    break
                waiting.remove(first)
                self._waiting.remove(first)
                self._running.append(first)
                live += first.spec.n_candidates

    def _small(self, run: Run) -> bool:
        return run.spec.n_candidates <= self._config.live_rows // SMALL_SHARE

    def _pixels(self, kind: Kind, phase: Phase) -> Plan | None:
        """Plan decoding and scoring of waiting rows with one key, from any generations.

        The call is made when it is full, or when one of its generations has no row left to step. Otherwise rows
        that reach a checkpoint one by one would each cost a call.
        """
        waiting = {run: [r for r in run.rows if r.phase is phase] for run in self._running}
        live = {run: len(run.live()) for run in self._running} if any(waiting.values()) else {}
        for run in (r for r, rows in waiting.items() if rows):
            peers = sorted((r for r in self._running if r.key == run.key), key=lambda r: live[r])
            fellows = [row for peer in peers for row in waiting[peer]]
            room = self._pixel_room(kind, run, fellows, live)
            if len(fellows) >= room or not run.ready():
                size = self._config.deterministic_rows if run.spec.deterministic else 0
                return Plan(kind, tuple(fellows[:room]), size=size)
        return None

    def _pixel_room(self, kind: Kind, run: Run, fellows: Sequence[Row], live: Mapping[Run, int]) -> int:
        """Return the maximum of `fellows` per call; less if a small generation waits.

        `fellows` holds rows of small generations first; `live` counts the live rows of each running generation.
        """
        spec = run.spec
        if spec.deterministic:
            return self._config.deterministic_rows
        room = min(self._config.decode_rows(spec.width, spec.height), self._ceiling(False, run.key))
        if kind not in self._timed:
            return room
        room = self._timed[kind].within(LONGEST_CALL_S, room)
        if len(self._running) == 1:
            return room
        small = min(live[r] for r in self._running if r.rows)
        bearable = self._timed[kind].within(SLOWDOWN * self._seconds[self.bucket(small)], room)
        return min(room, max(bearable, sum(live[r.run] == small for r in fellows)))

    def _step(self) -> Plan | None:
        """Plan one denoiser call for the next generation and all that can share it."""
        head = next((r for r in self._running if r.ready()), None)
        if head is None:
            return None
        peers = [r for r in self._running if r.key == head.key and r.ready()]
        self._running.rotate(-1)
        if head.spec.deterministic:
            fixed = self._config.deterministic_rows
            return Plan(Kind.STEP, tuple(_turn(peers, fixed)), size=fixed)
        share = self._share(peers)
        ceiling = self._ceiling(True, head.key)
        chosen = self.bucket(sum(min(share, len(r.ready())) for r in peers), ceiling)
        rows = _turn(peers, chosen)
        return Plan(Kind.STEP, tuple(rows), size=min(b for b in self._seconds if len(rows) <= b <= chosen))

    def _share(self, peers: Sequence[Run]) -> int:
        """Return the maximum rows of one generation in a call; less beside small ones."""
        if len(peers) == 1:
            return max(self._seconds)
        smallest = min(len(r.ready()) for r in peers)
        beside = (self._bearable(smallest) - smallest) // (len(peers) - 1)
        return max(smallest, min(self._knee() // len(peers), beside), 1)

    def _bearable(self, rows: int) -> int:
        """Return the largest bucket within `SLOWDOWN` of a call of only `rows` rows."""
        own = self._seconds[self.bucket(rows)]
        return max(b for b, s in self._seconds.items() if s <= SLOWDOWN * own)

    def _knee(self) -> int:
        """Return the smallest bucket whose seconds per row are within `KNEE` of the best."""
        best = min(s / b for b, s in self._seconds.items())
        return min(b for b, s in self._seconds.items() if s / b <= KNEE * best)

    def bucket(self, rows: int, ceiling: int | None = None) -> int:
        """Return the bucket with the fewest seconds per useful row, within `NEARLY`.

        It is at most `ceiling`, or the smallest bucket.
        """
        fitting = [b for b in self._seconds if ceiling is None or b <= ceiling] or [min(self._seconds)]
        cost = {b: self._seconds[b] / min(b, rows) for b in fitting}
        best = min(cost.values())
        return min(b for b, c in cost.items() if c <= NEARLY * best)


def _held(run: Run) -> int:
    """Return the candidates of a running generation that need the device."""
    return len(run.live()) if run.rows else run.spec.n_candidates


def _turn(peers: Sequence[Run], size: int) -> list[Row]:
    """Return up to `size` ready rows for one call by deficit round robin."""
    owners = Counter(r.spec.owner for r in peers)
    ready = {run: deque(run.ready()) for run in peers}
    rows: list[Row] = []
    while len(rows) < size and any(ready.values()):
        for run, queue in ready.items():
            run.deficit += QUANTUM / owners[run.spec.owner]
            while queue and run.deficit >= run.entries and len(rows) < size:
                rows.append(queue.popleft())
                run.deficit -= run.entries
            run.deficit = min(run.deficit, QUANTUM) if queue else 0.0
    return rows


def advance(rows: Iterable[Row]) -> None:
    """Count one step of each row and set its next phase."""
    for row in rows:
        row.step += 1
        spec = row.run.spec
        if row.step == spec.steps_made:
            row.phase = Phase.FINISH
        elif any(c.at == row.step for c in spec.checkpoints):
            row.phase = Phase.PREVIEW


def release(run: Run) -> list[Row]:
    """Prune once all live rows are at a checkpoint; return the dropped rows.

    The best by preview go on.
    Shadow generations drop no row: they mark the rows that pruning would have dropped.
    """
    live = run.live()
    if not live or any(r.phase is not Phase.PARKED for r in live):
        return []
    checkpoint = next(c for c in run.spec.checkpoints if c.at == live[0].step)
    racing = [r for r in live if not r.shadowed]
    going = set(checkpoints.keep([r.foretold[checkpoint.at] for r in racing], checkpoint))
    dropped = [r for place, r in enumerate(racing) if place not in going]
    for row in live:
        row.phase = Phase.STEP
    for row in dropped:
        if run.spec.shadow:
            row.shadowed = True
        else:
            row.phase, row.pruned_at = Phase.PRUNED, row.step
    return [] if run.spec.shadow else dropped
