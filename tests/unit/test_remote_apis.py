"""What each API of a remote generator is sent, and how its answers are read."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.generators.remote.uploads import form
from tests.remotes import KEY, Asked, Remote, Reply, base64_of, generator, made, order

START = np.full((64, 64, 3), 200, np.uint8)
MASK = np.zeros((64, 64), np.bool_)
MASK[:32] = True


def parts(asked: Asked) -> dict[str, bytes]:
    """The parts of a multipart form by name."""
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    found = {}
    for part in asked.raw.split(b"--" + boundary)[1:-1]:
        head, _, body = part.strip(b"\r\n").partition(b"\r\n\r\n")
        found[head.split(b'name="')[1].split(b'"')[0].decode()] = body
    return found


def picture(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_web_ui_makes_batches_by_seed() -> None:
    def answer(asked: Asked, number: int) -> Any:
        count = asked.body["batch_size"]
        images = [base64_of(("red", "blue", "lime")[i]) for i in range(count)]
        grid = [base64_of("black", (128, 64))] if count > 1 else []
        return {"images": grid + images, "info": json.dumps({"index_of_first_image": len(grid)})}

    with (
        Remote(answer) as remote,
        generator(f"a1111:{remote.url}#dream", images_per_call=3, api_key="me:secret", size=None) as it,
    ):
        assert (it.info.id, it.info.width, it.info.steps) == ("a1111:dream", 512, 20)
        asked = order(4, negative_prompt="blurry", sampler="default")
        found = made(it, asked)
        assert [found.pictures[place].latent.pixels[0, 0].tolist() for place in range(3)] == [
            [255, 0, 0], [0, 0, 255], [0, 255, 0],
        ]  # fmt: skip
        assert all(each.sent is None for each in found.pictures.values())
        whole = next(each for each in remote.made if each.body["batch_size"] == 3)
        assert whole.path == "/sdapi/v1/txt2img"
        assert whole.headers["authorization"] == httpx.BasicAuth("me", "secret")._auth_header
        assert (whole.body["seed"], whole.body["cfg_scale"], whole.body["negative_prompt"]) == (7, 2.0, "blurry")
        assert whole.body["override_settings"] == {"sd_model_checkpoint": "dream"}
        remote.answer = lambda *_: {"images": [base64_of("black"), base64_of("red")], "info": "no json"}
        last = made(it, order(1)).pictures[0]
        assert last.latent.pixels[0, 0].tolist() == [255, 0, 0], "without info, grids come first"
        remote.asked.clear()
        made(it, order(1, start=START, strength=0.5, mask=MASK))
        body = remote.asked[0].body
        assert (remote.asked[0].path, body["denoising_strength"]) == ("/sdapi/v1/img2img", 0.5)
        np.testing.assert_array_equal(picture(base64.b64decode(body["init_images"][0])), START)
        np.testing.assert_array_equal(picture(base64.b64decode(body["mask"])) == 255, MASK)
        remote.answer = lambda *_: Reply(500, {"error": "OutOfMemoryError", "detail": "", "errors": "out of memory"})
        assert made(it, order(1)).losses[0].detail == "a1111:dream answers 500: out of memory"


def test_openai_edits_are_forms() -> None:
    with (
        Remote(lambda *_: {"data": [{"b64_json": base64_of()}]}) as remote,
        generator(f"openai:{remote.url}/v1#gpt-image-1", parameters={"quality": "low", "user": None}) as it,
    ):
        made(it, order(1, start=START, mask=MASK, width=64, height=64))
        asked = remote.asked[0]
        assert asked.path == "/v1/images/edits"
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        sent = parts(asked)
        texts = {name: sent[name].decode() for name in ("model", "prompt", "n", "size", "quality")}
        assert texts == {
            "model": "gpt-image-1", "prompt": "a red apple", "n": "1", "size": "1024x1024", "quality": "low",
        }  # fmt: skip
        assert "user" not in sent
        np.testing.assert_array_equal(picture(sent["image"]), START)
        np.testing.assert_array_equal(picture(sent["mask"])[..., 3] == 0, MASK)


@pytest.mark.parametrize(
    ("model", "edits"), [("dall-e-2", True), ("dall-e-3", False), ("gpt-image-1.5", True), ("flux", True)]
)
def test_which_models_edit(model: str, edits: bool) -> None:
    with generator(f"openai:https://host.example/v1#{model}") as it:
        assert it.info.whole_images is not None
        assert it.info.whole_images.init_images is edits


def test_form_fields() -> None:
    assert form({"a": 1, "b": "x", "c": None, "d": [1, 2], "e": 0.5}) == {"a": "1", "b": "x", "d": "[1, 2]", "e": "0.5"}
