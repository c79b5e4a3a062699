"""Model names and sizes of OpenAI's clients are mapped to the loaded model, with a warning."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from app.engine.warmup import Progress
from app.errors import WrongModelKind
from app.main import _load_models
from app.service import LoadedModels
from app.service.aliases import DEFAULT, Aliases
from app.settings import Settings
from models.errors import ModelNotFound
from tests.api.kit import House, is_problem, running
from tests.servers import PATIENCE_S

SMALL = {"n_candidates": 2, "steps": 2, "seed": 7}
IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def _codes(answer: Any) -> dict[str, dict[str, Any]]:
    return {warning["code"]: warning for warning in (answer.model_extra or {})["warnings"]}


@pytest.mark.parametrize(
    "name", ["gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2.6-flare", "chatgpt-image-latest"]
)
def test_newer_names_get_the_image_itself(client: openai.OpenAI, name: str) -> None:
    answer = client.images.generate(prompt="a red apple", model=name, size="1024x1024", extra_body=SMALL)
    assert answer.data is not None
    assert answer.data[0].url is None
    assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))).size == (1024, 1024)
    assert _codes(answer)["model_aliased"]["model"] == "fake"
    assert (answer.model_extra or {})["model"] == "fake"


@pytest.mark.parametrize("name", ["dall-e-2", "dall-e-3"])
def test_older_names_get_a_link(client: openai.OpenAI, name: str) -> None:
    answer = client.images.generate(
        prompt="a red apple", model=name, size="1792x1024", quality="standard", extra_body=SMALL
    )
    assert answer.data is not None
    assert answer.data[0].url is not None
    assert answer.size == "1792x1024"
    assert Image.open(io.BytesIO(httpx.get(answer.data[0].url, timeout=PATIENCE_S).content)).size == (1792, 1024)
    assert {"model_aliased", "size_adapted"} <= _codes(answer).keys()


def test_the_loaded_name_is_no_alias(client: openai.OpenAI, house: House) -> None:
    answer = client.images.generate(prompt="x", model="fake", extra_body=SMALL)
    assert not {"model_aliased", "size_adapted"} & _codes(answer).keys()
    is_problem(house.post(json={"prompt": "x", "model": "dall-e-3"}), 404, "not_found", "#/model")


@pytest.mark.parametrize("size", ["256x256", "512x512", "1024x1536", "100x60", "auto", "64x64"])
def test_any_size_is_answered_as_asked(client: openai.OpenAI, size: str) -> None:
    answer = client.images.generate(
        prompt="a red apple",
        size=size,
        response_format="b64_json",
        extra_body=SMALL,
    )
    assert answer.data is not None
    width, height = (64, 64) if size == "auto" else map(int, size.split("x"))
    assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))).size == (width, height)
    assert answer.size == f"{width}x{height}"
    adapted = _codes(answer).get("size_adapted")
    if size in {"auto", "64x64", "256x256"}:
        assert adapted is None
    else:
        assert adapted is not None
        assert adapted["output"] == size
        made_width, made_height = map(int, adapted["sampled"].split("x"))
        assert made_width / made_height == pytest.approx(width / height, rel=0.15)


@pytest.mark.parametrize("size", ["100000x1", "10000x1", "4104x4104", "1x1", "4096x16", "0x64", "64", "axb"])
def test_sizes_out_of_reach_are_refused(house: House, size: str) -> None:
    is_problem(house.post(IMAGES, json={"prompt": "x", "size": size, **SMALL}), 422, "invalid_request", "#/size")


def test_large_answers_are_bounded_together(house: House) -> None:
    many = {"prompt": "x", "size": "4096x4096", "n": 8, "n_candidates": 8, "steps": 1}
    assert "n = 8" in is_problem(house.post(IMAGES, json=many), 422, "invalid_request", "#/size")["detail"]


def test_a_stream_has_the_size_too(client: openai.OpenAI) -> None:
    told = list(
        client.images.generate(prompt="x", model="gpt-image-1", size="1024x1024", stream=True, extra_body=SMALL)
    )
    assert told[-1].size == "1024x1024"
    assert Image.open(io.BytesIO(base64.b64decode(told[-1].b64_json))).size == (1024, 1024)
    assert {"model_aliased", "size_adapted"} <= {w["code"] for w in told[-1].model_dump()["warnings"]}


def test_every_documented_parameter_is_taken_or_told(client: openai.OpenAI) -> None:
    rest = {
        "complexity": "low", "frame_count": 4, "frame_duration_ms": 100, "svg": {"model": "x"},
        "safety_identifier": "s", "style": "vivid",
    }  # fmt: skip
    answer = client.images.generate(prompt="x", extra_body={**SMALL, **rest})
    told = {w["param"] for w in (answer.model_extra or {})["warnings"] if w["code"] == "unsupported_parameter"}
    assert told == rest.keys()
    assert answer.usage is not None
    assert answer.usage.output_tokens_details is not None
    assert (answer.usage.model_extra or {})["candidates"] == 2


# the native route


def test_ratio_fit_and_output_size(house: House) -> None:
    wide = house.made(aspect_ratio="16:9")
    width, height = map(int, wide["size"].split("x"))
    assert width / height == pytest.approx(16 / 9, rel=0.1)
    assert width * height == pytest.approx(64 * 64, rel=0.15)
    assert wide["output_size"] == wide["size"]
    is_problem(house.post(json={"prompt": "x", "size": "100x60"}), 422, "invalid_request", "#/size")
    near = house.made(size="100x60", fit="nearest")
    assert near["output_size"] == "100x60"
    assert "size_adapted" in {w["code"] for w in near["warnings"]}
    large = house.made(size="64x32", output_size="300x300")
    assert (large["size"], large["output_size"]) == ("64x32", "300x300")
    picture = Image.open(io.BytesIO(house.client.get(large["data"][0]["url"]).content))
    assert picture.size == (300, 300)
    assert house.made(output_size="320x160")["size"].split("x")[0] > "64"


def test_every_candidate_and_every_way_on_has_the_output_size(house: House) -> None:
    made = house.made(output_size="160x160", n=1)
    for index in range(3):
        for form in ("png", "jpeg"):
            data = house.client.get(f"/v1/generations/{made['id']}/images/{index}", params={"format": form}).content
            assert Image.open(io.BytesIO(data)).size == (160, 160)
    small = house.client.get(f"/v1/generations/{made['id']}/images/0", params={"size": "100x100"}).content
    assert Image.open(io.BytesIO(small)).size == (100, 100)
    where = f"/v1/generations/{made['id']}"
    assert house.post(f"{where}/refine", json={"index": 0}).json()["output_size"] == "160x160"
    assert house.post(f"{where}/rerank", json={"n": 2}).json()["output_size"] == "160x160"
    assert house.client.get(f"{where}/candidates/0/heat", params={"text": "red"}).status_code in {200, 422}


def test_enlarging_is_smooth(house: House) -> None:
    """Lanczos, not repeated pixels: neighbours across the edge of a sampled pixel differ less than the pixels do."""
    made = house.made(output_size="512x512", n=1)
    large = Image.open(io.BytesIO(house.client.get(made["data"][0]["url"]).content)).convert("L")
    row = np.asarray(large)[200].astype(int)
    assert np.count_nonzero(np.diff(row)) > 64, "repeated pixels have a step only at every eighth"


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"size": "64x64", "aspect_ratio": "1:1"}, "#/aspect_ratio"),
        ({"aspect_ratio": "99:1"}, "#/aspect_ratio"),
        ({"aspect_ratio": "16x9"}, "#/aspect_ratio"),
        ({"output_size": "9999x64"}, "#/output_size"),
        ({"output_size": "4096x64"}, "#/output_size"),
        ({"fit": "stretch"}, "#/fit"),
    ],
)
def test_contradictions_and_bounds(house: House, asked: dict[str, Any], pointer: str) -> None:
    is_problem(house.post(json={"prompt": "x", **asked}), 422, "invalid_request", pointer)


# aliases as a setting


def test_a_setting_names_more(tmp_path: Path) -> None:
    with running(tmp_path, model_aliases="mine=fake, any-*=*") as house:
        for name in ("mine", "any-thing"):
            answer = house.post(IMAGES, json={"prompt": "x", "model": name, **SMALL})
            assert answer.json()["warnings"][0]["code"] == "model_aliased"
        is_problem(house.post(IMAGES, json={"prompt": "x", "model": "dall-e-3"}), 404, "not_found", "#/model")


@pytest.mark.parametrize("text", ["a=", "=b", "a", "a=b,a=c", "a=b,,c="])
def test_aliases_to_nothing_are_refused_by_the_settings(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"name=model|repeated"):
        Settings(data_dir=tmp_path, model_aliases=text)


def test_aliases_to_a_model_that_is_not_loaded_stop_the_start(tmp_path: Path) -> None:
    both: dict[str, Any] = {"generator": "fake", "scorer": "fake", "data_dir": tmp_path}
    with pytest.raises(ModelNotFound, match="a=elsewhere"):
        _load_models(Settings(**both, model_aliases="b=fake,a=elsewhere"), Progress())
    assert _load_models(Settings(**both, model_aliases="b=fake"), Progress()).generator.info.id == "fake"


SMALL_PAIR = LoadedModels("small", "clip")


def test_the_first_alias_that_fits_counts() -> None:
    aliases = Aliases.parse("gpt-image-1=large,gpt-*=*")
    assert aliases.generator("gpt-image-1", SMALL_PAIR)[0] == "large"
    assert aliases.generator("gpt-image-2", SMALL_PAIR)[0] == "small"
    assert aliases.generator("small", SMALL_PAIR) == ("small", ())
    assert aliases.generator(None, SMALL_PAIR) == (None, ())
    assert Aliases.parse("").generator("gpt-image-1", SMALL_PAIR)[0] == "gpt-image-1"
    assert Aliases.parse(DEFAULT).generator("dall-e-3", SMALL_PAIR)[0] == "small"
    assert Aliases.parse(DEFAULT).scorer("text-embedding-3-small", SMALL_PAIR)[0] == "clip"
    assert Aliases.parse("mine=*").scorer("mine", SMALL_PAIR)[0] == "clip"


@pytest.mark.parametrize("name", ["clip", "judge", "text-embedding-3-large", "rerank-v4", "jina-clip-v2"])
def test_a_scorer_makes_no_images(name: str) -> None:
    with pytest.raises(WrongModelKind, match="compares texts and images") as refused:
        Aliases.parse(f"mine=small,any-*=*,judge=clip,{DEFAULT}").generator(name, SMALL_PAIR)
    told = refused.value.detail.partition("send ")[2]
    assert told == "'small' or mine or any-* or gpt-image-* or chatgpt-image-* or dall-e-*, or omit the field"


@pytest.mark.parametrize("name", ["small", "mine", "gpt-image-1", "dall-e-3"])
def test_a_generator_compares_nothing(name: str) -> None:
    with pytest.raises(WrongModelKind, match="makes images, but") as refused:
        Aliases.parse(f"mine=small,judge=clip,{DEFAULT}").scorer(name, SMALL_PAIR)
    assert "'clip' or judge or text-embedding-*" in refused.value.detail


def test_a_pack_is_both() -> None:
    aliases, pack = Aliases.parse(f"mine=pack,{DEFAULT}"), LoadedModels("pack", "pack")
    for name in ("pack", "mine"):
        assert aliases.generator(name, pack)[0] == aliases.scorer(name, pack)[0] == "pack"
    with pytest.raises(WrongModelKind):
        aliases.scorer("dall-e-3", pack)


def test_routes_refuse_models_of_the_other_kind(house: House) -> None:
    for path, body in (
        (IMAGES, {"prompt": "x", "model": "text-embedding-3-small"}),
        ("/v1/embeddings", {"input": "x", "model": "gpt-image-1"}),
        ("/v1/rerank", {"query": "x", "documents": ["y"], "model": "dall-e-3"}),
    ):
        assert "'fake'" in is_problem(house.post(path, json=body), 422, "wrong_model_kind", "#/model")["detail"]
    asked = {"prompt": "x", "override_settings": {"sd_model_checkpoint": "rerank-v4"}}
    told = house.post("/sdapi/v1/txt2img", json=asked)
    assert (told.status_code, told.json()["error"]) == (422, "wrong_model_kind")
    assert "override_settings.sd_model_checkpoint" in told.json()["errors"]


def test_an_alias_reads_the_model_that_it_stands_for(client: openai.OpenAI, house: House) -> None:
    for name in ("gpt-image-1", "dall-e-3", "text-embedding-3-small", "fake"):
        assert client.models.retrieve(name).id == "fake"
    is_problem(house.client.get("/v1/models/gpt-5"), 404, "not_found")
    aliases = Aliases.parse(f"{DEFAULT},mine=b")
    loaded = LoadedModels("a", "b")
    names = ("gpt-image-1", "rerank-v3.5", "mine", "other", "a")
    assert [aliases.loaded(name, loaded) for name in names] == ["a", "b", "b", "other", "a"]
