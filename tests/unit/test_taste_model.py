"""The taste model: it learns from votes, keeps its bound, and withstands contradictory votes."""

from __future__ import annotations

import numpy as np
import pytest

from app.engine.ranking import scoring, taste_model
from tests.unit.test_ranking import scorer, unit

CENTRE = np.zeros(64, np.float32)


def cast(count: int, seed: int = 0, towards: int = 0) -> np.ndarray:
    """Directions that agree along one axis and differ along all others."""
    votes = np.random.default_rng(seed).normal(0, 0.3, (count, 64)).astype(np.float32)
    votes[:, towards] = 0.5
    return votes


@pytest.mark.parametrize("count", [1, 10, 63, 64, 65, 10_000])
def test_it_learns_what_votes_have_in_common(count: int) -> None:
    head = taste_model.fit_taste(cast(count), CENTRE)
    assert np.isfinite(head.vector).all()
    assert head.agreement(cast(count)) > (0.9 if count < 1000 else 0.7)
    if count > 5:
        assert np.argmax(head.vector) == 0


def test_it_is_the_same_every_time_and_whatever_the_order() -> None:
    votes = cast(20)
    one, two = taste_model.fit_taste(votes, CENTRE), taste_model.fit_taste(votes, CENTRE)
    np.testing.assert_array_equal(one.vector, two.vector)
    np.testing.assert_allclose(taste_model.fit_taste(votes[::-1], CENTRE).vector, one.vector, atol=1e-9)


def test_votes_that_contradict_cancel_out() -> None:
    votes = cast(12)
    head = taste_model.fit_taste(np.concatenate([votes, -votes]), CENTRE)
    np.testing.assert_allclose(head.vector, 0, atol=1e-9)
    np.testing.assert_array_equal(taste_model.fit_taste(np.zeros((3, 64), np.float32), CENTRE).vector, 0)


def test_more_votes_say_it_louder_but_never_beyond_the_bound() -> None:
    liked = unit((1.0, *[0.0] * 63))
    shares = []
    for count in (1, 10, 1000):
        head = taste_model.fit_taste(cast(count), CENTRE)
        taste = scoring.TasteTerm(head.vector.astype(np.float32), head.offset, taste_model.score_bound(scorer()))
        (score,) = scoring.score_images(
            liked, scoring.Query(liked[0], np.zeros((0, 64), np.float32), np.zeros(0, np.float32), 0.5, taste=taste)
        )
        shares.append(score.taste)
    assert 0 < shares[0] < shares[1] < shares[2] <= taste_model.score_bound(scorer()) == pytest.approx(0.05)


def test_the_middle_of_the_fields_is_neither_liked_nor_disliked() -> None:
    centre = np.random.default_rng(3).normal(size=64).astype(np.float32)
    head = taste_model.fit_taste(cast(10), centre)
    assert float(centre @ head.vector) == pytest.approx(head.offset)
