"""Scheduler: chooses the rows of the next device call.

Owns the order of work, fairness and batch sizes; it knows rows, steps and measured seconds, never a tensor.
Fairness is deficit round robin (Shreedhar and Varghese 1995). Each generation earns credit per turn; a row costs
its denoiser entries. Callers (`spec.owner`) earn equal credit, independent of their number of generations.
Engine thread only.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import takewhile
from typing import Any, TypeAlias

from app.engine.config import EngineConfig
from app.engine.cost_model import CallSeconds, CostModel, at_most
from app.engine.state import ActiveGeneration, Phase, Row

BatchKey: TypeAlias = tuple[Any, ...]
"""See `ActiveGeneration.batch_key`."""

Peers: TypeAlias = Mapping[ActiveGeneration, Sequence[Row]]
"""Generations that can share a call, with the rows that can step."""

BUCKET_TOLERANCE = 1.03
"""Tolerance in seconds per row: the smallest bucket within it of the best is used."""

KNEE_TOLERANCE = 1.3
"""Limit for shared calls: seconds per row relative to the best bucket."""

MAX_SLOWDOWN = 2.5
"""Limit for shared calls: duration relative to the smallest generation alone."""

LONGEST_CALL_S = 5.0
"""Maximum seconds of a decoding call, so that cancels and results do not wait."""

SMALL_SHARE = 16
"""A small generation has at most `live_rows` / `SMALL_SHARE` candidates."""

SMALL_ROOM_SHARE = 4
"""Small generations have additional room: this fraction (1/4) of `live_rows`."""

OVERHEAD_ROWS = 4.0
"""Assumed fixed cost of a call, in rows, until it is measured."""

CEILING_RETRY_CALLS = 200
"""Successful calls after which larger ones are tried again.

The memory that was in use may be free again.
"""

DRR_QUANTUM = 2.0
"""Credit of a caller per round, in denoiser entries: the cost of one guided row."""


class CallKind(StrEnum):
    """The kinds of device work."""

    ENCODE = "encode"
    STEP = "step"
    STEER = "steer"
    PREVIEW = "preview"
    FINISH = "finish"


@dataclass(frozen=True)
class CallPlan:
    """One device call. ENCODE takes `generation`, the other kinds take `rows`.

    `size` is the padded batch size in rows.
    """

    kind: CallKind
    rows: tuple[Row, ...] = ()
    generation: ActiveGeneration | None = None
    size: int = 0

    @cached_property
    def row_counts(self) -> Mapping[ActiveGeneration, int]:
        """The rows of each generation in the call."""
        return Counter([r.generation for r in self.rows])

    @property
    def generations(self) -> list[ActiveGeneration]:
        """The generations of the call, each once."""
        return [self.generation] if self.generation is not None else list(self.row_counts)


_PIXEL_PHASES = {CallKind.FINISH: Phase.FINISH, CallKind.STEER: Phase.STEER, CallKind.PREVIEW: Phase.PREVIEW}


def _memory_kind(kind: CallKind) -> CallKind:
    """The kind whose limit of rows applies; previews need as much memory as finishes."""
    return CallKind.FINISH if kind is CallKind.PREVIEW else kind


@dataclass(slots=True)
class _Ceiling:
    """The maximum rows of a call after one did not fit, and later successful calls."""

    rows: int
    calls: int = 0


class Scheduler:
    """The running generations and those that wait for room on the device."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._waiting: deque[ActiveGeneration] = deque()
        self._running: deque[ActiveGeneration] = deque()
        self._seconds: dict[int, float] = {b: OVERHEAD_ROWS + b for b in config.buckets}
        self._timed: dict[CallKind, CallSeconds] = {}
        self._ceilings: dict[tuple[CallKind, BatchKey], _Ceiling] = {}
        self._step_owed = False

    def set_costs(self, seconds: Mapping[int, float], **pixels: Mapping[int, float]) -> None:
        """Set timed seconds of a denoiser call by bucket.

        Missing buckets are estimated. `pixels` holds seconds of `preview` and `finish` calls by rows.
        """
        self._timed = {CallKind(kind): CallSeconds(some) for kind, some in pixels.items()}
        self._timed[CallKind.STEP] = CallSeconds(seconds)
        self._estimate()

    def note(self, kind: CallKind, rows: int, seconds: float) -> bool:
        """Learn from a call made while serving; return whether the costs changed.

        They do not if its kind was never timed. Only steering is not timed when the service starts.
        """
        if kind is CallKind.STEER and self._timed:
            self._timed.setdefault(kind, CallSeconds({}))
        if kind not in self._timed:
            return False
        if not self._timed[kind].note(rows, seconds):
            return False
        self._estimate()
        return True

    def _estimate(self) -> None:
        self._seconds = {b: self._timed[CallKind.STEP].estimate(b) for b in self._config.buckets}

    @property
    def costs(self) -> CostModel:
        """Known costs of all calls.

        Steps include estimates, untimed pixels are free, previews cost at most finishes.
        """
        free = CallSeconds({1: 0.0})
        preview, finish = (self._timed.get(kind, free).known for kind in (CallKind.PREVIEW, CallKind.FINISH))
        return CostModel.from_measurements(self._seconds, at_most(preview, finish), finish, self._known(CallKind.STEER))

    def _known(self, kind: CallKind) -> Mapping[int, float]:
        return self._timed[kind].known if kind in self._timed else {}

    def lower_ceiling(self, plan: CallPlan) -> bool:
        """Limit such calls after one ran out of memory; return whether that is possible.

        The limit applies to rows with the same key only.
        """
        if not plan.rows or plan.rows[0].generation.spec.deterministic:
            return False
        stepping = plan.kind is CallKind.STEP
        size = plan.size if stepping else len(plan.rows)
        self._ceilings[_place(plan)] = _Ceiling(size - 1 if stepping else max(1, size // 2))
        return size > (self._config.buckets[0] if stepping else 1)

    def record_fit(self, plan: CallPlan) -> None:
        """Count a call that fitted; after `CEILING_RETRY_CALLS` its limit is removed."""
        place = _place(plan) if plan.rows and self._ceilings else None
        if place in self._ceilings:
            self._ceilings[place].calls += 1
            if self._ceilings[place].calls == CEILING_RETRY_CALLS:
                del self._ceilings[place]

    def _ceiling(self, kind: CallKind, key: BatchKey) -> int:
        found = self._ceilings.get((_memory_kind(kind), key))
        return found.rows if found is not None else self._config.buckets[-1]

    @property
    def seconds(self) -> Mapping[int, float]:
        """Seconds of a denoiser call by bucket."""
        return dict(self._seconds)

    @property
    def generations(self) -> list[ActiveGeneration]:
        """All held generations, running ones first."""
        return [*self._running, *self._waiting]

    @property
    def is_empty(self) -> bool:
        """Whether it holds no generation."""
        return not (self._running or self._waiting)

    def add(self, run: ActiveGeneration) -> None:
        """Queue a generation."""
        self._waiting.append(run)

    def remove(self, run: ActiveGeneration) -> None:
        """Remove a generation and its rows."""
        for queue in (self._waiting, self._running):
            if run in queue:
                queue.remove(run)

    @property
    def live_rows(self) -> int:
        """Number of candidates that occupy the device."""
        return sum(len(r.live_rows()) for r in self._running)

    def plan(self) -> CallPlan | None:
        """Return the next device call, or None when there is no work."""
        self._admit()
        fresh = next((r for r in self._running if r.needs_rows), None)
        if fresh is not None:
            return CallPlan(CallKind.ENCODE, generation=fresh)
        owed = self._step() if self._step_owed else None
        self._step_owed = False
        if owed is not None:
            return owed
        pixels = self._pixels()
        if pixels is None:
            return self._step()
        self._step_owed = self._delays_smaller(pixels)
        return pixels

    def _delays_smaller(self, pixels: CallPlan) -> bool:
        """Whether a generation smaller than all in the call can step.

        It steps before further decoding.
        """
        smallest = min(len(r.live_rows()) for r in pixels.generations)
        return any(len(r.live_rows()) < smallest and r.steppable_rows() for r in self._running)

    def _admit(self) -> None:
        """Start waiting generations while rows have room; a single one always starts.

        Small generations have separate room, so that small and large ones never wait for each other. The caller with
        the fewest candidates on the device comes first, then the order of arrival. An exclusive generation waits for
        earlier ones; later ones wait for it.
        """
        if not self._waiting:
            return
        if self._waiting[0].exclusive and not self._running:
            self._running.append(self._waiting.popleft())
        if any(r.exclusive for r in self._running):
            return
        free = list(takewhile(lambda r: not r.exclusive, self._waiting))
        for small, room in ((False, self._config.live_rows), (True, self._config.live_rows // SMALL_ROOM_SHARE)):
            waiting = [r for r in free if self._is_small(r) is small]
            live = sum(_reserved_rows(r) for r in self._running if self._is_small(r) is small)
            while waiting:
                held = Counter({r.spec.owner: 0 for r in waiting})
                for run in self._running:
                    held[run.spec.owner] += _reserved_rows(run)
                first = min(waiting, key=lambda r: held[r.spec.owner])
                if live and live + first.spec.n_candidates > room:
                    break
                waiting.remove(first)
                self._waiting.remove(first)
                self._running.append(first)
                live += first.spec.n_candidates

    def _is_small(self, run: ActiveGeneration) -> bool:
        return run.spec.n_candidates <= self._config.live_rows // SMALL_SHARE

    def _pixels(self) -> CallPlan | None:
        """Plan decoding of rows that wait for it."""
        waiting = defaultdict[Phase, dict[ActiveGeneration, list[Row]]](dict)
        for run in self._running:
            for row in [r for r in run.rows if r.phase is not Phase.STEP]:
                waiting[row.phase].setdefault(run, []).append(row)
        plans = (self._pixels_of(kind, waiting[phase]) for kind, phase in _PIXEL_PHASES.items() if phase in waiting)
        return next(filter(None, plans), None)

    def _pixels_of(self, kind: CallKind, waiting: Mapping[ActiveGeneration, Sequence[Row]]) -> CallPlan | None:
        """Plan decoding of waiting rows with one key, to score or to steer them.

        The call is made when it is full, or when one of its generations has no row left to step. Otherwise rows
        that reach a checkpoint one by one would each cost a call.
        """
        live = {run: len(run.live_rows()) for run in self._running}
        for run in waiting:
            peers = sorted((r for r in waiting if r.batch_key == run.batch_key), key=lambda r: live[r])
            batch = [row for peer in peers for row in waiting[peer]]
            room = self._pixel_room(kind, run, batch, live)
            if len(batch) >= room or not run.steppable_rows():
                size = self._config.deterministic_rows if run.spec.deterministic else 0
                return CallPlan(kind, tuple(batch[:room]), size=size)
        return None

    def _pixel_room(
        self, kind: CallKind, run: ActiveGeneration, waiting: Sequence[Row], live: Mapping[ActiveGeneration, int]
    ) -> int:
        """Return the maximum of `waiting` per call; less if a small generation waits.

        `waiting` holds rows of small generations first; `live_rows` counts the live rows of each running generation.
        """
        spec = run.spec
        if spec.deterministic:
            return self._config.deterministic_rows
        room = min(self._config.decode_rows(spec.width, spec.height), self._ceiling(kind, run.batch_key))
        if not self._known(kind):
            return room
        room = self._timed[kind].within(LONGEST_CALL_S, room)
        if len(self._running) == 1:
            return room
        small = min(live[r] for r in self._running if r.rows)
        tolerable = self._timed[kind].within(MAX_SLOWDOWN * self._seconds[self.bucket(small)], room)
        return min(room, max(tolerable, sum(live[r.generation] == small for r in waiting)))

    def _step(self) -> CallPlan | None:
        """Plan one denoiser call for the next generation and all that can share it."""
        ready = {run: rows for run in self._running if (rows := run.steppable_rows())}
        head = next(iter(ready), None)
        if head is None:
            return None
        key = head.step_key(ready[head][0])
        peers = {run: rows for run, rows in ready.items() if run.step_key(rows[0]) == key}
        self._running.rotate(-1)
        if head.spec.deterministic:
            fixed = self._config.deterministic_rows
            return CallPlan(CallKind.STEP, tuple(_next_batch(peers, fixed)), size=fixed)
        share = self._share(peers)
        ceiling = self._ceiling(CallKind.STEP, key)
        chosen = self.bucket(sum(min(share, len(rows)) for rows in peers.values()), ceiling)
        rows = _next_batch(peers, chosen)
        return CallPlan(CallKind.STEP, tuple(rows), size=min(b for b in self._seconds if len(rows) <= b <= chosen))

    def _share(self, peers: Peers) -> int:
        """Return the maximum rows of one generation in a call; less beside small ones."""
        if len(peers) == 1:
            return max(self._seconds)
        smallest = min(map(len, peers.values()))
        beside = (self._largest_tolerable_bucket(smallest) - smallest) // (len(peers) - 1)
        return max(smallest, min(self._knee() // len(peers), beside), 1)

    def _largest_tolerable_bucket(self, rows: int) -> int:
        """Return the largest bucket within `MAX_SLOWDOWN` of a call of only `rows` rows."""
        own = self._seconds[self.bucket(rows)]
        return max(b for b, s in self._seconds.items() if s <= MAX_SLOWDOWN * own)

    def _knee(self) -> int:
        """Smallest bucket whose seconds per row are within `KNEE_TOLERANCE` of the best."""
        best = min(s / b for b, s in self._seconds.items())
        return min(b for b, s in self._seconds.items() if s / b <= KNEE_TOLERANCE * best)

    def bucket(self, rows: int, ceiling: int | None = None) -> int:
        """Bucket with the fewest seconds per useful row, within `BUCKET_TOLERANCE`.

        It is at most `ceiling`, or the smallest bucket.
        """
        fitting = [b for b in self._seconds if ceiling is None or b <= ceiling] or [min(self._seconds)]
        cost = {b: self._seconds[b] / min(b, rows) for b in fitting}
        best = min(cost.values())
        return min(b for b, c in cost.items() if c <= BUCKET_TOLERANCE * best)


def _place(plan: CallPlan) -> tuple[CallKind, BatchKey]:
    """Return the kind of memory that a plan needs, and the batching key of its rows."""
    run = plan.rows[0].generation
    return _memory_kind(plan.kind), run.step_key(plan.rows[0]) if plan.kind is CallKind.STEP else run.batch_key


def _reserved_rows(run: ActiveGeneration) -> int:
    """Return the candidates of a running generation that need the device."""
    return len(run.live_rows()) if run.rows else run.spec.n_candidates


def _next_batch(peers: Peers, size: int) -> list[Row]:
    """Return up to `size` ready rows for one call by deficit round robin."""
    owners = Counter(r.spec.owner for r in peers)
    turns = [(deque(rows), DRR_QUANTUM / owners[run.spec.owner], run.entries) for run, rows in peers.items()]
    deficits = [run.deficit for run in peers]
    left, batch = min(size, sum(map(len, peers.values()))), list[Row]()
    while len(batch) < left:
        for place, (queue, credit, entries) in enumerate(turns):
            if not queue:
                continue
            deficit = deficits[place] + credit
            while queue and deficit >= entries and len(batch) < left:
                batch.append(queue.popleft())
                deficit -= entries
            deficits[place] = 0.0 if not queue else deficit if deficit < DRR_QUANTUM else DRR_QUANTUM
    for run, deficit in zip(peers, deficits, strict=True):
        run.deficit = deficit
    return batch
