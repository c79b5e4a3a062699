"""New candidates that begin as an old one, or as a picture that was sent."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.api.kit import PROMPT, House, events, is_problem, until
from tests.api.test_rerank import NOWHERE, uri

STEPS = 10


def refined(house: House, made: dict[str, Any], **asked: Any) -> dict[str, Any]:
    answer = house.post(f"/v1/generations/{made['id']}/refine", json={"index": 1, **asked})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def pixels(house: House, generation_id: str, index: int) -> Any:
    data = house.client.get(f"/v1/generations/{generation_id}/images/{index}", params={"format": "png"}).content
    return np.asarray(Image.open(io.BytesIO(data)), np.int16)


def far(house: House, one: dict[str, Any], index: int, other: dict[str, Any]) -> float:
    away = [np.abs(pixels(house, other["id"], i) - pixels(house, one["id"], index)).mean() for i in range(3)]
    return float(np.mean(away))


def test_the_stronger_the_further_from_the_picture(house: House) -> None:
    made = house.made(steps=STEPS)
    ways = {s: refined(house, made, strength=s, seed=5) for s in (0.0, 0.3, 1.0)}
    distances = [far(house, made, 1, way) for way in ways.values()]
    assert distances == sorted(distances)
    assert distances[0] < 1
    assert [way["work"]["rows_stepped"] for way in ways.values()] == [0, 3 * 3, 3 * STEPS]
    assert [way["work"]["rows_unpruned"] for way in ways.values()] == [0, 3 * 3, 3 * STEPS]
    afresh = house.made(steps=STEPS, seed=5)
    assert [c["score"] for c in ways[1.0]["candidates"]] == [c["score"] for c in afresh["candidates"]]


def test_child_and_parent_are_linked(house: House) -> None:
    root = house.made(steps=STEPS, negative_prompt="green", n=2)
    child = refined(house, root, strength=0.5, n_candidates=4)
    assert child["parent"] == {"kind": "refine", "generation": root["id"], "index": 1}
    assert (child["strength"], child["n_candidates"], child["n"]) == (0.5, 4, 2)
    assert [child[f] for f in ("prompt", "negative_prompt", "size")] == [
        root[f] for f in ("prompt", "negative_prompt", "size")
    ]
    assert child["seed"] != root["seed"]
    leaf = refined(house, child, strength=0.4, prompt="a blue apple", index=2)
    assert (leaf["prompt"], leaf["parent"]["index"]) == ("a blue apple", 2)
    walk = house.client.get(f"/v1/generations/{leaf['id']}/lineage").json()
    assert walk["data"] == [root, child, leaf]


def test_a_refinement_goes_on_with_the_words_of_a_stored_reranking(house: House) -> None:
    made = house.made()
    asked = {"ranking": {"prompt": "green", "negatives": [{"text": "red"}]}, "store": True}
    kept = house.post(f"/v1/generations/{made['id']}/rerank", json=asked).json()
    child = refined(house, kept)
    assert (child["prompt"], child["ranking"]["prompt"]) == ("green", "green")
    assert child["ranking"]["negatives"] == [{"text": "red", "weight": 1.0}]


def test_a_refinement_can_be_made_again(house: House) -> None:
    made = house.made(steps=STEPS)
    one, two = (refined(house, made, seed=11, deterministic=True, sampler=s) for s in ("dpmpp_2m", "dpmpp_2m"))
    assert one["candidates"] == two["candidates"]


@pytest.mark.parametrize(
    ("mode", "form", "size"), [("RGB", "PNG", (64, 64)), ("CMYK", "JPEG", (9, 200)), ("L", "GIF", (300, 20))]
)
def test_uploads_of_any_size_and_mode_are_begun_from(house: House, mode: str, form: str, size: tuple[int, int]) -> None:
    made = house.made(steps=STEPS)
    asked = {"index": None, "image": uri("white", mode, form, size), "strength": 0.0, "seed": 1}
    child = refined(house, made, **asked)
    assert child["parent"] == {"kind": "refine", "generation": made["id"], "index": None}
    assert pixels(house, child["id"], 0).min() > 240
    alone = house.post(
        json={**PROMPT, "image": uri("white", mode, form, size), "strength": 0.0, "size": "32x16"}
    ).json()
    assert alone["parent"] == {"kind": "refine", "generation": None, "index": None}
    assert pixels(house, alone["id"], 0).shape == (16, 32, 3)
    assert house.client.get(f"/v1/generations/{alone['id']}/lineage").json()["data"] == [alone]


def test_a_refinement_is_watched_like_any_other(house: House) -> None:
    made = house.made(steps=STEPS)
    where = f"/v1/generations/{made['id']}/refine"
    asked = {"index": 0, "strength": 0.5, "previews": 2}
    told = events(house.post(where, json=asked, headers={"accept": "text/event-stream"}).text)
    assert {data["step"] for kind, _, data in told if kind == "preview"} == {2, 3}
    steps = [(data["step"], data["steps"]) for kind, _, data in told if kind == "step"]
    assert steps[-1] == (5, 5)
    assert steps == sorted(steps)
    assert told[-1][0] == "succeeded"
    queued = house.post(where, json=asked, headers={"prefer": "respond-async"})
    assert queued.status_code == 202
    until(lambda: house.client.get(queued.headers["location"]).json()["status"] == "succeeded")
    assert house.post(where, json=asked, headers={"accept": "image/png"}).content.startswith(b"\x89PNG")


def test_pruning_counts_the_steps_that_are_made(house: House) -> None:
    made = house.made(steps=STEPS, n_candidates=4)
    child = refined(house, made, strength=0.5, n_candidates=4, pruning=[{"at": 2, "keep": 3}, {"at": 4, "keep": 1}])
    assert sorted(c["pruned_at_step"] or 9 for c in child["candidates"]) == [2, 4, 4, 9]
    assert child["work"] == {
        "rows_stepped": 2 * 4 + 2 * 3 + 1,
        "rows_unpruned": 4 * 5,
        "previews": 7,
        "decodes": 1,
        "images_read": 0,
        "rows_steered": 0,
    }
    assert child["checkpoints"] == [{"at": 2, "keep": 3}, {"at": 4, "keep": 1}]
    begun = {**PROMPT, "steps": STEPS, "image": uri("red"), "strength": 0.5}
    for told in (house.post(json={**begun, "pruning": "auto"}).json(), refined(house, made, pruning="auto")):
        assert [warning["code"] for warning in told["warnings"]].count("pruning_uncalibrated") == 1
        assert told["checkpoints"] == []
    assert house.post(json=begun).json()["warnings"] == []
    late = {"index": 0, "strength": 0.5, "pruning": [{"at": 5, "keep": 1}]}
    is_problem(house.post(f"/v1/generations/{made['id']}/refine", json=late), 422, "invalid_request", "#/pruning/0")


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"index": 0, "strength": -0.1}, "#/strength"),
        ({"index": 0, "strength": 1.01}, "#/strength"),
        ({}, "#"),
        ({"index": 0, "image": uri("red")}, "#"),
        ({"index": 0, "n_candidates": 2, "n": 3}, "#/n"),
        ({"index": 0, "sampler": "magic"}, "#/sampler"),
        (
            {"index": 0, "ranking": {"references": [{"image": uri("red"), "weight": 0}]}},
            "#/ranking/references/0/weight",
        ),
        ({"index": 0, "prompt": ""}, "#/prompt"),
    ],
)
def test_refinements_that_do_not_fit(house: House, asked: dict[str, Any], pointer: str) -> None:
    answer = house.post(f"/v1/generations/{house.made()['id']}/refine", json=asked)
    is_problem(answer, 422, "invalid_request", pointer)


def test_what_has_no_picture_cannot_be_refined(house: House) -> None:
    running = house.queued(n_candidates=64, steps=150)
    made = house.made()
    for name, index, status, code in (
        (NOWHERE, 0, 404, "not_found"), (made["id"], 3, 404, "not_found"), (running["id"], 0, 409, "not_ready"),
    ):  # fmt: skip
        is_problem(house.post(f"/v1/generations/{name}/refine", json={"index": index}), status, code)
    house.client.delete(f"/v1/generations/{running['id']}")
    broken = {"image": "data:image/png;base64,AAAA"}
    is_problem(house.post(f"/v1/generations/{made['id']}/refine", json=broken), 400, "bad_image", "#/image")
    is_problem(house.post(json={**PROMPT, **broken}), 400, "bad_image", "#/image")
    is_problem(house.post(json={**PROMPT, "strength": 0.5}), 422, "invalid_request", "#/strength")
    is_problem(house.post(json={**PROMPT, "image": uri("red"), "size": "60x64"}), 422, "invalid_request", "#/size")


def test_a_refinement_asked_for_again_needs_its_source_no_more(house: House) -> None:
    made = house.made(steps=STEPS)
    asked, once = {"index": 1, "seed": 5, "n_candidates": 2}, {"idempotency-key": "refined"}
    where = f"/v1/generations/{made['id']}/refine"
    first = house.post(where, json=asked, headers=once).json()
    house.client.delete(f"/v1/generations/{made['id']}")
    assert house.post(where, json=asked, headers=once).json() == first
    picture = house.post(where, json=asked, headers={**once, "accept": "image/webp"})
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/webp")
    is_problem(house.post(where, json=asked), 404, "not_found")


def test_a_refinement_inherits_whatever_it_omits(house: House) -> None:
    own = {"negatives": [{"text": "dark", "weight": 2.0}], "negative_weight": 1.5, "diversity": 0.3, "min_score": -2.0}
    made = house.made(
        n_candidates=4, n=2, steps=STEPS, guidance_scale=3.0, sampler="euler", negative_prompt="blue", ranking=own,
        deterministic=True, output_format="webp",
    )  # fmt: skip
    child = refined(house, made)
    for field in (
        "prompt", "negative_prompt", "n_candidates", "n", "size", "steps", "guidance_scale", "sampler", "ranking",
        "deterministic", "output_format",
    ):  # fmt: skip
        assert child[field] == made[field], field
    other = refined(house, made, negative_prompt="green", deterministic=False, output_format="png")
    assert [n["text"] for n in other["ranking"]["negatives"]] == ["green", "dark"]
    assert (other["deterministic"], other["output_format"]) == (False, "png")
    none = refined(house, made, negative_prompt="", ranking={"negatives": None, "diversity": 0.0})
    assert none["ranking"]["negatives"] == []
    assert (none["ranking"]["diversity"], none["ranking"]["negative_weight"]) == (0.0, 1.5)


def test_a_refinement_of_waves_comes_in_waves(house: House) -> None:
    made = house.made(n_candidates="auto", max_candidates=12)
    child = refined(house, made)
    assert (child["n_candidates"], child["stopped"]) == (12, child["stopped"])
    assert child["stopped"] in {"cap", "gain"}
    assert refined(house, made, n_candidates=3)["stopped"] is None
