"""The probability of a match and the standard error of a margin, on simulated scorers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import Negative, Ranking, Reference, Score
from app.engine.ranking import probability, scoring
from app.engine.ranking.placement import place_candidates
from app.imaging.provenance.receipts import order_problems
from models import calibration_io
from models.protocols import Calibration, MatchCalibration, ScorerInfo

SCORER = ScorerInfo("s", "1", 4, 64, 77, 100.0, "cpu", 0.0, 0.1)
MATCH = MatchCalibration(slope=20.0, intercept=-6.0, noise=0.01, error=0.02, pairs=100, reliability=((0.1, 0.1, 1.0),))
TRUE_SLOPE = 0.3 / 0.1**2
"""Log odds per unit of cosine, where matches are N(0.3, 0.1) and others N(0, 0.1)."""


def simulated(prompts: int, per_prompt: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images (P, N, P) and texts (P, P): cosines N(0.3, 0.1) with the own text and N(0, 0.1) with others."""
    draw = np.random.default_rng(seed)
    cosines = draw.normal(0, 0.1, (prompts, per_prompt, prompts))
    cosines += 0.3 * np.eye(prompts)[:, None]
    return cosines.astype(np.float32), np.eye(prompts, dtype=np.float32)


def one_view(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return images[:, :, None]


def test_the_fit_finds_the_odds_that_the_cosines_were_drawn_with() -> None:
    images, texts = simulated(64, 16)
    made = probability.fit_match(images, texts, one_view(images))
    assert made.slope == pytest.approx(TRUE_SLOPE, rel=0.1)
    assert -made.intercept / made.slope == pytest.approx(0.15, abs=0.01), "even odds are halfway"
    assert made.error <= 0.02
    assert made.pairs == 64 * 16 * 16, "every fold of 16 prompts is judged by the fit to the others"
    assert sum(weight for _, _, weight in made.reliability) == pytest.approx(1, abs=1e-4)


def test_errors_of_calibration_are_seen() -> None:
    images, texts = simulated(64, 8)
    cosines, matches, weights = probability.match_pairs(images, texts, np.arange(64))
    slope, intercept = probability.fit_platt(cosines, matches, weights)
    told = {}
    for name, factor in (("fitted", 1.0), ("sure", 4.0), ("timid", 0.25)):
        predicted = 1 / (1 + np.exp(-factor * (slope * cosines + intercept)))
        told[name] = probability.calibration_error(probability.reliability(predicted, matches, weights))
    assert told["fitted"] < 0.01
    assert told["sure"] > 0.03
    assert told["timid"] > 0.1


def test_equal_prompts_form_no_unrelated_pair() -> None:
    images, texts = simulated(16, 2)
    texts[1] = texts[0]
    cosines, matches, weights = probability.match_pairs(images, texts, np.arange(16))
    assert len(cosines) == 16 * 2 * 16 - 2 * 2
    assert weights[matches == 1].sum() == pytest.approx(weights[matches == 0].sum())


def test_a_scorer_that_knows_nothing_has_no_probability() -> None:
    images, texts = simulated(16, 4)
    with pytest.raises(ValueError, match="no better than those of others"):
        probability.fit_match(-images, texts, one_view(images))
    with pytest.raises(ValueError, match="at least 8 prompts, and there are 7"):
        probability.fit_match(images[:7], texts[:7], one_view(images))


def test_noise_is_what_views_of_an_image_differ_by() -> None:
    draw = np.random.default_rng(1)
    images, texts = simulated(32, 4)
    shared = draw.normal(0, 0.2, (1, 1, 6, 1))
    views = images[:, :, None] + shared + draw.normal(0, 0.02, (32, 4, 6, 32))
    assert probability.score_noise(views.astype(np.float32), texts) == pytest.approx(0.02, rel=0.1)
    assert probability.score_noise(one_view(images), texts) == 0


def test_views_show_the_same() -> None:
    image = np.random.default_rng(3).integers(20, 200, (48, 64, 3), np.uint8)
    views = probability.views_of(image)
    assert len(views) == 7
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in views)
    assert (views[1][1:] == image[:-1]).all()
    assert (views[4][:, :-1] == image[:, 1:]).all()
    assert sum((view == image).all() for view in views) == 1


def test_the_margin_error_is_the_spread_of_differences_of_scores() -> None:
    """Scores of two images whose cosines vary by the noise, by the service's own formula."""
    draw, count = np.random.default_rng(2), 20_000
    ranking = Ranking(
        negative_weight=0.8,
        negatives=(Negative("a", 1.0), Negative("b", 3.0)),
        references=(Reference(0.5, (0.0,) * 4), Reference(-2.0, (0.0,) * 4)),
    )
    images = (0.4 + draw.normal(0, MATCH.noise, (2 * count, 5))).astype(np.float32)
    axes = np.eye(5, dtype=np.float32)
    query = replace(
        scoring.Query(axes[0], axes[1:3], np.asarray((1, 3), np.float32), ranking.negative_weight),
        references=axes[3:],
        reference_weights=np.asarray((0.5, -2.0), np.float32),
    )
    scores = np.asarray([s.score for s in scoring.score_images(images, query)])
    found = probability.margin_error(ranking, MATCH)
    assert found == pytest.approx((scores[:count] - scores[count:]).std(), rel=0.03)
    assert probability.margin_error(Ranking(), MATCH) == pytest.approx(MATCH.noise * 2**0.5)
    assert probability.margin_error(ranking, None) is None


def test_placement_has_probabilities_and_excludes_unlikely_images() -> None:
    scores = [Score(s, s, 0.0) for s in (0.5, 0.1, 0.31)]
    vectors = np.eye(3, 4, dtype=np.float32)
    placed = place_candidates(scores, vectors, [0, 1, 2], Ranking(min_probability=0.5), 3, SCORER, match=MATCH)
    found = [each.probability for each in placed.placements]
    assert found == pytest.approx([1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(4.0)), 1 / (1 + np.exp(-0.2))])
    assert placed.returned == (0, 2)
    assert placed.margin == pytest.approx(0.19)
    assert placed.margin_error == pytest.approx(0.01 * 2**0.5)
    unknown = place_candidates(scores, vectors, [0, 1, 2], Ranking(min_probability=0.0), 3, SCORER)
    assert unknown.returned == ()
    assert unknown.margin_error is None
    free = place_candidates(scores, vectors, [0, 1, 2], Ranking(), 3, SCORER)
    assert free.returned == (0, 2, 1)


def test_a_taste_does_not_move_the_probability() -> None:
    plain, liked = Score(0.4, 0.4, 0.0), Score(0.9, 0.7, 0.0, prompt=0.4, taste=0.2)
    assert probability.match_probability(plain, MATCH) == probability.match_probability(liked, MATCH)
    assert probability.match_probability(Score(float("nan"), float("nan"), 0.0), MATCH) is None
    assert probability.match_probability(None, MATCH) is None


def calibration() -> Calibration:
    return Calibration("1", "1", "ddim", 1, 2.0, (1.0,), (1.0,), (1.0,), (0.0,), match=MATCH)


def test_it_is_stored_with_the_calibration() -> None:
    stored = json.loads(json.dumps(calibration_io.to_json(calibration())))
    assert calibration_io.from_json(stored) == calibration()
    del stored["match"]
    assert calibration_io.from_json(stored).match is None, "a calibration of before has none"


@pytest.mark.parametrize(
    "broken",
    [
        {"slope": -1.0},
        {"slope": float("nan")},
        {"noise": -0.1},
        {"reliability": [[0.1, 0.2]]},
        {"reliability": 3},
        {"slope": None},
        {"other": 1},
    ],
)
def test_a_broken_probability_is_refused(broken: dict[str, object]) -> None:
    stored = calibration_io.to_json(calibration())
    with pytest.raises(ValueError, match="calibration"):
        calibration_io.from_json({**stored, "match": {**stored["match"], **broken}})


def test_a_receipt_holds_only_if_the_minimum_was_kept() -> None:
    def claims(*probabilities: float | None) -> dict[str, Any]:
        common: dict[str, Any] = {"pruned_at_step": None, "failed": False, "flags": [], "flagged": None}
        ranked: list[dict[str, Any]] = [{"index": 0, "rank": 1, "score": 0.3}, {"index": 1, "rank": None, "score": 0.4}]
        candidates = [{**common, **c, "probability": p} for c, p in zip(ranked, probabilities, strict=True)]
        ranking = {"diversity": 0, "scorers": [], "veto": [], "min_score": None, "min_probability": 0.5}
        return {"candidates": candidates, "ranking": ranking, "n": 1, "safety": "off"}

    assert not order_problems(claims(0.6, 0.4))
    assert order_problems(claims(0.6, 0.7)) == [
        "candidate 1 has no rank, although it is better",
    ]
    assert order_problems(claims(0.4, None))[0] == "candidate 0 has a rank, although it is excluded"
