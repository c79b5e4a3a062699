"""The openai package, as it is, against this service."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from PIL import Image

from tests.api.kit import House, running
from tests.servers import PATIENCE_S

SMALL = {"n_candidates": 3, "steps": 4, "seed": 7}


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def test_smallest(client: openai.OpenAI, house: House) -> None:
    answer = client.images.generate(prompt="a red apple", extra_body={"steps": 2})
    assert answer.created > 0
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "opaque")
    assert answer.data is not None
    (image,) = answer.data
    assert image.b64_json is None
    assert image.url is not None
    assert image.url.startswith(house.url)
    assert Image.open(io.BytesIO(httpx.get(image.url, timeout=PATIENCE_S).content)).size == (64, 64)


def test_members_without_a_value_are_absent(house: House) -> None:
    for form, there, absent in (("url", "url", "b64_json"), ("b64_json", "b64_json", "url")):
        text = house.post(
            "/v1/images/generations", json={"prompt": "a red apple", **SMALL, "response_format": form}
        ).text
        assert "null" not in text
        (image,) = json.loads(text)["data"]
        assert there in image
        assert not {absent, "revised_prompt"} & image.keys()


def test_everything_at_once(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red apple",
        model="fake",
        n=2,
        size="auto",
        response_format="b64_json",
        output_format="webp",
        extra_body={**SMALL, "negative_prompt": "blue", "ranking": {"negative_weight": 1.0}, "pruning": "off"},
    )
    assert answer.data is not None
    first, second = answer.data
    for image in answer.data:
        assert image.b64_json is not None
        assert Image.open(io.BytesIO(base64.b64decode(image.b64_json))).format == "WEBP"
    extra = [image.model_extra or {} for image in (first, second)]
    assert [e["rank"] for e in extra] == [1, 2]
    assert extra[0]["score"] >= extra[1]["score"]
    assert {e["seed"] for e in extra} <= {7, 8, 9}
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0
    assert answer.model_extra is not None
    assert answer.model_extra["id"].startswith("gen_")


def test_n_is_what_is_returned_of_as_many_as_the_server_samples(client: openai.OpenAI, house: House) -> None:
    for n, sampled in ((1, 16), (20, 20)):
        answer = client.images.generate(prompt="a red apple", n=n, extra_body={"steps": 1})
        assert answer.data is not None
        assert len(answer.data) == n
        behind = house.client.get(f"/v1/generations/{(answer.model_extra or {})['id']}").json()
        assert behind["n_candidates"] == sampled


def test_what_has_no_effect_is_said(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="x", quality="hd", style="vivid", user="u", background="transparent", output_compression=50,
        moderation="low", extra_body=SMALL,
    )  # fmt: skip
    said = [w["param"] for w in (answer.model_extra or {})["warnings"] if w["code"] == "unsupported_parameter"]
    assert sorted(said) == ["background", "moderation", "output_compression", "style", "user"]
    quiet = client.images.generate(prompt="x", quality="auto", background="opaque", extra_body=SMALL)
    codes = [w["code"] for w in (quiet.model_extra or {})["warnings"]]
    assert "unsupported_parameter" not in codes


def test_streaming_with_partial_images(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="a red apple", stream=True, partial_images=2, extra_body=SMALL)
    told = list(stream)
    assert [e.type for e in told] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    for place, event in enumerate(told):
        image = Image.open(io.BytesIO(base64.b64decode(event.b64_json)))
        assert (image.format or "").lower() == event.output_format
        assert event.size == "64x64"
        if event.type == "image_generation.partial_image":
            assert event.partial_image_index == place
        else:
            assert event.usage.total_tokens == 0
            assert (event.model_extra or {})["seed"] in {7, 8, 9}


def test_a_stream_tells_what_has_no_effect(client: openai.OpenAI) -> None:
    asked = {"style": "vivid", "response_format": "url"}
    told = list(client.images.generate(prompt="x", stream=True, extra_body={**SMALL, **asked}))
    warned = told[-1].model_dump()["warnings"]
    assert {w["param"] for w in warned if w["code"] == "unsupported_parameter"} == {"style", "response_format"}


@pytest.mark.parametrize("partial_images", [None, 0, 1])
def test_a_stream_has_no_more_partial_images_than_were_asked_for(
    client: openai.OpenAI, partial_images: int | None
) -> None:
    pruned = {**SMALL, "pruning": [{"at": 1, "keep": 2}, {"at": 2, "keep": 2}]}
    wanted = {} if partial_images is None else {"partial_images": partial_images}
    told = list(client.images.generate(prompt="x", stream=True, n=2, extra_body={**pruned, **wanted}))
    partial = ["image_generation.partial_image"] * (partial_images or 0)
    assert [e.type for e in told] == partial + ["image_generation.completed"] * 2


def test_errors_are_the_ones_the_package_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="x", extra_body={"sampler": "magic"})
    assert (refused.value.code, refused.value.param, refused.value.type) == (
        "invalid_request", "sampler", "invalid_request_error",
    )  # fmt: skip
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="x", extra_body={"colour": "red"})
    assert refused.value.param == "colour"
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="x", model="unknown")
    with pytest.raises(openai.UnprocessableEntityError):
        client.images.generate(prompt="x", stream=True, partial_images=9)


def test_a_failure_in_mid_stream_is_raised(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("failing")) as house:
        house.generator.fail_on_call = len(house.generator.calls) + 1
        with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.images.generate(prompt="x", stream=True, extra_body=SMALL)
            with pytest.raises(openai.APIError, match="failed") as broken:
                list(stream)
    assert broken.value.code == "engine_failed"


def test_an_answer_of_nothing_says_so(client: openai.OpenAI) -> None:
    strict = {**SMALL, "ranking": {"min_score": 1.0}}
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="x", extra_body=strict)
    assert (refused.value.code, refused.value.param) == ("nothing_above_min_score", "ranking.min_score")
    with pytest.raises(openai.APIError) as empty:
        list(client.images.generate(prompt="x", stream=True, extra_body=strict))
    assert empty.value.code == "nothing_above_min_score"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "frontrunner"
