"""Inputs that clients of other services send: seed -1, bare base64, skipped images, image addresses with a suffix."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from app.api.json_body import TEXT_BYTES, parse
from tests.api.kit import PROMPT, House, is_problem


def _base64(colour: str = "red", size: tuple[int, int] = (32, 32), form: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


GOOD = _base64()


def test_a_seed_of_64_bits_makes_its_image_again(house: House) -> None:
    large = 2**64 - 2
    made = house.made(seed=large, n_candidates=3, n=3)
    assert made["seed"] == large
    assert [c["seed"] for c in made["candidates"]] == [large, large + 1, 0]
    assert house.client.get(f"/v1/generations/{made['id']}").json() == made | {"queue_position": None}
    for image in made["data"]:
        alone = house.made(seed=image["seed"], n_candidates=1)
        assert house.client.get(alone["data"][0]["url"]).status_code == 200
        assert alone["data"][0]["similarity"] == image["similarity"]
    short = house.made(seed=large % 2**32, n_candidates=1)["data"][0]
    assert short["similarity"] != next(c["similarity"] for c in made["candidates"] if c["index"] == 0)
    refined = house.post(f"/v1/generations/{made['id']}/refine", json={"index": 0, "seed": large, "n_candidates": 1})
    assert refined.json()["seed"] == large
    ranked = house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": "a tree"}})
    assert {c["seed"] for c in ranked.json()["candidates"]} == {large, large + 1, 0}
    shown = house.post(json={**PROMPT, "seed": large}, headers={"accept": "image/png"})
    assert int(shown.headers["x-frontrunner-seed"]) in {large, large + 1, 0}


def test_a_negation_is_told_with_the_negative_that_works(house: House) -> None:
    prompt = "a red apple without a green background"
    told = [w for w in house.made(prompt=prompt, n_candidates=1)["warnings"] if w["code"] == "negation_in_prompt"]
    assert [(w["text"], w["negative_prompt"]) for w in told] == [("without a green background", "green background")]
    told = house.made(prompt=prompt, n_candidates=1, negative_prompt="green background")["warnings"]
    assert "negation_in_prompt" not in {w["code"] for w in told}
    made = house.made(n_candidates=1)["id"]
    ranked = house.post(f"/v1/generations/{made}/rerank", json={"ranking": {"prompt": prompt}}).json()
    assert "negation_in_prompt" in {w["code"] for w in ranked["warnings"]}


def test_minus_one_draws_a_seed_on_every_route(house: House) -> None:
    first, second = (house.made(seed=-1, n_candidates=1)["seed"] for _ in range(2))
    assert first != second
    assert min(first, second) >= 0
    made = house.made()["id"]
    refined = house.post(f"/v1/generations/{made}/refine", json={"index": 0, "seed": -1, "n_candidates": 1})
    assert refined.json()["seed"] >= 0
    answer = house.post("/v1/images/generations", json={**PROMPT, "seed": -1}).json()
    assert answer["data"][0]["seed"] >= 0
    is_problem(house.post(json={**PROMPT, "seed": -2}), 422, "invalid_request", "#/seed")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_bare_base64_is_taken_wherever_data_uris_are(house: House, form: str) -> None:
    bare = _base64(form=form)
    ranked = house.post("/v1/rank", json={"prompt": "red", "images": [bare, f"data:image/png;base64,{bare}"]})
    one, two = ranked.json()["data"]
    assert one["score"] == two["score"]
    assert house.made(image=bare)["parent"]["kind"] == "refine"
    made = house.made(ranking={"references": [{"image": bare}]})
    assert len(made["ranking"]["references"]) == 1
    refined = house.post(f"/v1/generations/{made['id']}/refine", json={"image": bare, "n_candidates": 1})
    assert refined.status_code == 200


@pytest.mark.parametrize("slash", ["/", "\\/"])
@pytest.mark.parametrize("head", ["iVBORw0KGgo", "/9j/4AAQ", "R0lGODlh", "UklGRgAA", "Qk02"])
def test_large_bare_base64_is_no_text(head: str, slash: str) -> None:
    picture = head + "AAA/" * TEXT_BYTES
    text = json.dumps({"images": [picture, "x"]}).replace("/", slash)
    assert parse(text.encode()) == {"images": [picture, "x"]}


@pytest.mark.parametrize("text", ["https://example.com/a.png", "red", "QQ", "A" * 33, "///" * 30 + "="])
def test_what_is_no_base64(house: House, text: str) -> None:
    is_problem(house.post("/v1/rank", json={"prompt": "x", "images": [text]}), 400, "bad_image", "#/images/0")


def test_unreadable_images_are_skipped_where_asked(house: House) -> None:
    """In JSON and in a form: damaged, empty, no image, too many pixels, too thin."""
    bad = ["data:image/png;base64,AAAA", "not an image", "data:image/svg+xml,<svg/>", _base64(size=(600, 600))]
    images = [bad[0], _base64("blue"), bad[1], GOOD, bad[2], bad[3]]
    is_problem(house.post("/v1/rank", json={"prompt": "red", "images": images}), 400, "bad_image", "#/images/0")
    body = house.post("/v1/rank", json={"prompt": "red", "images": images, "on_error": "skip"}).json()
    assert [one["index"] for one in body["data"]] == [3, 1]
    assert [(one["index"], one["code"]) for one in body["skipped"]] == [
        (0, "bad_image"), (2, "bad_image"), (4, "unsupported_media"), (5, "too_large"),
    ]  # fmt: skip
    files = [("images", ("a.png", b"junk")), ("images", ("b.png", base64.b64decode(GOOD)))]
    form = house.post("/v1/rank", data={"prompt": "red", "on_error": "skip"}, files=files).json()
    assert ([one["index"] for one in form["data"]], [one["index"] for one in form["skipped"]]) == ([1], [0])


def test_duplicates_keep_their_places(house: House) -> None:
    asked: dict[str, Any] = {"prompt": "red", "images": ["!", GOOD, GOOD], "on_error": "skip"}
    body = house.post("/v1/rank", json={**asked, "ranking": {"diversity": 0.5}}).json()
    assert {one["duplicate_of"] for one in body["data"]} <= {None, 1, 2}
    assert {one["index"] for one in body["data"]} <= {1, 2}


def test_nothing_but_unreadable_images(house: House) -> None:
    answer = house.post("/v1/rank", json={"prompt": "red", "images": ["!", "?"], "on_error": "skip"})
    is_problem(answer, 422, "invalid_request", "#/images")


def test_nothing_is_skipped_without_asking(house: House) -> None:
    assert house.post("/v1/rank", json={"prompt": "red", "images": [GOOD]}).json()["skipped"] == []


@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG"), ("jpg", "JPEG")])
def test_addresses_with_a_suffix(house: House, suffix: str, kind: str) -> None:
    made = house.made()
    where = f"/v1/generations/{made['id']}/images/2"
    answer = house.client.get(f"{where}.{suffix}")
    assert Image.open(io.BytesIO(answer.content)).format == kind
    name = f"{made['id']}-2.{kind.lower()}"
    assert answer.headers["content-disposition"] == f'inline; filename="{name}"'
    plain = house.client.get(where, params={"format": kind.lower()})
    assert (plain.content, plain.headers["etag"]) == (answer.content, answer.headers["etag"])
    head = house.client.head(f"{where}.{suffix}")
    assert (head.status_code, head.content) == (200, b"")
    for header in ("content-type", "content-length", "content-disposition", "etag"):
        assert head.headers[header] == answer.headers[header]
    other = house.client.get(f"{where}.{suffix}", params={"format": "webp"})
    assert other.headers["content-type"] == "image/webp", "what was added to a link goes on working"
    held = house.client.get(f"{where}.{suffix}", headers={"if-none-match": answer.headers["etag"]})
    assert held.status_code == 304


def test_answers_link_to_files(house: House) -> None:
    for form in ("png", "webp", "jpeg"):
        url = house.made(output_format=form)["data"][0]["url"]
        assert url.endswith(f".{form}")
        assert house.client.get(url).headers["content-type"] == f"image/{form}"
    link = house.post("/v1/images/generations", json=PROMPT).json()["data"][0]["url"]
    assert link.endswith(".png")
    best = house.post(json=PROMPT, headers={"accept": "image/webp"})
    assert best.headers["content-disposition"].endswith('.webp"')


@pytest.mark.parametrize("name", ["3.png", "0.gif", "0.", ".png", "a.png", "-1.png", "0.png.png", "0.PNG"])
def test_addresses_that_lead_nowhere(house: House, name: str) -> None:
    made = house.made()["id"]
    assert house.client.get(f"/v1/generations/{made}/images/{name}").status_code in {404, 422}


def test_models_have_no_members_without_a_value(house: House) -> None:
    body = house.client.get("/v1/models").json()
    assert body["object"] == "list"
    for model in body["data"]:
        assert {"id", "object", "created", "owned_by"} <= model.keys()
        assert None not in model.values()
