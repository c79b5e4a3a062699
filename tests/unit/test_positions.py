"""Where prompts put two things."""

from __future__ import annotations

import pytest

from models.reading.positions import read_arrangement

LR, RL = ("left", "right"), ("right", "left")
TB, BT = ("top", "bottom"), ("bottom", "top")


@pytest.mark.parametrize(
    ("text", "first", "second", "places"),
    [
        ("a red cube to the left of a blue ball", "a red cube", "a blue ball", (LR,)),
        ("A photo of a cat right of a dog", "a cat", "a dog", (RL,)),
        ("a cat is on the left side of a dog", "a cat", "a dog", (LR,)),
        ("a cat on the left and a dog on the right", "a cat", "a dog", (LR,)),
        ("a cat on the right side, a dog on the left side", "a cat", "a dog", (RL,)),
        ("a cat at the top and a dog at the bottom, flat style", "a cat", "a dog", (TB,)),
        ("a cat at the bottom, a dog at the top", "a cat", "a dog", (BT,)),
        ("two  birds\tabove a house on a white background", "two birds", "a house", (TB,)),
        ("a fox below a tree in front of a grey background, noto style", "a fox", "a tree", (BT,)),
        ("a bird on top of a car. Oil painting", "a bird", "a car", (TB,)),
        ("a cup next to a plate black background", "a cup", "a plate", (LR, RL)),
        ("a cup and a plate side by side", "a cup", "a plate", (LR, RL)),
        ("a cup and a plate are next to each other", "a cup", "a plate", (LR, RL)),
        ("a cup beside a painting of a dog", "a cup", "a painting of a dog", (LR, RL)),
        ("a watercolor painting of a cat left of a dog", "a cat", "a dog", (LR,)),
        ("a cat to the left of a dog on a plain light-grey background", "a cat", "a dog", (LR,)),
        ("кошка над собакой на бледном светло-сером фоне", "кошка", "собакой", (TB,)),
        ("a cat, a hat to the left of a dog", "a cat, a hat", "a dog", (LR,)),
        ("красное яблоко слева от синей чашки", "красное яблоко", "синей чашки", (LR,)),
        ("кошка справа от собаки на белом фоне", "кошка", "собаки", (RL,)),
        ("слева кошка, а справа собака", "кошка", "собака", (LR,)),
        ("справа кошка и слева собака", "кошка", "собака", (RL,)),
        ("кошка слева, собака справа, рисунок", "кошка", "собака", (LR,)),
        ("кошка справа, собака слева", "кошка", "собака", (RL,)),
        ("птица над домом", "птица", "домом", (TB,)),
        ("кошка под столом", "кошка", "столом", (BT,)),
        ("кошка рядом с собакой", "кошка", "собакой", (LR, RL)),
    ],
)
def test_two_things_and_their_places_are_read(text: str, first: str, second: str, places: tuple[object, ...]) -> None:
    found = read_arrangement(text)
    assert found is not None
    assert (found.first, found.second, found.places) == (first, second, places)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a cat", "a cat and a dog", "a left-handed man", "a house on the left", "an overview of a city"),
        *("left of a dog", "a cat above", " над ", "a cat behind a dog", "a picture of left of", "слева кошка"),
        *("two books on top of each other", "a cat and a dog, one above the other", "a cat to the left of it"),
        *(
            "a cat on the left side of the image",
            "a cat in the left side of the box",
            "a man, the left of his face lit",
        ),
        *("a cat that is not above a dog", "кошка не над собакой"),
        *("a cat, a dog, a cow, a hen, a pig, a fox, a bee, an ant, a bird above a house",),
    ],
)
def test_what_has_no_form_puts_nothing_anywhere(text: str) -> None:
    assert read_arrangement(text) is None


@pytest.mark.parametrize("part", ["a on the left and ", " left of ", "a, ", " the background", " on"])
def test_long_texts_are_read_in_one_pass(part: str) -> None:
    """A pattern that tries all pairs of places would need hours."""
    read_arrangement(part * 20_000)
