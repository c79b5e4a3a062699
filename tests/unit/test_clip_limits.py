"""Numbers and positions in prompts are named; other texts are left alone."""

from __future__ import annotations

import pytest

from app.domain import Ranking, ScorerUse
from app.engine.texts.clip_limits import clip_limit_notices


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("three apples on a table", ["three apples"]),
        ("Five small red birds, winter", ["Five small red birds"]),
        ("a table with 4 cups and 12 spoons", ["4 cups", "12 spoons"]),
        ("seven dwarfs", ["seven dwarfs"]),
        ("три красных яблока на столе", ["три красных яблока"]),
        ("пять кошек", ["пять кошек"]),
    ],
)
def test_numbers_of_things_are_named(prompt: str, counts: list[str]) -> None:
    found = [n for n in clip_limit_notices(prompt, []) if n.code == "count_in_prompt"]
    assert [n.data["text"] for n in found] == counts
    assert all(
        repr(text) in n.detail and "`ranking.references`" in n.detail for n, text in zip(found, counts, strict=True)
    )


@pytest.mark.parametrize(
    ("prompt", "position"),
    [
        ("a red cube to the left of a blue ball", "to the left of"),
        ("a cat on the right side, a dog on a chair", "on the right side"),
        ("a lamp above a table", "above a"),
        ("a dog behind the car", "behind the"),
        ("a boy in front of a house", "in front of a"),
        ("яблоко слева, груша", "слева"),
    ],
)
def test_positions_are_named(prompt: str, position: str) -> None:
    (found,) = (n for n in clip_limit_notices(prompt, []) if n.code == "position_in_prompt")
    assert found.data["text"] == position


@pytest.mark.parametrize(
    "prompt",
    [
        "a red apple on a white background",
        "two cats",
        "a one-eyed pirate",
        "portrait, 35mm, f/1.8, 4k, 8k, 16:9",
        "a street in 1995",
        "a boy of 10 years",
        "five o'clock tea",
        "a three-legged stool",
        "iPhone 7 on a table",
        "a cartoon in 3 d",
        "a man three times, blurred",
        "a film about seven seasons",
        "a right of way sign",
        "behind the scenes of a film",
        "above all, light",
        "the left wing of a plane",
        "a poster with the words 'three apples'",
        "пять лет спустя",
        "",
    ],
)
def test_other_texts_get_no_warning(prompt: str) -> None:
    assert clip_limit_notices(prompt, []) == ()


def test_each_is_named_once_and_negations_stay() -> None:
    notices = clip_limit_notices("three apples and three apples, no leaves", [])
    assert [n.code for n in notices] == ["negation_in_prompt", "count_in_prompt"]


def test_positions_need_no_warning_if_a_scorer_judges_them() -> None:
    prompt = "three apples, a cup to the left of a pear"
    assert [n.code for n in clip_limit_notices(prompt, [], judges_positions=True)] == ["count_in_prompt"]
    uses = (ScorerUse("fake"), ScorerUse("layout:fake", 0.0))
    assert not Ranking(scorers=uses).judges_positions
    assert Ranking(scorers=(*uses, ScorerUse("layout:fake-2"))).judges_positions
