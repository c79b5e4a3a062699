from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Checkpoint
from app.engine.pruning import checkpoints as pruning


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(1, 40) | st.none())
def test_keep_is_the_best_and_never_empty(scores: list[float], keep: int | None) -> None:
    kept = pruning.select_survivors(scores, Checkpoint(3, keep))
    assert kept == sorted(kept)
    assert len(kept) == min(keep or len(scores), len(scores))
    lost = set(range(len(scores))) - set(kept)
    assert all(scores[i] <= min(scores[j] for j in kept) for i in lost)


def test_a_score_that_is_not_a_number_goes_first() -> None:
    assert pruning.select_survivors([float("nan"), -0.9, 0.2], Checkpoint(2, 2)) == [1, 2]


@pytest.mark.parametrize(
    ("checkpoints", "place", "word"),
    [
        pytest.param([Checkpoint(5, 4), Checkpoint(3, 2)], 1, "must increase", id="out of order"),
        pytest.param([Checkpoint(5, 4), Checkpoint(5, 2)], 1, "must increase", id="twice the same"),
        pytest.param([Checkpoint(0, 4)], 0, "must increase", id="before the first step"),
        pytest.param([Checkpoint(10, 4)], 0, "less than the number of steps, 10", id="at the last step"),
        pytest.param([Checkpoint(2, 9)], 0, "at most 8", id="more than live"),
        pytest.param([Checkpoint(2, 4), Checkpoint(3, 5)], 1, "at most 4", id="more than the one before kept"),
        pytest.param([Checkpoint(2, 1)], 0, "n=2", id="fewer than n"),
    ],
)
def test_bad_checkpoints_are_named(checkpoints: list[Checkpoint], place: int, word: str) -> None:
    found = pruning.find_problem(checkpoints, steps=10, n_candidates=8, n=2)
    assert found is not None
    assert found[0] == place
    assert word in found[1]


def test_good_checkpoints_pass() -> None:
    assert (
        pruning.find_problem([Checkpoint(3), Checkpoint(4, 8), Checkpoint(6, 2)], steps=10, n_candidates=8, n=2) is None
    )


def test_looks_are_spread_evenly_and_never_replace_a_pruning() -> None:
    assert pruning.with_preview_rounds(3, 16, ()) == (Checkpoint(4), Checkpoint(8), Checkpoint(12))
    assert pruning.with_preview_rounds(1, 16, (Checkpoint(8, 2),)) == (Checkpoint(8, 2),)
    assert pruning.with_preview_rounds(3, 1, ()) == ()
