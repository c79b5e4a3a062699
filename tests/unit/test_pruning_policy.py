"""Pruning "auto" with an engine's calibration and costs."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from app.domain import Checkpoint
from app.engine.cost_model import CostModel
from app.engine.protocols import Engine
from app.engine.pruning import planner
from app.service.generations.pruning_policy import DIVERSITY_POOL_FACTOR, PruningPlanner, PruningPolicy
from app.service.generations.spec import PruningContext
from models.protocols import Calibration, ReplayedPlans
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer

pytestmark = pytest.mark.slow

KNOWN = (0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
HEAT = PruningContext(16, 1, "ddim", 8, guidance_scale=4.0)


def calibrated(generator: str = "1") -> Calibration:
    return Calibration(generator, "1", "ddim", 8, 4.0, KNOWN, KNOWN, (1.0,) * 8, (0.0,) * 8)


def cutter(calibration: Calibration | None, **policy: object) -> PruningPlanner:
    engine = SimpleNamespace(
        calibration=calibration,
        generator=FakeGenerator().info,
        scorer=FakeScorer().info,
        costs=CostModel.from_measurements({1: 0.1, 16: 0.8}, preview={1: 0.02}, finish={1: 0.02}),
    )
    return PruningPlanner(cast(Engine, engine), PruningPolicy(**policy))  # type: ignore[arg-type]


def test_auto_cuts_where_there_is_a_calibration() -> None:
    checkpoints, shadow, notices = cutter(calibrated())("auto", HEAT)
    assert checkpoints
    assert not shadow
    assert not notices
    assert cutter(calibrated())(None, HEAT)[0] == checkpoints, "auto is the server's default"


@pytest.mark.parametrize(
    ("calibration", "word"),
    [pytest.param(None, "no calibration", id="none"), pytest.param(calibrated("2"), "other weights", id="of others")],
)
def test_auto_without_a_calibration_of_these_weights_prunes_nothing_and_says_so(
    calibration: Calibration | None, word: str
) -> None:
    checkpoints, shadow, notices = cutter(calibration)("auto", HEAT)
    assert checkpoints == ()
    assert not shadow
    assert [n.code for n in notices] == ["pruning_uncalibrated"]
    assert word in notices[0].detail


@pytest.mark.parametrize("asked", ["off", None])
def test_off_prunes_nothing_and_says_nothing(asked: str | None) -> None:
    assert cutter(calibrated(), default="off")(asked, HEAT) == ((), False, ())


def test_nothing_is_cut_when_all_are_returned_or_there_is_one_step() -> None:
    cut = cutter(calibrated())
    assert cut("auto", replace(HEAT, n_candidates=4, n=4)) == ((), False, ())
    assert cut("auto", replace(HEAT, steps=1)) == ((), False, ())


def test_a_sampler_that_passes_the_noise_sooner_is_cut_sooner_or_harder() -> None:
    even, quadratic = (cutter(calibrated())("auto", replace(HEAT, sampler=s))[0] for s in ("ddim", "ddim_quadratic"))
    assert [(c.at, c.keep) for c in quadratic] < [(c.at, c.keep) for c in even]


def test_a_lower_quality_is_cut_harder() -> None:
    def rows(quality: float) -> int:
        """Steps of all candidates."""
        checkpoints: tuple[Checkpoint, ...] = cutter(calibrated(), quality=quality)("auto", HEAT)[0]
        return HEAT.n_candidates * checkpoints[0].at + sum(
            (c.keep or 0) * (later - c.at)
            for c, later in zip(checkpoints, (*(c.at for c in checkpoints[1:]), HEAT.steps), strict=True)
        )

    assert rows(0.8) < rows(0.99)


def test_a_larger_loss_than_modelled_is_cut_less() -> None:
    trusted, measured = (
        cutter(replace(calibrated(), replay=found))("auto", HEAT)[0]
        for found in (None, ReplayedPlans(16, 192, 0.97, 0.97, 0.01, 2.0, 0.2))
    )
    assert measured == cutter(calibrated(), quality=1 - 0.03 / 2.329)("auto", HEAT)[0] != trusted


def test_a_share_runs_in_shadow() -> None:
    assert cutter(calibrated(), shadow_share=1.0)("auto", HEAT)[1]
    assert not cutter(calibrated(), shadow_share=1.0)("off", HEAT)[1]


@pytest.mark.parametrize(("guidance", "cut"), [(3.0, True), (6.0, True), (2.5, False), (6.1, False), (0.0, False)])
def test_a_calibration_speaks_for_guidance_near_its_own(guidance: float, cut: bool) -> None:
    checkpoints, _, notices = cutter(calibrated())("auto", replace(HEAT, guidance_scale=guidance))
    assert bool(checkpoints) is cut
    assert [n.code for n in notices] == ([] if cut else ["pruning_uncalibrated"])
    assert cut or f"guidance 4, far from {guidance:g}" in notices[0].detail


def test_no_guidance_is_one_kind_of_race_whatever_its_scale() -> None:
    known = replace(calibrated(), guidance_scale=0.0)
    assert all(known.covers_guidance(scale) for scale in (0.0, 0.5, 1.0, 1.5))
    assert not known.covers_guidance(2.0)
    assert known.covers_guidance(0.5, unguided_scale=0.0)
    assert not known.covers_guidance(1.0, unguided_scale=0.0), "guidance 1 is twice the prompt's weight there"


def test_changed_costs_are_planned_for_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan takes a second; its quality does not depend on the costs. Only the first request of a shape waits."""
    planned: list[str] = []
    plan, ended = planner.plan_checkpoints, threading.Event()

    def record(*args: object) -> tuple[Checkpoint, ...]:
        planned.append(threading.current_thread().name)
        checkpoints = plan(*args)  # type: ignore[arg-type]
        if len(planned) == 2:
            assert ended.wait(60), "the request returned without this plan"
        return checkpoints

    monkeypatch.setattr(planner, "plan_checkpoints", record)
    cut = cutter(calibrated())
    first = cut("auto", HEAT)[0]
    assert cut("auto", HEAT)[0] == first
    assert len(planned) == 1, "equal costs, equal plan"
    dear_previews = CostModel.from_measurements({1: 0.1, 16: 0.8}, preview={1: 5.0}, finish={1: 0.02})
    cut._engine.costs = dear_previews  # type: ignore[misc]
    assert cut("auto", HEAT)[0] == first
    assert cut("auto", HEAT)[0] == first
    ended.set()
    cut._plans._background.shutdown(wait=True)
    assert cut("auto", HEAT)[0] != first
    assert [name.startswith("pruning-planner") for name in planned] == [False, True]


@pytest.mark.parametrize("n", [1, 2])
def test_with_diversity_there_is_something_left_to_choose_from(n: int) -> None:
    heat = replace(HEAT, n=n, diverse=True)
    checkpoints = cutter(calibrated(), quality=0.5)("auto", heat)[0]
    assert checkpoints[-1].keep == DIVERSITY_POOL_FACTOR * n
    assert cutter(calibrated(), quality=0.5)("auto", replace(heat, n_candidates=DIVERSITY_POOL_FACTOR * n)) == (
        (),
        False,
        (),
    )


def test_other_scorers_than_the_one_that_prunes_have_something_left_to_choose_from() -> None:
    """A single other scorer too; the main one alone, named or not, prunes to the winner."""
    cut = cutter(calibrated(), quality=0.5)
    main = cut._engine.scorer.id
    named = ((), (main,), ("other",), (main, "other"))
    kept = [cut("auto", replace(HEAT, scorers=scorers))[0][-1].keep for scorers in named]
    assert kept == [1, 1, DIVERSITY_POOL_FACTOR, DIVERSITY_POOL_FACTOR]


def test_costs_are_of_the_guidance_they_were_measured_at() -> None:
    """A model whose own steps are unguided: a guided row costs two of them."""
    seen: list[float] = []
    engine = cutter(replace(calibrated(), guidance_scale=0.0))._engine
    info = replace(FakeGenerator().info, guidance_scale=0.0)

    def scaled(factor: float) -> CostModel:
        seen.append(factor)
        return engine.costs

    costs = SimpleNamespace(scaled=scaled)
    known = replace(calibrated(), guidance_scale=0.0)
    turbo = SimpleNamespace(calibration=known, generator=info, scorer=engine.scorer, costs=costs)
    for guidance in (0.0, 1.2):
        PruningPlanner(cast(Engine, turbo), PruningPolicy())("auto", replace(HEAT, guidance_scale=guidance))
    turbo.generator = replace(info, unguided_scale=0.0)
    PruningPlanner(cast(Engine, turbo), PruningPolicy())("auto", replace(HEAT, guidance_scale=0.4))
    turbo.generator = replace(info, guidance="embedded")
    PruningPlanner(cast(Engine, turbo), PruningPolicy())("auto", replace(HEAT, guidance_scale=1.2))
    assert seen == [1.0, 2.0, 2.0, 1.0]
