"""OpenAI's edits and variations with its own client: forms, several images, streams, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image

from app.api.compat.openai_edits import OBJECTS, SCALARS
from app.api.compat.openai_types import EditForm, VariationForm
from tests.api.kit import House, is_problem

SMALL = {"n_candidates": 2, "steps": 4, "seed": 7}
FORM = {"prompt": "a green apple", "n_candidates": "2", "steps": "4", "seed": "7"}
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"


def _picture(size: tuple[int, int] = (64, 64), colour: str = "red", form: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour if mode == "RGB" else 0).save(buffer, form)
    return buffer.getvalue()


RED = _picture()


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def _behind(house: House, answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = house.client.get(f"/v1/generations/{answer.model_extra['id']}").json()
    return found


def test_an_edit_is_image_to_image(client: openai.OpenAI, house: House) -> None:
    answer = client.images.edit(
        image=("one.png", RED), prompt="a green apple", model="gpt-image-1", n=2, size="1024x1024",
        input_fidelity="low", extra_body={**SMALL, "strength": 0.25},
    )  # fmt: skip
    assert answer.data is not None
    assert len(answer.data) == 2
    assert all(image.b64_json for image in answer.data)
    assert answer.size == "1024x1024"
    behind = _behind(house, answer)
    assert behind["strength"] == 0.25
    assert behind["parent"] == {"kind": "refine", "generation": None, "index": None}
    codes = {w["code"] for w in behind["warnings"]}
    assert {"model_aliased", "size_adapted"} <= codes


def test_a_weak_edit_stays_near_the_picture(house: House) -> None:
    blue = _picture(colour="blue")
    answer = house.post(EDITS, data={**FORM, "strength": "0"}, files={"image": blue}).json()
    winner = Image.open(io.BytesIO(house.client.get(answer["data"][0]["url"]).content)).convert("RGB")
    red, green, blue_part = winner.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert blue_part > 200
    assert max(red, green) < 60


def test_more_images_are_references(client: openai.OpenAI, house: House) -> None:
    images = [("one.png", RED), ("two.webp", _picture(form="WEBP")), ("three.jpg", _picture(form="JPEG"))]
    answer = client.images.edit(image=images, prompt="a green apple", extra_body=SMALL)
    behind = _behind(house, answer)
    assert [r["weight"] for r in behind["ranking"]["references"]] == [0.5, 0.5]
    told = {w["code"]: w for w in (answer.model_extra or {})["warnings"]}
    assert told["images_as_references"]["count"] == 2


def test_the_ratio_is_the_pictures(house: House) -> None:
    answer = house.post(EDITS, data=FORM, files={"image": _picture((300, 150))}).json()
    width, height = map(int, answer["size"].split("x"))
    assert width / height == pytest.approx(2, rel=0.15)
    assert house.post(EDITS, data={**FORM, "size": "64x64"}, files={"image": RED}).json()["size"] == "64x64"
    assert house.post(EDITS, data=FORM, files={"image": _picture((300, 30))}).json()["size"] == "64x64"


def test_an_edit_streams(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=RED, prompt="a green apple", stream=True, partial_images=1, extra_body={**SMALL, "strength": 0.9}
    )
    told = list(stream)
    assert [e.type for e in told] == ["image_edit.partial_image", "image_edit.completed"]
    assert told[-1].usage.total_tokens == 0
    assert told[-1].size == "64x64"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation_is_like_its_picture(client: openai.OpenAI, house: House) -> None:
    answer = client.images.create_variation(image=RED, n=2, size="256x256", model="dall-e-2", user="u")
    assert answer.data is not None
    assert len(answer.data) == 2
    assert answer.size == "256x256"
    behind = _behind(house, answer)
    assert [r["weight"] for r in behind["ranking"]["references"]] == [10.0]
    told = {w.get("param") for w in (answer.model_extra or {})["warnings"]}
    assert "user" in told


@pytest.mark.parametrize("markup", [_picture(mode="RGBA"), b"", b"junk"])
def test_a_sketch_on_the_image_is_refused_with_its_own_code(house: House, markup: bytes) -> None:
    answer = house.post(EDITS, data=FORM, files={"image": RED, "markup": markup})
    is_problem(answer, 422, "no_inpainting", "#/markup")


def test_the_client_sees_the_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.edit(image=RED, mask=_picture((8, 8), mode="RGBA"), prompt="x", extra_body=SMALL)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "mask")


@pytest.mark.parametrize(
    ("data", "files", "status", "code", "pointer"),
    [
        ({**FORM, "image": "text"}, {}, 422, "invalid_request", "#/image"),
        ({"n": "1"}, {"image": RED}, 422, "invalid_request", "#/prompt"),
        ({**FORM, "n": "many"}, {"image": RED}, 422, "invalid_request", "#/n"),
        ({**FORM, "n": "2.5"}, {"image": RED}, 422, "invalid_request", "#/n"),
        ({**FORM, "size": "100000x1"}, {"image": RED}, 422, "invalid_request", "#/size"),
        ({**FORM, "colour": "red"}, {"image": RED}, 422, "invalid_request", "#/colour"),
        ({**FORM, "ranking": "{"}, {"image": RED}, 422, "invalid_request", "#/ranking"),
        ({**FORM, "strength": "2"}, {"image": RED}, 422, "invalid_request", "#/strength"),
        (FORM, {"image": b"junk"}, 400, "bad_image", "#/image"),
        (FORM, {"image": b""}, 400, "bad_image", "#/image"),
        (FORM, {"image": _picture((600, 600))}, 413, "too_large", "#/image"),
        (FORM, {"other": RED}, 422, "invalid_request", "#/other"),
    ],
)
def test_what_is_refused(
    house: House, data: dict[str, str], files: dict[str, bytes], status: int, code: str, pointer: str
) -> None:
    answer = house.post(EDITS, data=data, files=files or {"mask": b"x"})
    is_problem(answer, status, code, pointer)


def test_too_many_images(house: House) -> None:
    for count, pointer in ((10, "#/image"), (17, "#/image"), (40, "#/image")):
        files = [("image[]", (f"{i}.png", RED)) for i in range(count)]
        is_problem(house.post(EDITS, data=FORM, files=files), 422, "invalid_request", pointer)
    twice = [("image", ("a.png", RED)), ("image", ("b.png", RED))]
    is_problem(house.post(VARIATIONS, files=twice), 422, "invalid_request", "#/image")
    is_problem(house.post(EDITS, json={"prompt": "x"}), 415, "unsupported_media")


def test_animated_and_cmyk_pictures_are_taken(house: House) -> None:
    frames = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(frames, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    for data in (frames.getvalue(), _picture(form="JPEG", mode="CMYK")):
        assert house.post(EDITS, data=FORM, files={"image": data}).status_code == 200


def test_an_idempotency_key_covers_the_files(house: House) -> None:
    headers = {"idempotency-key": "edit-1"}
    first = house.post(EDITS, data=FORM, files={"image": RED}, headers=headers).json()
    again = house.post(EDITS, data=FORM, files={"image": RED}, headers=headers).json()
    assert again["id"] == first["id"]
    other = house.post(EDITS, data=FORM, files={"image": _picture(colour="blue")}, headers=headers)
    is_problem(other, 422, "idempotency_key_reused")


def test_fields_that_are_objects_are_sent_as_json(house: House) -> None:
    fields = {"steering": '{"scale": 0.05}', "variants": '["a red apple", "a green pear"]', "steps": "8"}
    answer = house.post(EDITS, data={**FORM, **fields, "strength": "1"}, files={"image": RED})
    assert answer.status_code == 200, answer.text
    made = house.client.get(f"/v1/generations/{answer.json()['id']}").json()
    assert made["steering"]["scale"] == 0.05
    assert {c["wording"] for c in made["candidates"]} >= {"a red apple", "a green pear"} - {made["prompt"]}
    broken = house.post(EDITS, data={**FORM, "loras": "film"}, files={"image": RED})
    is_problem(broken, 422, "invalid_request", "#/loras")


@pytest.mark.parametrize("model", [EditForm, VariationForm])
def test_every_object_or_list_of_a_form_is_read_as_json(model: type[VariationForm]) -> None:
    schema = model.model_json_schema()
    files = {"image", "mask", "markup"}

    def structured(field: dict[str, Any]) -> bool:
        kinds = [field, *field.get("anyOf", ())]
        return any(kind.get("type") in {"array", "object"} or "$ref" in kind for kind in kinds)

    found = {name for name, field in schema["properties"].items() if structured(field)} - files
    assert {"ranking", "steering"} <= found
    assert found <= {*OBJECTS, *SCALARS}
