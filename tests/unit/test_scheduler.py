"""Who shares a device call: fairness between generations and callers, batch sizes, room on the device."""

from __future__ import annotations

from collections import Counter

import pytest

from app.domain import Checkpoint, GenerationSpec
from app.engine.config import EngineConfig
from app.engine.scheduler import CEILING_RETRY_CALLS, MAX_SLOWDOWN, CallKind, CallPlan, Scheduler
from app.engine.state import ActiveGeneration, Row
from tests.unit.engine_kit import Bench, spec


def linear(bench: Bench, overhead: float = 0.0) -> None:
    """Costs of a device whose calls cost `overhead` rows more than their rows."""
    bench.core._scheduler.set_costs({b: overhead + b for b in (1, 2, 4, 8, 16, 32)})


def steps(bench: Bench) -> list[Counter[str]]:
    """Rows of each generation in every denoiser call, until all is done."""
    seen: list[Counter[str]] = []
    plan = bench.core._scheduler.plan

    def watched() -> CallPlan | None:
        found = plan()
        if found is not None and found.kind is CallKind.STEP:
            seen.append(Counter(r.generation.spec.id for r in found.rows))
        return found

    bench.core._scheduler.plan = watched  # type: ignore[method-assign]
    bench.run()
    return seen


@pytest.mark.parametrize(
    ("seconds", "rows", "expected"),
    [
        pytest.param({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 5, 1, id="linear: nothing is gained by a batch"),
        pytest.param({1: 5.0, 2: 5.2, 4: 5.4, 8: 6.0}, 5, 8, id="flat: padding is free"),
        pytest.param({1: 1.0, 2: 1.5, 4: 2.4, 8: 4.7}, 5, 4, id="in between: four now, one later"),
        pytest.param({1: 1.0, 2: 1.5, 4: 2.4, 8: 4.6}, 8, 8, id="a full bucket"),
    ],
)
def test_bucket_has_the_fewest_seconds_per_useful_row(seconds: dict[int, float], rows: int, expected: int) -> None:
    scheduler = Scheduler(EngineConfig(buckets=(1, 2, 4, 8)))
    scheduler.set_costs(seconds)
    assert scheduler.bucket(rows) == expected


def test_buckets_that_were_not_timed_cost_what_the_two_largest_that_were_foretell() -> None:
    scheduler = Scheduler(EngineConfig(buckets=(1, 2, 4, 8)))
    scheduler.set_costs({1: 1.0, 2: 1.5})
    assert scheduler.seconds == {1: 1.0, 2: 1.5, 4: 2.5, 8: 4.5}
    scheduler.set_costs({1: 1.0, 2: 2.5})
    assert scheduler.seconds == {1: 1.0, 2: 2.5, 4: 5.0, 8: 10.0}, "never more than in proportion"


def test_a_larger_call_than_any_that_was_timed_is_tried_once_and_kept_where_it_pays() -> None:
    for doubled, chosen in ((1.2, 4), (2.0, 1)):
        scheduler = Scheduler(EngineConfig(buckets=(1, 2, 4, 8)))
        scheduler.set_costs({1: 1.0})
        assert scheduler.bucket(4) == 2
        scheduler.note(CallKind.STEP, 2, 30.0)
        assert scheduler.bucket(4) == 2, "the first call of a size also builds what it needs"
        scheduler.note(CallKind.STEP, 2, doubled)
        assert scheduler.bucket(4) == chosen


def test_a_small_request_is_not_held_back_by_a_large_one() -> None:
    bench = Bench()
    linear(bench, overhead=2)
    bench.submit(spec("large", n_candidates=64, steps=6))
    for _ in range(6):
        bench.tick()
    bench.submit(spec("small", n_candidates=1, steps=6))
    seen = steps(bench)
    mine = [i for i, c in enumerate(seen) if c["small"]]
    assert mine == list(range(6)), "the small one is in every call from its first on"
    assert max(sum(c.values()) for c in seen[:6]) <= 16
    assert max(sum(c.values()) for c in seen[6:]) > 16


def test_no_call_takes_much_longer_than_the_small_one_alone_would() -> None:
    bench = Bench()
    costs = {1: 10.5, 2: 15.8, 4: 23.1, 8: 42.0, 16: 67.6, 32: 127.4}
    bench.core._scheduler.set_costs(costs)
    bench.submit(spec("large", n_candidates=64, steps=6), spec("small", n_candidates=1, steps=6))
    both = [sum(c.values()) for c in steps(bench) if c["small"]]
    assert len(both) == 6
    assert max(costs[min(b for b in costs if b >= rows)] for rows in both) <= MAX_SLOWDOWN * costs[1]
    assert min(both[1:]) > 2, "and the large one goes on beside it"


def test_two_large_requests_fill_the_device_and_share_it() -> None:
    bench = Bench()
    linear(bench, overhead=8)
    bench.submit(spec("a", n_candidates=64, steps=4), spec("b", n_candidates=64, steps=4))
    seen = steps(bench)
    both = [c for c in seen if c["a"] and c["b"]]
    assert len(both) >= len(seen) - 2
    assert all(abs(c["a"] - c["b"]) <= 1 for c in both)
    assert sum(sum(c.values()) for c in seen) == 2 * 64 * 4


def test_callers_share_evenly_however_many_requests_they_have() -> None:
    bench = Bench(EngineConfig(buckets=(1, 2, 4, 8)))
    linear(bench, overhead=8)
    many = [spec(f"many{i}", n_candidates=8, steps=4, owner="greedy") for i in range(7)]
    bench.submit(*many, spec("one", n_candidates=8, steps=4, owner="modest"))
    seen = steps(bench)
    last = max(i for i, c in enumerate(seen) if c["one"])
    rows = sum((Counter(c) for c in seen[: last + 1]), Counter())
    greedy = sum(v for k, v in rows.items() if k != "one")
    assert rows["one"] == 32
    assert greedy <= 32 + 2 * 8


def test_an_unguided_row_costs_half_of_a_guided_one() -> None:
    bench = Bench(EngineConfig(buckets=(1, 2, 4, 8, 16)))
    linear(bench, overhead=40)
    bench.submit(spec("guided", n_candidates=30, steps=4), spec("plain", n_candidates=60, steps=4, guidance_scale=1.0))
    seen = steps(bench)
    mixed = [c for c in seen[4:] if c["guided"] and c["plain"]][:10]
    assert sum(c["plain"] for c in mixed) == pytest.approx(2 * sum(c["guided"] for c in mixed), rel=0.2)


@pytest.mark.parametrize("odd", [{"width": 32}, {"deterministic": True}])
def test_rows_that_cannot_share_a_call_do_not(odd: dict[str, object]) -> None:
    bench = Bench()
    bench.submit(spec("a", n_candidates=3), spec("b", n_candidates=3, **odd))
    assert all(len(c) == 1 for c in steps(bench))


def _spec(name: str, n: int) -> GenerationSpec:
    return spec(name, n_candidates=n, steps=2)


def test_generations_beyond_the_room_wait_their_turn_and_one_always_fits() -> None:
    bench = Bench(EngineConfig(live_rows=8))
    bench.submit(_spec("a", 6), _spec("b", 6), _spec("huge", 50))
    most = 0
    while not bench.core.idle:
        bench.tick()
        most = max(most, bench.core.live) if not bench.ends("b") else most
    assert most <= 8
    assert all(bench.ends(name) for name in ("a", "b", "huge"))


def test_a_small_generation_does_not_wait_for_room_that_a_large_one_fills() -> None:
    bench = Bench(EngineConfig(live_rows=64))
    linear(bench, overhead=2)
    bench.submit(spec("large", n_candidates=256, steps=6), spec("next", n_candidates=40, steps=6))
    for _ in range(4):
        bench.tick()
    bench.submit(spec("small", n_candidates=2, steps=6))
    while not bench.ends("small"):
        bench.tick()
    assert not bench.ends("large")
    assert not bench.updates.get("next"), "large ones wait for each other"
    bench.run()
    assert bench.ends("next")


def test_room_goes_first_to_the_caller_with_the_least_on_the_device() -> None:
    bench = Bench(EngineConfig(live_rows=32))
    bench.submit(*(spec(f"greedy{i}", n_candidates=16, steps=4, owner="greedy") for i in range(6)))
    bench.submit(spec("modest", n_candidates=16, steps=4, owner="modest"))
    ends: list[str] = []
    while not bench.core.idle:
        bench.tick()
        ends += [n for n in bench.updates if bench.ends(n) and n not in ends]
    assert ends.index("modest") <= 2


def test_one_that_runs_alone_waits_for_those_before_it_and_all_others_for_it() -> None:
    bench = Bench()
    bench.submit(spec("before", n_candidates=3))
    bench.tick()
    bench.core.submit(spec("suspect", n_candidates=2), 0.0, exclusive=True)
    bench.submit(spec("after", n_candidates=1))
    while not bench.ends("suspect"):
        bench.tick()
        assert bench.ends("before") or not bench.updates.get("suspect")
        assert not bench.updates.get("after")
    bench.run()
    assert bench.outcome("after").candidates
    bench.core.submit(spec("called_off", n_candidates=2), 0.0, exclusive=True)
    bench.submit(spec("last", n_candidates=1))
    bench.core.cancel("called_off")
    bench.run()
    assert bench.outcome("last").candidates


def test_memory_that_is_short_for_one_size_does_not_shrink_the_others() -> None:
    scheduler = Scheduler(EngineConfig(buckets=(1, 2, 4, 8)))
    large, small = (ActiveGeneration(spec(n, n_candidates=8, width=w), 0.0) for n, w in (("large", 64), ("small", 32)))
    for run in (large, small):
        run.rows = [Row(run, i, i) for i in range(8)]
    assert scheduler.lower_ceiling(CallPlan(CallKind.STEP, tuple(large.rows), size=8))
    assert scheduler.lower_ceiling(CallPlan(CallKind.FINISH, tuple(large.rows)))
    assert scheduler._ceiling(CallKind.FINISH, large.batch_key) == 4
    assert not scheduler.lower_ceiling(CallPlan(CallKind.FINISH, tuple(large.rows[:1])))
    assert not scheduler.lower_ceiling(CallPlan(CallKind.ENCODE, generation=large))
    assert scheduler.bucket(8, scheduler._ceiling(CallKind.STEP, large.batch_key)) == 4
    assert scheduler._ceiling(CallKind.STEP, small.batch_key) == 8


def test_after_many_calls_that_fitted_larger_ones_are_tried_again() -> None:
    bench = Bench(EngineConfig(buckets=(1, 2, 4, 8)), max_rows=4)
    linear(bench, overhead=40)
    bench.submit(spec("short", n_candidates=8, steps=6))
    bench.run()
    assert max(bench.generator.sizes) == 4
    bench.generator.max_rows = 8
    bench.submit(*(spec(f"still{i}", n_candidates=8, steps=6) for i in range(CEILING_RETRY_CALLS // 6 // 2)))
    bench.run()
    assert max(bench.generator.sizes) == 8
    assert bench.generator.sizes.index(8) >= CEILING_RETRY_CALLS


def previews(bench: Bench, name: str) -> list[int]:
    """Rows of this generation in every preview call that it had a row in, until all is done."""
    seen: list[int] = []
    make = bench.core._preview

    def watched(plan: CallPlan) -> None:
        seen.append(sum(r.generation.spec.id == name for r in plan.rows))
        make(plan)

    bench.core._preview = watched  # type: ignore[method-assign]
    bench.run()
    return [rows for rows in seen if rows]


def test_previews_of_a_generation_share_calls_though_others_slow_its_rows() -> None:
    bench = Bench()
    linear(bench, overhead=2)
    cut = (Checkpoint(2, 4),)
    bench.submit(spec("large", n_candidates=32, steps=6, checkpoints=cut), spec("small", n_candidates=1, steps=6))
    assert previews(bench, "large") == [32]


def test_a_small_request_steps_between_the_pictures_of_a_large_one() -> None:
    bench = Bench()
    costs = {b: 0.010 + b / 1000 for b in (1, 2, 4, 8, 16, 32)}
    bench.core._scheduler.set_costs(costs, preview={1: 0.005, 8: 0.040}, finish={1: 0.005, 8: 0.040})
    bench.submit(spec("large", n_candidates=32, steps=2))
    while not bench.core._scheduler.generations[0].rows or bench.core._scheduler.generations[0].steppable_rows():
        bench.tick()
    kinds: list[str] = []
    plan = bench.core._scheduler.plan

    def watched() -> CallPlan | None:
        found = plan()
        kinds.append("" if found is None else found.kind)
        return found

    bench.core._scheduler.plan = watched  # type: ignore[method-assign]
    bench.submit(spec("small", n_candidates=1, steps=4))
    while not bench.ends("small"):
        bench.tick()
    before = kinds[: kinds.index(CallKind.STEP)]
    assert before.count(CallKind.FINISH) <= 1, "one call at most was made before its first step"
    assert not bench.ends("large")
    bench.run()
    assert bench.ends("large")


def test_a_small_request_does_not_wait_long_for_the_pictures_of_a_large_one() -> None:
    bench = Bench()
    costs = {b: 0.010 + b / 1000 for b in (1, 2, 4, 8, 16, 32)}
    bench.core._scheduler.set_costs(costs, preview={1: 0.005, 8: 0.040}, finish={1: 0.005, 8: 0.040})
    bench.submit(spec("large", n_candidates=32, steps=6, checkpoints=(Checkpoint(2, 4),)))
    bench.submit(spec("small", n_candidates=1, steps=40))
    most = int(MAX_SLOWDOWN * costs[1] / 0.005)
    calls = previews(bench, "large")
    assert max(calls) == most
    assert sum(calls) == 32
    alone = Bench()
    alone.core._scheduler.set_costs(costs, preview={1: 0.005, 8: 0.040}, finish={1: 0.005, 8: 0.040})
    alone.submit(spec("large", n_candidates=32, steps=6, checkpoints=(Checkpoint(2, 4),)))
    assert previews(alone, "large") == [32]


def test_a_call_for_pixels_is_split_where_it_would_take_long() -> None:
    bench = Bench()
    bench.core._scheduler.set_costs({1: 4.0}, preview={1: 20.0}, finish={1: 20.0})
    bench.submit(spec("slow", n_candidates=4, steps=1))
    bench.run()
    assert bench.scorer.calls == [1] * 4
    assert bench.outcome("slow").candidates


def test_a_call_is_never_smaller_than_its_rows_whatever_was_measured() -> None:
    bench = Bench()
    bench.core._scheduler.set_costs({1: 1.06, 2: 2.06, 4: 3.0, 8: 60.0, 16: 120.0, 32: 240.0})
    assert [bench.core._scheduler.bucket(rows) for rows in (3, 2)] == [2, 1], "the costs that make it hard"
    bench.submit(spec("odd", n_candidates=3, steps=4))
    bench.tick()
    plan = bench.core._scheduler.plan()
    assert plan is not None
    assert plan.kind is CallKind.STEP
    assert (len(plan.rows), plan.size) == (2, 2)


def test_previews_cost_at_most_what_finishes_of_as_many_rows_cost() -> None:
    scheduler = Scheduler(EngineConfig(buckets=(1, 2, 4, 8)))
    scheduler.set_costs({1: 1.0}, preview={1: 0.03}, finish={1: 0.02})
    assert scheduler.costs.previews(8) == pytest.approx(8 * 0.02)
    for seconds in (0.3, 0.05):
        scheduler.note(CallKind.FINISH, 8, seconds)
    assert scheduler.costs.previews(8) == pytest.approx(0.05), "learnt without a preview of eight"
    for seconds in (0.3, 0.02):
        scheduler.note(CallKind.PREVIEW, 8, seconds)
    assert scheduler.costs.previews(8) == pytest.approx(0.02)
    assert scheduler.costs.finishes(8) == pytest.approx(0.05)
