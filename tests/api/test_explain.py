"""Explanations of a candidate's rank, and suggested words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, is_problem
from tests.api.test_rerank import NOWHERE, reranked


def test_why_tells_every_phrase_and_its_place_in_the_field(house: House) -> None:
    prompt = "a red apple and a green leaf, soft studio lighting, close-up"
    made = house.made(prompt=prompt, n_candidates=6, negative_prompt="blue", ranking={"negatives": [{"text": "dark"}]})
    index = made["data"][0]["index"]
    body = house.client.get(f"/v1/generations/{made['id']}/candidates/{index}/why").json()
    assert [(p["text"], p["aspect"]) for p in body["phrases"]] == [
        ("a red apple", "content"), ("a green leaf", "content"), ("soft studio lighting", "style"),
        ("close-up", "composition"),
    ]  # fmt: skip
    assert [n["text"] for n in body["negatives"]] == ["blue", "dark"]
    assert (body["index"], body["of"]) == (index, 6)
    for phrase in body["phrases"]:
        field = reranked(house, made, prompt=phrase["text"], negatives=[], n=6)["data"]
        (place,) = [image for image in field if image["index"] == index]
        assert (phrase["rank"], phrase["similarity"]) == (place["rank"], place["similarity"])
    assert body["negatives"][0]["similarity"] == made["data"][0]["negatives"][0]["similarity"]
    other = house.client.get(f"/v1/generations/{made['id']}/candidates/0/why", params={"prompt": "a dog but blue"})
    assert [p["text"] for p in other.json()["phrases"]] == ["a dog", "blue"]


def test_a_heat_map_is_warm_where_the_text_is_found(house: House) -> None:
    made = house.made()
    body = house.client.get(f"/v1/generations/{made['id']}/candidates/1/why").json()
    answer = house.client.get(body["phrases"][0]["heat_map"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 10


@pytest.mark.parametrize("what", ["why", "heat?text=red"])
def test_what_has_no_candidates_cannot_be_explained(house: House, what: str) -> None:
    made, running = house.made(), house.queued(n_candidates=64, steps=150)
    is_problem(house.client.get(f"/v1/generations/{made['id']}/candidates/3/{what}"), 404, "not_found")
    is_problem(house.client.get(f"/v1/generations/{NOWHERE}/candidates/0/{what}"), 404, "not_found")
    is_problem(house.client.get(f"/v1/generations/{running['id']}/candidates/0/{what}"), 409, "not_ready")
    house.client.delete(f"/v1/generations/{running['id']}")


def test_texts_that_explain_nothing(house: House) -> None:
    where = f"/v1/generations/{house.made()['id']}/candidates/0"
    for path, pointer in (("why?prompt=%20", "#/prompt"), ("heat?text=", "#/text"), ("heat", "text")):
        is_problem(house.client.get(f"{where}/{path}"), 422, "invalid_request", pointer)


def test_a_scorer_that_sees_no_parts_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeScorer, "embed_patches", lambda *_: None)
    answer = house.client.get(f"/v1/generations/{house.made()['id']}/candidates/0/heat", params={"text": "red"})
    is_problem(answer, 422, "no_patches")


def test_presets_are_there_in_all_groups(house: House) -> None:
    data = house.client.get("/v1/presets").json()["data"]
    assert {preset["group"] for preset in data} == {"light", "mood", "framing", "medium"}
    assert {p["aspect"] for p in data if p["group"] == "framing"} == {"composition"}
    assert all(preset["prompt"] for preset in data)
