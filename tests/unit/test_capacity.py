"""The simulation of capacity: queues that fill where the arithmetic says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench import control
from tests.bench.capacity import MIX, Inputs, Simulation, legs, need, report

QUICK = 200


def test_a_generation_is_cut_at_its_checkpoints() -> None:
    assert legs(1) == [(1, 20)]
    assert legs(64) == [(64, 6), (24, 6), (8, 8)]
    assert legs(16) == [(16, 6), (6, 6), (4, 8)]


def test_the_control_plane_is_compared_with_the_code_before_round_by_round() -> None:
    names = (
        "sqlite, N = 1: generations a second",
        "sqlite, N = 16: CPU ms a candidate",
        "sqlite, 64 x 50: writes a generation",
    )
    now = [dict(zip(names, values, strict=True)) for values in ((9.0, 1.0, 3.0), (90.0, 2.0, 3.0), (30.0, 9.0, 5.0))]
    before = [dict(zip(names, values, strict=True)) for values in ((3.0, 2.0, 5.0), (30.0, 4.0, 5.0), (5.0, 9.0, 5.0))]
    made = {each.name: each for each in control.figures(now, before)}
    assert [made[name].value for name in names] == [30.0, 2.0, 3.0]
    assert [made[f"{name}, ratio"].value for name in names] == [3.0, 0.5, 0.6]
    asked = {name: (each.at_least, each.at_most) for name, each in made.items() if each.reached is not None}
    assert asked == {f"{names[0]}, ratio": (control.GAIN, None), names[2]: (None, control.MOST_WRITES)}
    assert set(names) == {each.name for each in control.figures(now, [])}


def test_a_lone_candidate_takes_its_calls() -> None:
    inputs = replace(Inputs(), transactions_per_s=1e9, writes_per_s=1e9, front_ms=0.0, candidate_ms=0.0, segment_ms=0.0)
    seen = Simulation(inputs, 1, 1, 0.001).run(QUICK)
    assert seen.latency[1][0] == pytest.approx(20 * inputs.call_s(1))


def test_the_database_breaks_before_a_thousand_workers() -> None:
    small, large = (need(Inputs(), workers, 0.6, QUICK) for workers in (10, 1000))
    assert small.limits["PostgreSQL"] < 1 < large.limits["PostgreSQL"]
    assert large.first_to_break == "PostgreSQL"
    assert large.fronts > small.fronts
    table = report([small, large])
    assert all(f"N = {candidates}" in table for candidates in MIX)


def test_a_slow_database_delays_answers_and_leaves_devices_idle() -> None:
    fast = Simulation(Inputs(), 10, 2, 0.6).run(QUICK)
    slow = Simulation(replace(Inputs(), transactions_per_s=20.0), 10, 2, 0.6).run(QUICK)
    assert slow.latency[4][0] > 2 * fast.latency[4][0]
    assert slow.devices_busy < fast.devices_busy
