"""What "auto" does with an engine's calibration and costs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from app.domain import Checkpoint
from app.engine.client import Engine
from app.engine.costs import Costs
from app.service.cutting import Cutter, PruningPolicy
from app.service.drafting import Heat
from models.contract import Calibration
from models.fakes import FakeGenerator, FakeScorer

KNOWN = (0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
HEAT = Heat(16, 1, "ddim", 8, guided=True)


def calibrated(generator: str = "1") -> Calibration:
    return Calibration(generator, "1", "ddim", 8, KNOWN, KNOWN, (1.0,) * 8, (0.0,) * 8)


def cutter(calibration: Calibration | None, **policy: object) -> Cutter:
    engine = SimpleNamespace(
        calibration=calibration,
        generator=FakeGenerator().info,
        scorer=FakeScorer().info,
        costs=Costs.of({1: 0.1, 16: 0.8}, preview=0.02, finish=0.02),
    )
    return Cutter(cast(Engine, engine), PruningPolicy(**policy))  # type: ignore[arg-type]


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
    assert cut("auto", Heat(4, 4, "ddim", 8, guided=True)) == ((), False, ())
    assert cut("auto", Heat(16, 1, "ddim", 1, guided=True)) == ((), False, ())


def test_a_sampler_that_passes_the_noise_sooner_is_cut_sooner() -> None:
    even, quadratic = (cutter(calibrated())("auto", replace(HEAT, sampler=s))[0] for s in ("ddim", "ddim_quadratic"))
    assert quadratic[0].at < even[0].at


def test_a_lower_quality_is_cut_harder() -> None:
    def survivors(quality: float) -> int:
        checkpoints: tuple[Checkpoint, ...] = cutter(calibrated(), quality=quality)("auto", HEAT)[0]
        return sum(c.keep or 0 for c in checkpoints)

    assert survivors(0.8) < survivors(0.99)


def test_a_share_runs_in_shadow() -> None:
    assert cutter(calibrated(), shadow_share=1.0)("auto", HEAT)[1]
    assert not cutter(calibrated(), shadow_share=1.0)("off", HEAT)[1]
