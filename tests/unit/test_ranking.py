from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.engine.ranking import duplicates, scoring
from models.protocols import ScorerInfo


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    values = np.asarray(rows, np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def query(prompt: tuple[float, ...], *negatives: tuple[float, ...], weights: tuple[float, ...] = ()) -> scoring.Query:
    hostile = unit(*negatives) if negatives else np.zeros((0, len(prompt)), np.float32)
    return scoring.Query(unit(prompt)[0], hostile, np.asarray(weights, np.float32), 0.5)


def referring(weights: tuple[float, ...], *references: tuple[float, ...]) -> scoring.Query:
    return replace(
        query((1, 0), (0, 1), weights=(1,)),
        references=unit(*references),
        reference_weights=np.asarray(weights, np.float32),
    )


def scorer(mean: float | None = 0.0, std: float | None = 0.1) -> ScorerInfo:
    return ScorerInfo("s", "1", 2, 64, 77, 100.0, "cpu", mean, std)


def test_without_negatives_the_score_is_the_similarity() -> None:
    (only,) = scoring.score_images(unit((1, 1)), query((1, 0)))
    assert only.penalty == 0
    assert only.score == only.similarity == pytest.approx(np.sqrt(0.5))


def test_penalty_is_the_weighted_mean_of_positive_cosines() -> None:
    images = unit((0.6, 0.8))
    (only,) = scoring.score_images(images, query((1, 0), (0, 1), (0, -1), weights=(3, 1)))
    assert only.negatives == pytest.approx((0.8, -0.8))
    assert only.penalty == pytest.approx(3 * 0.8 / 4)
    assert only.score == pytest.approx(0.6 - 0.5 * 0.6)


def test_ties_break_by_place_and_nan_comes_last() -> None:
    assert scoring.rank_order([0.1, float("nan"), 0.3, 0.3, -5.0]) == [2, 3, 0, 4, 1]


@given(st.lists(st.floats(-1, 1) | st.just(float("nan")), max_size=20), st.integers(1, 20))
def test_select_returns_the_best_in_order(scores: list[float], n: int) -> None:
    chosen = scoring.select_best(scores, np.zeros((len(scores), 2), np.float32), n)
    finite = [s for s in scores if s == s]
    assert [scores[i] for i in chosen] == sorted(finite, reverse=True)[:n]


def test_min_score_leaves_lower_ones_out() -> None:
    assert scoring.select_best([0.1, 0.5, 0.3], np.zeros((3, 2), np.float32), 3, min_score=0.3) == [1, 2]


def test_diversity_passes_over_a_near_duplicate() -> None:
    images = unit((1, 0, 0), (1, 0.01, 0), (0, 1, 0))
    assert scoring.select_best([0.9, 0.89, 0.5], images, 2) == [0, 1]
    assert scoring.select_best([0.9, 0.89, 0.5], images, 2, diversity=0.5) == [0, 2]


@given(
    arrays(np.float32, st.tuples(st.integers(1, 12), st.just(4)), elements=st.floats(-1, 1, width=16)),
    st.integers(1, 12),
    st.floats(0, 1),
)
def test_diverse_picks_are_distinct_hold_the_best_and_are_in_order(
    images: np.ndarray, n: int, diversity: float
) -> None:
    images = unit(*map(tuple, images + np.float32(0.01)))
    scores = [float(v) for v in images[:, 0]]
    chosen = scoring.select_best(scores, images, n, diversity=diversity)
    assert len(chosen) == len(set(chosen)) == min(n, len(scores))
    assert scoring.rank_order(scores)[0] == chosen[0]
    assert [scores[i] for i in chosen] == sorted((scores[i] for i in chosen), reverse=True)


def test_softmax_is_a_share_and_knows_nan() -> None:
    shares = scoring.softmax([0.3, float("nan"), 0.3], 100)
    assert shares == pytest.approx([0.5, 0.0, 0.5])
    assert scoring.softmax([], 100) == []


def test_margin_needs_two() -> None:
    assert scoring.margin([0.2]) is None
    assert scoring.margin([0.2, 0.5, 0.1]) == pytest.approx(0.3)
    assert scoring.margin([0.2, float("nan")]) is None


@pytest.mark.parametrize(
    ("similarity", "field", "expected"),
    [
        pytest.param(0.5, [0.5, 0.1], False, id="clear winner"),
        pytest.param(0.1, [0.1, -0.3], True, id="no better than chance"),
        pytest.param(0.5, [0.5, 0.49], True, id="all alike"),
    ],
)
def test_low_confidence(similarity: float, field: list[float], expected: bool) -> None:
    best = scoring.score_images(unit((similarity, float(np.sqrt(1 - similarity**2)))), query((1, 0)))[0]
    assert scoring.low_confidence(best, field, scorer()) is expected


def test_without_a_null_distribution_nothing_is_said() -> None:
    best = scoring.score_images(unit((1, 0)), query((1, 0)))[0]
    assert scoring.z_score(1.0, scorer(None, None)) is None
    assert not scoring.low_confidence(best, [1.0], scorer(None, None))
    assert scoring.low_confidence(None, [], scorer())


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.sampled_from([4, 13, 256, 513])),
        elements=st.floats(-1, 1, width=16),
    ),
    st.integers(0, 2**32 - 1),
)
def test_a_score_does_not_depend_on_company(images: np.ndarray, seed: int) -> None:
    images = unit(*map(tuple, images + np.float32(0.01)))
    random = np.random.default_rng(seed)
    texts = unit(*map(tuple, random.normal(size=(25, images.shape[1]))))
    asked = scoring.Query(
        texts[0], texts[1:10], np.ones(9, np.float32), 0.5, texts[1:], random.normal(size=24).astype(np.float32),
        scoring.TasteTerm(texts[3], 0.1, 0.05),
    )  # fmt: skip
    together = scoring.score_images(images, asked)
    assert together == [scoring.score_images(image[None], asked)[0] for image in images]
    assert together[::-1] == scoring.score_images(images[::-1], asked)


def test_liked_references_mix_with_the_prompt() -> None:
    (only,) = scoring.score_images(unit((0.6, 0.8)), referring((0.5, 1.5), (0, 1), (1, 0)))
    assert only.references == pytest.approx((0.8, 0.6))
    assert only.prompt_similarity == pytest.approx(0.6)
    assert only.similarity == pytest.approx((0.6 + 0.5 * 0.8 + 1.5 * 0.6) / 3)


def test_unwanted_references_count_among_the_negatives() -> None:
    (only,) = scoring.score_images(unit((0.6, 0.8)), referring((-3,), (1, 0)))
    assert only.similarity == only.prompt_similarity == pytest.approx(0.6)
    assert only.penalty == pytest.approx((1 * 0.8 + 3 * 0.6) / 4)


@pytest.mark.parametrize(("angle", "share"), [(1.0, 0.05), (-1.0, -0.05)])
def test_taste_adds_at_most_its_bound(angle: float, share: float) -> None:
    asked = replace(query((0, 1)), taste=scoring.TasteTerm(np.asarray([100, 0], np.float32), 0.0, 0.05))
    (only,) = scoring.score_images(unit((angle, 0)), asked)
    assert only.taste == pytest.approx(share)
    assert only.score == pytest.approx(only.similarity + share)


def test_near_duplicates_are_chains_named_by_their_best() -> None:
    steps = [(float(np.cos(a)), float(np.sin(a))) for a in (0.0, 0.2, 0.4, 1.5, 3.0, 3.1)]
    images = unit(*steps)
    assert duplicates.duplicate_groups(images) == [0, 0, 0, 3, 4, 4]
    assert duplicates.find_duplicates(images, [5, 2, 3, 0, 1, 4]) == {0: 2, 1: 2, 4: 5}


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0))
def test_diversity_returns_one_of_each_group_where_there_are_enough(seed: int, diversity: float) -> None:
    random = np.random.default_rng(seed)
    centres = np.eye(4, 16) + 0.3
    images = unit(*map(tuple, centres.repeat(8, axis=0) + random.normal(0, 0.01, (32, 16))))
    chosen = scoring.select_best(list(random.normal(size=32)), images, 4, diversity=diversity)
    assert sorted(i // 8 for i in chosen) == [0, 1, 2, 3]
