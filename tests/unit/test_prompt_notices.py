"""Notices about prompts: contradictory negatives and the like."""

from __future__ import annotations

import pytest

from app.domain import Score
from app.engine import notices
from tests.unit.test_ranking import scorer, unit


def test_a_negative_that_says_what_the_prompt_says_is_told_of() -> None:
    vectors = unit((1, 0), (1, 0.1), (0, 1))
    (notice,) = notices.contradiction_notices(["a red apple", "red apple", "blurry"], vectors)
    assert (notice.code, notice.data["text"]) == ("negative_contradicts_prompt", "red apple")
    assert notice.data["similarity"] == pytest.approx(0.995, abs=1e-3)
    assert notices.contradiction_notices(["a red apple"], vectors[:1]) == ()


def test_words_that_nothing_is_like_are_told_of() -> None:
    weak, strong = Score(0.1, 0.1, 0.0), Score(0.5, 0.5, 0.0)
    (notice,) = notices.unrecognised_prompt_notices([weak, None], scorer(0.0, 0.1))
    assert (notice.code, notice.data["best_z_score"]) == ("prompt_not_recognised", pytest.approx(1.0))
    assert notices.unrecognised_prompt_notices([weak], scorer(0.0, 0.1), [notice]) == ()
    assert notices.unrecognised_prompt_notices([weak, strong], scorer(0.0, 0.1)) == ()
    assert (
        notices.unrecognised_prompt_notices([weak], scorer(None, None))
        == notices.unrecognised_prompt_notices([], scorer())
        == ()
    )
