"""How much of everything so many workers need, what breaks first, and what it costs.

`python -m tests.bench.capacity`. A discrete simulation: requests pass a front and the database, run in segments of at
most eight rows on workers that batch, and pass both again. Its inputs are measured, except prices, which are yours.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import count
from typing import Any

from tests.bench.kit import RESULTS

MIX = {1: 0.40, 4: 0.25, 16: 0.25, 64: 0.10}
"""Share of requests by their number of candidates."""

STEPS, CUTS = 20, ((6, 24 / 64), (12, 8 / 64))
"""Steps of a generation; of 16 candidates and more, shares of them go on after these steps."""

BATCHES = (1, 2, 4, 8, 16, 32)
SEGMENT = 8
SIZES = (1, 10, 100, 1000)

MIN_S = 30.0
"""Simulated seconds after which a run that is still full may end."""


@dataclass(frozen=True)
class Inputs:
    """What the simulation knows. Times are milliseconds; prices are dollars an hour and not measured.

    A device call takes `call_ms` and `row_ms` for each padded row, a segment `segment_ms` beside it. A front's core
    takes `front_ms` for a generation and `candidate_ms` for each candidate in it. The database makes `writes` for a
    generation, at most `writes_per_s`, in `transactions`, at most `transactions_per_s`: writes of a busy front share
    them. `stored_kb` is stored for a generation, `candidate_kb` for each of its candidates; `state_kb` is a row's
    latents, which travel at a checkpoint. A front uses `connections` of the database's `connections_at_most`.
    """

    call_ms: float = 20.0
    row_ms: float = 2.0
    segment_ms: float = 5.0
    front_ms: float = 8.0
    candidate_ms: float = 0.7
    transactions: float = 3.0
    transactions_per_s: float = 850.0
    writes: float = 3.0
    writes_per_s: float = 6225.0
    stored_kb: float = 500.0
    candidate_kb: float = 34.0
    state_kb: float = 131.0
    connections: int = 12
    connections_at_most: int = 500
    worker_price: float = 2.5
    core_price: float = 0.05
    database_price: float = 0.5

    def measured(self) -> Inputs:
        """These, with the costs of the control plane that `tests.bench.control` has stored."""
        path = RESULTS / "control.json"
        if not path.exists():
            return self
        rows = {row["name"]: row["value"] for row in json.loads(path.read_text())["figures"]}
        one, many = (rows[f"postgresql, {load}: CPU ms a candidate"] for load in ("N = 1", "N = 16"))
        slope = max(0.0, (16 * many - one) / 15)
        return replace(
            self,
            front_ms=one - slope,
            candidate_ms=slope,
            transactions=rows["postgresql, N = 16: transactions a generation"],
            writes=rows["sqlite, 64 x 50: writes a generation"],
        )

    @property
    def database_s(self) -> float:
        """Seconds of the database for one generation."""
        return max(self.transactions / self.transactions_per_s, self.writes / self.writes_per_s)

    def call_s(self, rows: int) -> float:
        """Seconds of one device call."""
        return (self.call_ms + self.row_ms * next(size for size in BATCHES if size >= rows)) / 1000

    def front_s(self, candidates: int) -> float:
        """CPU seconds of a front for one generation."""
        return (self.front_ms + self.candidate_ms * candidates) / 1000


def legs(candidates: int) -> list[tuple[int, int]]:
    """Rows and steps from one checkpoint to the next."""
    if candidates < 16:
        return [(candidates, STEPS)]
    rows, begun, made = candidates, 0, []
    for at, share in CUTS:
        made.append((rows, at - begun))
        rows, begun = max(4, round(candidates * share)), at
    return [*made, (rows, STEPS - begun)]


WORK = sum(share * sum(rows * steps for rows, steps in legs(n)) for n, share in MIX.items())
"""Row steps of a generation, on average."""


@dataclass
class Station:
    """A place with so many servers and one queue."""

    servers: int
    busy: int = 0
    busy_s: float = 0.0
    waiting: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)


@dataclass
class Segment:
    """Rows of a generation on one worker; `done` is called after the last step."""

    rows: int
    steps: int
    done: Callable[[], None]


@dataclass
class Device:
    """A worker that batches the next step of what it holds."""

    segments: deque[Segment] = field(default_factory=deque)
    load: int = 0
    busy: bool = False
    busy_s: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """What a run came to."""

    per_s: float
    latency: dict[int, tuple[float, float]]
    devices_busy: float
    fronts_busy: float
    database_busy: float
    segments_per_s: float


class Simulation:
    """One run. `fronts` are cores; `load` is the share of the devices' power that requests ask for."""

    def __init__(self, inputs: Inputs, workers: int, fronts: int, load: float, seed: int = 1) -> None:
        self._inputs = inputs
        self._rng = random.Random(seed)
        self._devices = [Device() for _ in range(workers)]
        self._front, self._database = Station(fronts), Station(1)
        self._rate = load * workers * 32 / inputs.call_s(32) / WORK
        self._now, self._order, self._heap = 0.0, count(), list[tuple[float, int, Callable[[], None]]]()
        self._seconds: dict[int, list[float]] = {n: [] for n in MIX}
        self._segments = 0

    def run(self, generations: int) -> Simulated:
        """Simulate so many arrivals, and count those that came after the first fifth."""
        first, at = generations // 5, 0.0
        for number in range(generations):
            at += self._rng.expovariate(self._rate)
            candidates = self._rng.choices(list(MIX), list(MIX.values()))[0]
            self._at(at, partial(self._arrive, candidates, counts=number >= first))
        while self._heap and self._now < max(4 * at, MIN_S):
            self._now, _, event = heapq.heappop(self._heap)
            event()
        took, done = self._now, sum(len(each) for each in self._seconds.values())
        return Simulated(
            done / (generations - first) * self._rate,
            {n: (_quantile(each, 0.5), _quantile(each, 0.95)) for n, each in self._seconds.items()},
            sum(device.busy_s for device in self._devices) / took / len(self._devices),
            self._front.busy_s / took / self._front.servers,
            self._database.busy_s / took,
            self._segments / took,
        )

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), event))

    def _serve(self, station: Station, seconds: float, then: Callable[[], None]) -> None:
        if station.busy == station.servers:
            station.waiting.append((seconds, then))
            return
        station.busy += 1
        station.busy_s += seconds

        def end() -> None:
            station.busy -= 1
            if station.waiting:
                self._serve(station, *station.waiting.popleft())
            then()

        self._at(self._now + seconds, end)

    def _arrive(self, candidates: int, *, counts: bool) -> None:
        began, half = self._now, self._inputs.front_s(candidates) / 2
        write_s = self._inputs.database_s / 2

        def finish() -> None:
            if counts:
                self._seconds[candidates].append(self._now - began)

        def end() -> None:
            self._serve(self._database, write_s, lambda: self._serve(self._front, half, finish))

        def start() -> None:
            self._serve(self._database, write_s, lambda: self._leg(legs(candidates), end))

        self._serve(self._front, half, start)

    def _leg(self, rest: Sequence[tuple[int, int]], then: Callable[[], None]) -> None:
        """Run the next leg in segments on the least busy of some workers, then the others."""
        if not rest:
            then()
            return
        (rows, steps), *later = rest
        parts = math.ceil(rows / SEGMENT)
        left = [parts]

        def done() -> None:
            left[0] -= 1
            if not left[0]:
                self._leg(later, then)

        for part in range(parts):
            share = rows * (part + 1) // parts - rows * part // parts
            sample = self._rng.sample(self._devices, min(8, len(self._devices)))
            device = min(sample, key=lambda each: each.load)
            self._send(device, Segment(share, steps, done))

    def _send(self, device: Device, segment: Segment) -> None:
        device.load += segment.rows
        self._segments += 1
        self._at(self._now + self._inputs.segment_ms / 1000, lambda: self._take(device, segment))

    def _take(self, device: Device, segment: Segment) -> None:
        device.segments.append(segment)
        if not device.busy:
            self._tick(device)

    def _tick(self, device: Device) -> None:
        taken, rows = list[Segment](), 0
        while device.segments and rows + device.segments[0].rows <= BATCHES[-1]:
            taken.append(device.segments.popleft())
            rows += taken[-1].rows
        device.busy = bool(taken)
        if not taken:
            return
        seconds = self._inputs.call_s(rows)
        device.busy_s += seconds

        def made() -> None:
            for segment in taken:
                segment.steps -= 1
                if segment.steps:
                    device.segments.append(segment)
                else:
                    device.load -= segment.rows
                    segment.done()
            self._tick(device)

        self._at(self._now + seconds, made)


def _quantile(found: Sequence[float], share: float) -> float:
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


@dataclass(frozen=True)
class Need:
    """What so many workers need at one load, and how near each part is to its limit."""

    workers: int
    fronts: int
    simulated: Simulated
    transactions_per_s: float
    stored_gb_a_day: float
    state_mb_per_s: float
    limits: dict[str, float]
    price_per_hour: float

    @property
    def first_to_break(self) -> str:
        """The shared part that is nearest to its limit."""
        return max(self.limits, key=lambda name: self.limits[name])

    @property
    def price_of_1000(self) -> float:
        """Dollars for a thousand candidates."""
        per_hour = 3600 * self.simulated.per_s * sum(n * share for n, share in MIX.items())
        return 1000 * self.price_per_hour / per_hour


def need(inputs: Inputs, workers: int, load: float, generations: int) -> Need:
    """Simulate so many workers, with as many fronts as they need."""
    candidates = sum(n * share for n, share in MIX.items())
    rate = load * workers * 32 / inputs.call_s(32) / WORK
    cores = max(1, math.ceil(rate * inputs.front_s(1) / 0.6 + rate * (candidates - 1) * inputs.candidate_ms / 600))
    seen = Simulation(inputs, workers, cores, load).run(generations)
    moved = sum(share * sum(rows for rows, _ in legs(n)[1:]) for n, share in MIX.items())
    databases = max(1, math.ceil(rate * inputs.database_s / 0.7))
    return Need(
        workers,
        cores,
        seen,
        rate * inputs.transactions,
        rate * (inputs.stored_kb + candidates * inputs.candidate_kb) * 86_400 / 1e6,
        2 * rate * moved * inputs.state_kb / 1000,
        {
            "PostgreSQL": rate * inputs.database_s,
            "PostgreSQL connections": cores * inputs.connections / inputs.connections_at_most,
        },
        workers * inputs.worker_price + cores * inputs.core_price + databases * inputs.database_price,
    )


def _latency(found: Need, candidates: int) -> str:
    return "{:.2f} / {:.2f}".format(*found.simulated.latency[candidates])


def report(needs: Sequence[Need]) -> str:
    """A Markdown table."""
    names = ["", *(f"{each.workers} workers" for each in needs)]
    rows: list[tuple[str, Callable[[Need], Any]]] = [
        ("generations a second", lambda n: f"{n.simulated.per_s:.1f}"),
        ("devices busy", lambda n: f"{n.simulated.devices_busy:.0%}"),
        *((f"N = {candidates}: seconds, median / p95", partial(_latency, candidates=candidates)) for candidates in MIX),
        ("front cores", lambda n: n.fronts),
        ("segments a second", lambda n: f"{n.simulated.segments_per_s:.0f}"),
        ("PostgreSQL transactions a second", lambda n: f"{n.transactions_per_s:.0f}"),
        ("PostgreSQL, share of one server", lambda n: f"{n.limits['PostgreSQL']:.0%}"),
        ("stored a day, GB", lambda n: f"{n.stored_gb_a_day:.0f}"),
        ("latents between workers, MB/s", lambda n: f"{n.state_mb_per_s:.0f}"),
        ("nearest to its limit", lambda n: n.first_to_break),
        ("dollars an hour", lambda n: f"{n.price_per_hour:.1f}"),
        ("dollars for 1,000 candidates", lambda n: f"{n.price_of_1000:.2f}"),
    ]
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    lines += ["| " + " | ".join([name, *(str(show(each)) for each in needs)]) + " |" for name, show in rows]
    return "\n".join(lines)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capacity", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=SIZES)
    parser.add_argument("--load", type=float, default=0.6, help="share of the devices' power that is asked for")
    parser.add_argument("--generations", type=int, default=0, help="arrivals to simulate; 0: enough for each size")
    known = Inputs().measured()
    for one in fields(Inputs):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=getattr(known, one.name))
    asked = parser.parse_args()
    if not 0 < asked.load < 1 or min(asked.workers) < 1:
        parser.error("`--load` must be between 0 and 1, `--workers` at least 1: correct them")
    inputs = Inputs(**{one.name: getattr(asked, one.name) for one in fields(Inputs)})
    print(inputs)
    print(report([need(inputs, w, asked.load, asked.generations or max(600, 12 * w)) for w in asked.workers]))


if __name__ == "__main__":
    main()
