"""Negations in prompts are named with the negative that works; other texts are left alone."""

from __future__ import annotations

import pytest

from app.engine.texts.negation import negation_notices


@pytest.mark.parametrize(
    ("prompt", "negatives"),
    [
        ("an apple without a green background", ["green background"]),
        ("An apple WITHOUT any leaves, on a table", ["leaves"]),
        ("a portrait without glasses and a hat", ["glasses"]),
        ("a street with no people in the rain", ["people"]),
        ("a castle, no text, no watermark", ["text", "watermark"]),
        ("no humans, a forest", ["humans"]),
        ("a man not wearing a hat", ["hat"]),
        ("a dog that isn't wearing a red collar.", ["red collar"]),
        ("яблоко без зелёного фона", ["зелёного фона"]),
        ("улица без людей и машин", ["людей"]),
        ("Кот без шляпы на крыше", ["шляпы"]),
        ("замок, никаких надписей", ["надписей"]),
    ],
)
def test_negations_are_named(prompt: str, negatives: list[str]) -> None:
    found = negation_notices(prompt, [])
    assert [notice.data["negative_prompt"] for notice in found] == negatives
    for notice, negative in zip(found, negatives, strict=True):
        assert notice.code == "negation_in_prompt"
        assert negative in notice.detail
        assert notice.data["text"].casefold() in prompt.casefold()


@pytest.mark.parametrize(
    "prompt",
    [
        "a red apple on a white background",
        "a no parking sign on a wall",
        "a man at a no-smoking sign",
        "No Man's Sky spaceship",
        "no smoking sign",
        "no. 5 perfume bottle",
        "nobody at the beach",
        "a knot without end",
        "Doctors without Borders tent",
        'a poster that says "no war, no hunger"',
        "a banner with the words 'without love'",
        "notes on a table, nothing else",
        "a nottingham street",
        "not a number",
        "a horse with a bow and a note",
        "бездна и безмолвие",
        "безрукавка на вешалке",
        "море без конца и края",
        "без пяти минут полночь",
        "плакат «без войны»",
        "неон в ночи, нетопырь",
        "",
    ],
)
def test_other_texts_get_no_warning(prompt: str) -> None:
    assert negation_notices(prompt, []) == ()


def test_what_is_a_negative_already_gets_no_warning() -> None:
    assert negation_notices("an apple without leaves", ["green leaves, text"]) == ()
