"""`variants` and `quality` over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, is_problem, running
from tests.synthetic_models import StyledGenerator

ASKED: dict[str, Any] = {"prompt": "a red apple", "n_candidates": 6, "steps": 4, "seed": 12}
TEXTS = ["a red apple", "a blue car", "a green tree"]


def test_candidates_are_sampled_from_each_text_and_ranked_by_the_prompt(house: House) -> None:
    made = house.made(**ASKED, n=6, variants=TEXTS)
    assert [c["wording"] for c in made["candidates"]] == [None, *TEXTS[1:]] * 2
    assert made["ranking"]["prompt"] == "a red apple"
    assert made["data"][0]["wording"] is None, "red wins"
    other = next(image for image in made["data"] if image["wording"] == "a blue car")
    again = house.made(**{**ASKED, "prompt": "a blue car", "n_candidates": 1, "seed": other["seed"]})
    images = [house.client.get(image["url"]).content for image in (other, again["data"][0])]
    assert images[0] == images[1]


def test_a_style_that_the_server_added_is_named_and_one_of_the_caller_is_not(tmp_path: Path) -> None:
    with running(tmp_path, load=lambda: Models(StyledGenerator(), FakeScorer())) as styled:
        made = styled.made(**{**ASKED, "prompt": "a red apple.", "n": 2})
        assert [c["style"] for c in made["candidates"]] == ["old", "new"] * 3
        assert all(c["wording"] == f"a red apple, {c['style']}" for c in made["candidates"])
        styles = {c["index"]: c["style"] for c in made["candidates"]}
        assert all(image["style"] == styles[image["index"]] for image in made["data"])
        again = styled.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": "a boat"}}).json()
        assert {c["index"]: c["style"] for c in again["candidates"]} == styles
        own = styled.made(**ASKED, variants=["a red apple, flat", "a red apple, round"])
        assert {c["style"] for c in own["candidates"]} == {None}


def test_variants_without_a_candidate_are_told(house: House) -> None:
    made = house.made(**{**ASKED, "n_candidates": 2}, variants=TEXTS)
    used = {c["wording"] or "a red apple" for c in made["candidates"]}
    (told,) = (w for w in made["warnings"] if w["code"] == "variants_unused")
    assert set(told["unused"]) == set(TEXTS) - used
    assert "at least 3" in told["detail"]
    for enough in ({"n_candidates": 3, "variants": TEXTS}, {"n_candidates": 1, "variants": TEXTS[:1] * 2}):
        assert not [w for w in house.made(**{**ASKED, **enough})["warnings"] if w["code"] == "variants_unused"]


def test_the_server_makes_wordings_on_request(house: House) -> None:
    made = house.made(**{**ASKED, "n_candidates": 8}, variants={"auto": 4})
    wordings = {c["wording"] for c in made["candidates"]}
    assert len(wordings) == 4
    assert None in wordings
    assert all(text is None or text.startswith("a red apple, ") for text in wordings)
    openai = house.post("/v1/images/generations", json={**ASKED, "variants": {"auto": 2}}).json()
    stored = house.client.get(f"/v1/generations/{openai['id']}").json()
    assert len({c["wording"] for c in stored["candidates"]}) == 2


@pytest.mark.parametrize(
    ("variants", "pointer"),
    [
        ([], "#/variants"),
        (["ok", " "], "#/variants/1"),
        (["x" * 5000], "#/variants/0"),
        (["x"] * 17, "#/variants"),
        ({"auto": 1}, "#/variants/auto"),
        ({"auto": 17}, "#/variants/auto"),
        ({"auto": 4, "model": "gpt"}, "#/variants/model"),
        ("auto", "#/variants"),
    ],
)
def test_variants_that_do_not_fit(house: House, variants: Any, pointer: str) -> None:
    answer = house.post(json={**ASKED, "variants": variants})
    is_problem(answer, 422, "invalid_request")
    assert pointer in str(answer.json()), answer.text


def test_a_quality_selects_what_the_request_omits(tmp_path: Path) -> None:
    with running(tmp_path, default_candidates=8, max_candidates=24) as house:
        (model,) = house.client.get("/v1/models").json()["data"]
        expected = {"draft": (2, 4), "standard": (8, 8), "best": (24, 8)}
        shown = {name: (each["n_candidates"], each["steps"]) for name, each in model["generator"]["quality"].items()}
        assert shown == expected
        for quality, values in expected.items():
            made = house.post(json={"prompt": "a red apple", "quality": quality, "seed": 1}).json()
            assert (made["n_candidates"], made["steps"]) == values
        explicit = house.made(quality="best", n_candidates=3, steps=2)
        assert (explicit["n_candidates"], explicit["steps"]) == (3, 2)
        several = house.post(json={"prompt": "a red apple", "quality": "draft", "n": 5}).json()
        assert several["n_candidates"] == 5
        for value, quality in {"low": "draft", "medium": "standard", "hd": "best", "auto": "standard"}.items():
            answer = house.post("/v1/images/generations", json={"prompt": "a red apple", "quality": value}).json()
            stored = house.client.get(f"/v1/generations/{answer['id']}").json()
            assert (stored["n_candidates"], stored["steps"]) == expected[quality]
            assert "unsupported_parameter" not in {warning["code"] for warning in answer["warnings"]}
        is_problem(house.post(json={"prompt": "x", "quality": "high"}), 422, "invalid_request")
