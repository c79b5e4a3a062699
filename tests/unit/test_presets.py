from __future__ import annotations

from pathlib import Path

import pytest

from app.service.presets import DEFAULT_PRESETS_PATH, Aspect, Presets, split_phrases
from app.settings import Settings


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red apple", ["a red apple"]),
        ("a cat, a dog and a bird with hats", ["a cat", "a dog", "a bird", "hats"]),
        ("sand, sand; sand", ["sand"]),
        ("One thing. Another one.", ["One thing", "Another one"]),
        ("brandy or candy", ["brandy", "candy"]),
        ("a boat on a blue background", ["a boat", "on a blue background"]),
        ("a boat in front of a background of clouds", ["a boat", "in front of a background of clouds"]),
        ("a cat on a plain white background", ["a cat", "on a plain white background"]),
        ("a cat against the background of a city", ["a cat", "against the background of a city"]),
        ("the background on a stage", ["the background on a stage"]),
        (" , ,", []),
    ],
)
def test_a_prompt_is_cut_at_commas_conjunctions_and_its_background(prompt: str, parts: list[str]) -> None:
    assert split_phrases(prompt) == parts


def test_phrases_are_told_apart_by_the_words_of_presets() -> None:
    presets = Presets.read(DEFAULT_PRESETS_PATH)
    assert presets.aspect("Golden Hour") is Aspect.STYLE
    assert presets.aspect("extreme close-up shot") is Aspect.COMPOSITION
    assert presets.aspect("an apple") is Aspect.CONTENT
    assert presets.aspect("on a red background") is Aspect.COMPOSITION
    assert presets.aspect("background radiation") is Aspect.CONTENT


@pytest.mark.parametrize(
    "text",
    [
        "[[preset",
        "preset = 3",
        "[[presets]]",
        "[[preset]]\ngroup = 'light'\nname = 'x'",
        "[[preset]]\ngroup = 'light'\nname = 'x'\nprompt = 'y'\nwords = [1]",
        "[[preset]]\ngroup = 'light'\nname = 'x'\nprompt = 'y'\ncolour = 'red'",
    ],
)
def test_a_file_that_holds_no_presets_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    for read in (lambda: Presets.read(path), lambda: Settings(presets=path)):
        with pytest.raises(ValueError, match=r"mine\.toml"):
            read()


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[[preset]]\ngroup = 'framing'\nname = 'Low'\nprompt = 'from the ground'\nwords = ['ground']")
    (preset,) = Presets.read(path).items
    assert (preset.name, preset.negative, preset.aspect) == ("Low", "", Aspect.COMPOSITION)
