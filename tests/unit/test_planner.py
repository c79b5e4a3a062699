from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import Checkpoint
from app.engine.cost_model import CostModel
from app.engine.pruning import checkpoints, planner
from app.engine.pruning.planner import PlanInput, plan_checkpoints

pytestmark = pytest.mark.slow

KNOWN = (0.17, 0.27, 0.39, 0.5, 0.63, 0.74, 0.81, 0.87, 0.9, 0.93, 0.945, 0.96, 0.97, 0.98, 0.99, 0.995)
BATCHED = CostModel.from_measurements(
    {1: 0.07, 2: 0.1, 4: 0.17, 8: 0.3, 16: 0.56}, preview={1: 0.012}, finish={1: 0.014}
)


def race(n_candidates: int = 16, n: int = 1, known: tuple[float, ...] = KNOWN, costs: CostModel = BATCHED) -> PlanInput:
    return PlanInput(n_candidates, n, len(known), known, costs)


def test_costs_of_a_step_follow_the_calls_that_would_be_made() -> None:
    assert BATCHED.steps(16) == pytest.approx(0.56)
    assert BATCHED.steps(40) == pytest.approx(2 * 0.56 + 0.3)
    assert BATCHED.steps(3) == pytest.approx(0.17)
    assert BATCHED.scaled(0.5).steps(16) == pytest.approx(0.28)


def test_work_adds_up() -> None:
    flat = CostModel.from_measurements({1: 1.0}, preview={1: 0.5}, finish={1: 2.0})
    assert race(8, costs=flat).device_seconds(()) == 8 * 16 + 8 * 2
    cut = (Checkpoint(4, 3), Checkpoint(8, 2))
    assert race(8, costs=flat).device_seconds(cut) == 8 * 4 + 8 * 0.5 + 3 * 4 + 3 * 0.5 + 2 * 8 + 2 * 2


def test_a_large_field_is_cut_harder_than_a_small_one() -> None:
    shares = [race(n).device_seconds(plan_checkpoints(race(n), 0.97)) / race(n).device_seconds(()) for n in (4, 16, 64)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.5


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(race(4, n=4), id="all are returned"),
        pytest.param(race(1), id="one candidate"),
        pytest.param(race(16, known=(0.9,)), id="one step"),
        pytest.param(race(16, known=(0.0,) * 16), id="previews know nothing"),
        pytest.param(
            race(16, costs=CostModel.from_measurements({1: 0.01}, {1: 9.0}, {1: 0.01})),
            id="previews cost more than steps",
        ),
    ],
)
def test_nothing_is_cut_where_nothing_is_gained(one: PlanInput) -> None:
    assert plan_checkpoints(one, 0.97) == ()


RACES = st.builds(
    PlanInput,
    n_candidates=st.integers(1, 24),
    n=st.integers(1, 6),
    steps=st.just(12),
    correlations=st.lists(st.floats(0, 0.999), min_size=12, max_size=12).map(lambda v: tuple(sorted(v))),
    costs=st.builds(
        lambda unit, batch, preview, finish: CostModel.from_measurements(
            {1: unit, 8: unit * batch}, {1: preview}, {1: finish}
        ),
        st.floats(0.001, 1),
        st.floats(1, 8),
        st.floats(0, 3),
        st.floats(0, 3),
    ),
)


def kept(one: PlanInput, cuts: tuple[Checkpoint, ...], fields: int = 20_000) -> float:
    """Share of the gain that is kept, by the model that the planner states, drawn anew."""
    draw = np.random.default_rng(77)
    finals = draw.standard_normal((fields, one.n_candidates))
    later, known, previews = finals, 1.0, {}
    for at in range(one.steps - 1, 0, -1):
        link = one.correlations[at - 1] / known
        later = link * later + np.sqrt(1 - link**2) * draw.standard_normal(finals.shape)
        previews[at], known = later, one.correlations[at - 1]
    live = np.tile(np.arange(one.n_candidates), (fields, 1))
    for cut in cuts:
        seen = np.take_along_axis(previews[cut.at], live, axis=1)
        live = np.take_along_axis(live, np.argsort(-seen, axis=1)[:, : cut.keep], axis=1)
    left, whole = (np.sort(f, axis=1)[:, -one.n :].mean() for f in (np.take_along_axis(finals, live, 1), finals))
    return float(left / whole)


@pytest.mark.parametrize(("n_candidates", "n"), [(4, 1), (8, 1), (8, 2), (16, 1), (16, 4), (32, 1)])
def test_plans_keep_the_quality_on_fields_that_they_were_not_chosen_by(n_candidates: int, n: int) -> None:
    one = race(n_candidates, n)
    cuts = plan_checkpoints(one, 0.97)
    assert cuts
    assert kept(one, cuts) > 0.968


def test_a_quality_is_less_than_its_estimate_by_the_standard_error() -> None:
    field = planner._SimulatedFields(race(16))
    kept = field.finals_ranked((), 8)[:, :15]
    finals = kept.max(axis=1)
    shares = [
        finals[part].mean() / field._finals[part].max(axis=1).mean() for part in np.array_split(np.arange(8192), 64)
    ]
    share = finals.mean() / field._finals.max(axis=1).mean()
    assert field.quality(kept)[0] == pytest.approx(share)
    assert field.quality(kept)[1] == pytest.approx(np.std(shares) / 8, rel=0.3)


def test_fewer_than_are_to_be_left_never_finish() -> None:
    some = PlanInput(16, 2, len(KNOWN), KNOWN, BATCHED, min_survivors=6)
    assert [c.keep for c in plan_checkpoints(some, 0.5)][-1] == 6
    assert plan_checkpoints(PlanInput(6, 2, len(KNOWN), KNOWN, BATCHED, min_survivors=6), 0.5) == ()


@settings(max_examples=12, deadline=None)
@given(RACES, st.floats(0.5, 0.999), st.floats(0.5, 0.999))
def test_plans_keep_their_promises(one: PlanInput, some: float, other: float) -> None:
    low, high = sorted((some, other))
    plans = [plan_checkpoints(one, low), plan_checkpoints(one, high)]
    least, more = (one.device_seconds(plan) for plan in plans)
    assert least <= planner.NEAR_BEST * more, "a third cut is not tried everywhere"
    assert max(least, more) <= one.device_seconds(())
    for cuts in plans:
        assert len(cuts) <= 3
        assert (
            checkpoints.find_problem(cuts, steps=12, n_candidates=one.n_candidates, n=min(one.n, one.n_candidates))
            is None
        )
        assert all(c.keep is not None and c.keep >= one.n for c in cuts)
        assert all(c.at >= 0.2 * 12 or one.correlations[c.at - 1] >= 0.5 for c in cuts)
        assert all(c.at >= 6 for c in cuts[2:])
        assert all(c.keep is not None and c.keep >= 2 for c in cuts if c.at < 6)


@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.soak)])
def test_other_costs_need_few_new_simulations(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dear = CostModel.from_measurements({1: 0.08, 2: 0.1, 4: 0.2, 8: 0.3, 16: 0.5}, preview={1: 0.02}, finish={1: 0.014})
    asked = [race(16, n), race(16, n, costs=dear)]
    expected = [plan_checkpoints(one, 0.97) for one in asked]
    simulated: list[tuple[object, ...]] = []
    count_good = planner._SimulatedFields.count_good

    def record(*args: object) -> int:
        simulated.append(args[1:])
        return count_good(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(planner._SimulatedFields, "count_good", record)
    feasible = planner.FeasibleCuts()
    assert plan_checkpoints(asked[0], 0.97, feasible) == expected[0]
    first = len(simulated)
    assert plan_checkpoints(asked[1], 0.97, feasible) == expected[1]
    assert len(simulated) - first < 0.2 * first
    assert plan_checkpoints(asked[0], 0.97, feasible) == expected[0], "equal to a plan without what is known"


def test_the_same_question_has_the_same_answer() -> None:
    first = plan_checkpoints(race(12), 0.95)
    assert plan_checkpoints(race(12), 0.95) == first


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_are_cut_at_most_once(steps: int) -> None:
    costs = CostModel.from_measurements({1: 1.0, 16: 16.0}, {1: 0.001}, {1: 0.001})
    known = tuple(min(0.999, 0.9 + 0.04 * step) for step in range(steps))
    plan = plan_checkpoints(PlanInput(64, 1, steps, known, costs), 0.97)
    assert len(plan) == (0 if steps == 1 else 1)


def test_reliable_previews_are_cut_early_and_large_fields_three_times() -> None:
    known = (0.3, 0.55, 0.65, 0.72, 0.84, 0.9, 0.92, 0.93, 0.95, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 1.0)
    early = plan_checkpoints(race(64, known=known), 0.97)
    assert len(early) == 3
    assert early[0].at < 0.2 * 16
    late = plan_checkpoints(race(64, known=(0.3, 0.4, 0.45, *known[3:])), 0.97)
    assert late[0].at >= 0.2 * 16
