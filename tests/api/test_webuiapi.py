"""webuiapi, the client of AUTOMATIC1111's API from PyPI, unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import webuiapi
from PIL import Image

from app.service import auth
from tests.api.keys_kit import add_key
from tests.api.kit import House, running


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[webuiapi.WebUIApi]:
    it = webuiapi.WebUIApi(baseurl=f"{house.url}/sdapi/v1", sampler="Euler a", steps=4)
    yield it
    it.session.close()


def test_txt2img_with_its_defaults(client: webuiapi.WebUIApi) -> None:
    made = client.txt2img(prompt="a red apple", negative_prompt="blurry", seed=1003, batch_size=2, width=320)
    assert [image.size for image in made.images] == [(320, 512), (320, 512)]
    assert made.info["sampler_name"] == "Euler a"
    assert made.info["cfg_scale"] == 7
    assert len(made.info["all_seeds"]) == 2
    assert made.parameters["batch_size"] == 2
    codes = {one["code"] for one in made.info["warnings"]}
    assert "size_adapted" in codes
    assert "unsupported_parameter" not in codes
    assert client.png_info(made.image).info == made.info["infotexts"][0]


def test_img2img(client: webuiapi.WebUIApi) -> None:
    made = client.img2img(images=[Image.new("RGB", (64, 64), "blue")], prompt="a blue boat", denoising_strength=0.5)
    assert made.image.size == (512, 512)
    assert made.info["denoising_strength"] == 0.5
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    made = client.img2img(images=[Image.new("RGB", (64, 64), "blue")], mask_image=mask, prompt="x", width=64, height=64)
    assert made.image.convert("RGB").getpixel((60, 32)) == (0, 0, 255)
    assert {one.get("param") for one in made.info["warnings"]} >= {"mask_blur", "inpaint_full_res"}
    with pytest.raises(RuntimeError, match="marks nothing"):
        client.img2img(images=[Image.new("RGB", (64, 64))], mask_image=Image.new("L", (64, 64)), prompt="x")


def test_what_it_asks_at_start(client: webuiapi.WebUIApi) -> None:
    assert (client.has_controlnet, client.has_adetailer) == (False, False)
    assert client.util_get_model_names() == ["fake"]
    assert client.util_get_current_model() == "fake"
    client.util_set_model("fake")
    assert {"Euler a", "DDIM", "DPM++ 2M"} <= set(client.util_get_sampler_names())
    assert client.util_get_scheduler_names() == ["automatic"]
    client.util_wait_for_ready()
    assert client.interrupt() == {}
    assert client.skip() is None
    assert client.refresh_checkpoints() is None
    for empty in (
        client.get_loras, client.get_sd_vae, client.get_hypernetworks, client.get_face_restorers,
        client.get_realesrgan_models, client.get_latent_upscale_modes,
    ):  # fmt: skip
        assert empty() == []
    assert client.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert {one["name"] for one in client.get_upscalers()} == {"None", "Lanczos"}
    assert client.get_prompt_styles()[0].keys() == {"name", "prompt", "negative_prompt"}
    assert client.get_memory().keys() == {"ram", "cuda"}
    assert client.get_cmd_flags()["api"] is True


def test_its_user_and_password_are_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path) as house:
        key = add_key(tmp_path / "data")[1]["authorization"].removeprefix("Bearer ")
        api = webuiapi.WebUIApi(baseurl=f"{house.url}/sdapi/v1", steps=4, username="anybody", password=key)
        assert api.txt2img(prompt="a red apple", width=64, height=64).image.size == (64, 64)
        api.set_auth("anybody", "fr_wrong")
        with pytest.raises(RuntimeError, match="unauthorized"):
            api.txt2img(prompt="a red apple")
        api.session.close()


def test_it_reads_errors(client: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError) as refused:
        client.txt2img(prompt="x", sampler_name="none such")
    status, text = refused.value.args
    assert status == 422
    assert json.loads(text)["detail"].startswith("sampler_name: Sampler not found")
