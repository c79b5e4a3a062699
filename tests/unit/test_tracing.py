from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Finished, Started, Succeeded, Update
from app.engine.pruning import calibration
from app.engine.trajectories import default_spec, record_trajectories, run_generation
from app.errors import EngineFailed
from app.service import GenerationParams, Limits
from app.service.generations.spec import build_spec
from models.protocols import Models, Styles
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import InstrumentedGenerator
from tests.unit.engine_kit import BlindScorer, spec

STYLES = Styles(("old style", "new style"), frozenset({"style"}), spread=True)


def test_a_race_is_watched_at_every_step_and_a_calibration_comes_of_it() -> None:
    generator, scorer = InstrumentedGenerator(), FakeScorer()
    core = EngineCore(Models(generator, scorer), EngineConfig())
    told: list[int] = []
    races = list(
        record_trajectories(
            core, generator.info, ["a red apple", "a blue boat", "grass"], n_candidates=8, progress=told.append
        )
    )
    assert told == [1, 2, 3]
    for race in races:
        assert race.trajectory.previews.shape == race.trajectory.guidance_gaps.shape == (8, 8)
        assert race.images.shape == (8, 64, 64, 3)
        assert np.abs(race.trajectory.previews[-1] - race.trajectory.finals).max() == 0
        assert (race.trajectory.guidance_gaps[:-1] > 0).all()
        assert race.trajectory.embeddings is not None
        assert race.trajectory.prompt is not None
        cosines = race.trajectory.embeddings.astype(np.float64) @ race.trajectory.prompt
        np.testing.assert_allclose(cosines, race.trajectory.previews, atol=2e-3)
    made = calibration.fit_calibration([r.trajectory for r in races], generator.info, scorer.info)
    assert made.spearman[-1] == pytest.approx(1.0)
    assert made.spearman[0] < 1.0


def test_a_race_that_fails_says_so() -> None:
    generator = InstrumentedGenerator(fail_on_call=3)
    core = EngineCore(Models(generator, FakeScorer()), EngineConfig())
    with pytest.raises(EngineFailed):
        list(record_trajectories(core, generator.info, ["x"], n_candidates=2))


def test_a_score_that_is_not_a_number_calibrates_nothing() -> None:
    generator = InstrumentedGenerator()
    core = EngineCore(Models(generator, BlindScorer(1)), EngineConfig())
    with pytest.raises(EngineFailed, match="no score"):
        list(record_trajectories(core, generator.info, ["x"], n_candidates=2))


def test_one_generation_runs_to_its_end_and_every_update_is_noted() -> None:
    generator = InstrumentedGenerator()
    core, updates = EngineCore(Models(generator, FakeScorer()), EngineConfig()), list[Update]()
    outcome = run_generation(core, spec(n_candidates=3, steps=4), updates.append)
    assert [c.index for c in outcome.candidates] == [0, 1, 2]
    assert isinstance(updates[0], Started)
    assert sum(isinstance(each, Finished) for each in updates) == 3
    assert isinstance(updates[-1], Succeeded)
    assert updates[-1].outcome is outcome
    assert core.idle


@pytest.mark.parametrize("styles", [None, STYLES, STYLES.decided("off")])
def test_the_default_generation_is_what_a_request_without_settings_is(styles: Styles | None) -> None:
    info = replace(FakeGenerator().info, styles=styles)
    params = GenerationParams("a red apple", n_candidates=3, n=3, seed=7)
    asked, _ = build_spec(params, info, Limits(), lambda *_: ((), False, ()))
    assert replace(asked, id="gen_a", guards=()) == default_spec(info, "gen_a", "a red apple", 3, 7)
