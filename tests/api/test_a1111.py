"""The web UI's API: its exact shapes, names of other models, sizes, errors, keys."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app import imaging
from app.api.compat.a1111.samplers import resolve_sampler
from app.errors import InvalidRequest
from app.service import Permission, auth
from models.synthetic.generator import FakeGenerator
from tests.api.keys_kit import add_key
from tests.api.kit import House, running, until
from tests.synthetic_models import InstrumentedGenerator

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SMALL = {"prompt": "a red apple", "steps": 4, "frontrunner_candidates": 4, "seed": 7}
INFO = (
    *("prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed"),
    *("all_subseeds", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size"),
    *("restore_faces", "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash"),
    *("seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params"),
    *("index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip"),
    *("is_using_inpainting_conditioning", "version"),
)
"""Members of `info`, in the web UI's order."""


def _picture(size: tuple[int, int] = (64, 64), colour: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _made(house: House, path: str = TXT2IMG, **members: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    answer = house.post(path, json={**SMALL, **members})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body, json.loads(body["info"])


def _file(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image)))


def _warnings(info: dict[str, Any]) -> set[tuple[str, str]]:
    """Codes and members, except that the synthetic model cannot be pruned."""
    found = {(one["code"], one.get("param", "")) for one in info["warnings"]}
    return found - {("pruning_uncalibrated", "")}


def _refused(answer: httpx.Response, status: int, code: str, part: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error", "detail", "body", "errors"]
    assert body["error"] == code
    assert part in body["detail"]


def test_the_images_are_the_best_of_the_candidates(house: House) -> None:
    body, info = _made(house, batch_size=2, n_iter=1, negative_prompt="blue", cfg_scale=3)
    assert list(body) == ["images", "parameters", "info"]
    assert tuple(info)[: len(INFO)] == INFO
    behind = house.client.get(f"/v1/generations/{info['frontrunner']['id']}").json()
    assert len(behind["candidates"]) == 4
    assert [one["seed"] for one in behind["data"]] == info["all_seeds"]
    assert info["seed"] == info["all_seeds"][0]
    assert len(body["images"]) == len(info["all_prompts"]) == len(info["infotexts"]) == 2
    assert info["frontrunner"]["scores"] == sorted(info["frontrunner"]["scores"], reverse=True)
    assert (behind["guidance_scale"], behind["steps"], behind["seed"]) == (3.0, 4, 7)
    for image, text, seed in zip(body["images"], info["infotexts"], info["all_seeds"], strict=True):
        file = _file(image)
        assert file.info["parameters"] == text
        assert text.split("\n")[:2] == ["a red apple", "Negative prompt: blue"]
        assert re.fullmatch(
            rf"Steps: 4, Sampler: DDIM, CFG scale: 3.0, Seed: {seed}, Size: 64x64, Model: fake", text.split("\n")[2]
        )
    assert _warnings(info) == set()


def test_parameters_echo_every_member(house: House) -> None:
    body, _ = _made(house, eta=1.0, n_iter=2)
    echoed = body["parameters"]
    assert {"subseed": -1, "eta": 1.0, "n_iter": 2, "steps": 4, "seed": 7, "enable_hr": False}.items() <= echoed.items()
    assert echoed["sampler_name"] == "DDIM"
    assert (echoed["width"], echoed["height"], echoed["cfg_scale"]) == (64, 64, 2.0)
    body, _ = _made(house, IMG2IMG, init_images=[_picture()])
    assert body["parameters"]["init_images"] is None
    body, _ = _made(house, IMG2IMG, init_images=[_picture()], include_init_images=True)
    assert body["parameters"]["init_images"] == [_picture()]


def test_the_default_number_of_candidates_is_the_servers(house: House) -> None:
    _, info = _made(house, frontrunner_candidates=None)
    assert info["frontrunner"]["candidates"] == 16
    _, info = _made(house, frontrunner_candidates=None, batch_size=20, send_images=False)
    assert info["frontrunner"]["candidates"] == 20
    assert len(info["all_seeds"]) == 20


def test_sizes_are_sampled_near_and_resized(house: House) -> None:
    body, info = _made(house, width=512, height=768)
    assert _file(body["images"][0]).size == (512, 768)
    assert (info["width"], info["height"]) == (512, 768)
    assert ("size_adapted", "size") in _warnings(info)
    assert "Size: 512x768" in info["infotexts"][0]
    assert "Sampled size: " in info["infotexts"][0]
    body, info = _made(house, enable_hr=True, hr_scale=1.5)
    assert _file(body["images"][0]).size == (96, 96)
    assert ("unsupported_parameter", "enable_hr") in _warnings(info)
    body, info = _made(house, enable_hr=True, hr_resize_x=128, hr_resize_y=80)
    assert _file(body["images"][0]).size == (128, 80)


def test_known_members_without_effect_and_unknown_ones_are_named(house: House) -> None:
    _, info = _made(
        house, restore_faces=True, tiling=False, s_noise=1, subseed_strength=0.5, colour="x", seed=-1,
        override_settings={"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "fake [0123456789]"},
    )  # fmt: skip
    assert _warnings(info) == {
        ("unsupported_parameter", "restore_faces"),
        ("unsupported_parameter", "subseed_strength"),
        ("unsupported_parameter", "override_settings.CLIP_stop_at_last_layers"),
        ("unknown_parameter", "colour"),
    }


def test_numbers_may_be_texts(house: House) -> None:
    _, info = _made(house, steps="5", cfg_scale="2.5", width="64", seed=9.0)
    assert (info["steps"], info["cfg_scale"]) == (5, 2.5)
    _refused(house.post(TXT2IMG, json={**SMALL, "steps": "many"}), 422, "invalid_request", "steps")


def test_styles_are_presets_and_networks_are_removed(house: House) -> None:
    style = house.client.get("/sdapi/v1/prompt-styles").json()[0]
    _, info = _made(house, styles=[style["name"], "none such"], prompt="a <lora:thin:0.5> red apple")
    assert info["prompt"] == f"a  red apple, {style['prompt']}"
    assert {("unknown_style", "styles"), ("unsupported_parameter", "prompt")} <= _warnings(info)
    _, info = _made(house, prompt="")
    assert info["prompt"] == "a picture"
    assert ("empty_prompt", "prompt") in _warnings(info)


def test_image_to_image_keeps_what_the_strength_keeps(house: House) -> None:
    body, info = _made(house, IMG2IMG, init_images=[f"data:image/png;base64,{_picture(colour='blue')}"],
                       denoising_strength=0, width=64, height=64)  # fmt: skip
    red, _, blue = _file(body["images"][0]).convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert blue > 200 > red
    assert info["denoising_strength"] == 0
    assert "Denoising strength: 0" in info["infotexts"][0]
    _refused(house.post(IMG2IMG, json=SMALL), 422, "invalid_request", "init_images")
    _refused(house.post(IMG2IMG, json={**SMALL, "init_images": ["x"]}), 400, "bad_image", "init_images.0")
    body = {**SMALL, "init_images": [_picture()], "denoising_strength": 2}
    _refused(house.post(IMG2IMG, json=body), 422, "invalid_request", "denoising_strength")


@pytest.mark.parametrize(
    ("members", "status", "code", "part"),
    [
        ({"steps": 0}, 422, "invalid_request", "steps: 0 "),
        ({"cfg_scale": 99}, 422, "invalid_request", "cfg_scale"),
        ({"batch_size": 0}, 422, "invalid_request", "batch_size"),
        ({"batch_size": 8, "n_iter": 100}, 422, "invalid_request", "batch_size"),
        ({"batch_size": 5}, 422, "invalid_request", "batch_size"),
        ({"width": 100_000, "height": 1}, 422, "invalid_request", "width"),
        ({"width": -64, "height": -64}, 422, "invalid_request", "width"),
        ({"sampler_name": "Sketch"}, 422, "invalid_request", "Sampler not found"),
        ({"prompt": 3}, 422, "invalid_request", "prompt"),
        ({"script_name": "X/Y/Z plot"}, 422, "invalid_request", "Script not found"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{}]}}}, 422, "invalid_request", "ControlNet"),
        ({"override_settings": {"sd_model_checkpoint": "sdxl"}}, 404, "not_found", "sd_model_checkpoint"),
        ({"override_settings": {"samples_format": "gif"}}, 422, "invalid_request", "samples_format"),
        ({"frontrunner_candidates": 0}, 422, "invalid_request", "frontrunner_candidates"),
        ({"frontrunner_ranking": {"diversity": 2}}, 422, "invalid_request", "frontrunner_ranking.diversity"),
        ({str(i): i for i in range(300)}, 422, "invalid_request", "members"),
    ],
)
def test_errors_have_the_web_uis_shape(
    house: House, members: dict[str, Any], status: int, code: str, part: str
) -> None:
    _refused(house.post(TXT2IMG, json={**SMALL, **members}), status, code, part)


def test_errors_of_http_have_the_web_uis_shape(house: House) -> None:
    _refused(house.client.get("/sdapi/v1/nothing"), 404, "not_found", "no route")
    _refused(house.client.get(TXT2IMG), 405, "method_not_allowed", "POST")
    _refused(
        house.post(TXT2IMG, content=b"{", headers={"content-type": "application/json"}), 400, "invalid_json", "JSON"
    )
    _refused(house.post(TXT2IMG, content=b" " * 3 * 2**20), 413, "too_large", "exceeds")


def test_errors_keep_their_shape_under_a_prefix(tmp_path: Path) -> None:
    with running(tmp_path, root_path="/images", wait=False) as house:
        _refused(house.client.get("/images/sdapi/v1/nothing"), 404, "not_found", "no route")


def test_disabled_scripts_are_accepted(house: House) -> None:
    _made(house, alwayson_scripts={"ADetailer": {"args": [False]}, "ControlNet": {"args": []}}, script_name="None")


@pytest.mark.parametrize(
    ("name", "scheduler", "used", "codes"),
    [
        (None, None, None, []),
        ("Euler a", "automatic", "euler_ancestral", []),
        ("k_euler", "", "euler", []),
        ("DDIM", None, None, []),
        ("dpmpp_2m", None, "dpmpp_2m", []),
        ("DPM++ 2M Karras", None, "dpmpp_2m", ["scheduler_replaced"]),
        ("DPM++ 2M", "Karras", "dpmpp_2m", ["scheduler_replaced"]),
        ("UniPC", None, None, ["sampler_replaced"]),
        ("DPM++ SDE Karras", None, None, ["sampler_replaced", "scheduler_replaced"]),
    ],
)
def test_names_of_samplers(name: str | None, scheduler: str | None, used: str | None, codes: list[str]) -> None:
    found, notices = resolve_sampler(name, scheduler, FakeGenerator().info)
    assert found == used
    assert [notice.code for notice in notices] == codes


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Sampler not found: use one of DDIM, Euler"):
        resolve_sampler("Sketch", None, FakeGenerator().info)


def test_a_replaced_sampler_is_named(house: House) -> None:
    _, info = _made(house, sampler_name="UniPC")
    assert info["sampler_name"] == "DDIM"
    assert ("sampler_replaced", "sampler_name") in _warnings(info)
    _, info = _made(house, sampler_index="Euler a")
    assert info["sampler_name"] == "Euler a"
    assert "Sampler: Euler a" in info["infotexts"][0]


def test_options_are_read_only(house: House) -> None:
    options = house.client.get("/sdapi/v1/options").json()
    assert options["sd_model_checkpoint"] == "fake"
    same = house.post(
        "/sdapi/v1/options", json={"sd_model_checkpoint": "fake.safetensors [abc]", "sd_vae": "Automatic"}
    )
    assert (same.status_code, same.json()) == (200, None)
    other = house.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).json()
    assert [one["param"] for one in other["warnings"]] == ["CLIP_stop_at_last_layers"]
    _refused(house.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sdxl"}), 404, "not_found", "'sdxl'")


def test_png_info_reads_what_was_written(house: House) -> None:
    body, info = _made(house, prompt='two lines, "quoted":\nof a prompt', negative_prompt="blue, green", width=512)
    read = house.post("/sdapi/v1/png-info", json={"image": body["images"][0]}).json()
    assert read["info"] == info["infotexts"][0]
    assert json.loads(read["items"]["frontrunner"])["seed"] == info["seed"]
    expected = {"Prompt": 'two lines, "quoted":\nof a prompt', "Negative prompt": "blue, green", "Size-1": "512"}
    assert expected.items() <= read["parameters"].items()
    jpeg, _ = _made(house, override_settings={"samples_format": "jpg"})
    assert _file(jpeg["images"][0]).format == "JPEG"
    assert '"seed"' in house.post("/sdapi/v1/png-info", json={"image": jpeg["images"][0]}).json()["info"]
    plain = house.post("/sdapi/v1/png-info", json={"image": f"data:image/png;base64,{_picture()}"}).json()
    assert plain == {"info": "", "items": {}, "parameters": {}}
    _refused(house.post("/sdapi/v1/png-info", json={"image": "x"}), 400, "bad_image", "image")


def test_infotext_is_read_as_it_is_written() -> None:
    values = {"prompt": "a, b", "steps": 20, "sampler": "euler_ancestral", "model": "x, y: z", "width": 8, "height": 16}
    text = imaging.infotext({**values, "seed": 3})
    assert text == 'a, b\nSteps: 20, Sampler: Euler a, Seed: 3, Size: 8x16, Model: "x, y: z"'
    found = imaging.parse_infotext(text)
    assert found["Model"] == "x, y: z"
    assert (found["Size-1"], found["Size-2"], found["Steps"]) == ("8", "16", "20")
    assert imaging.parse_infotext("only a prompt, size: 8x8") == {
        "Prompt": "only a prompt, size: 8x8",
        "Negative prompt": "",
    }
    assert imaging.parse_infotext("a" * 12_000)["Prompt"] == "a" * 12_000


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[House]:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as it:
        yield it


def _in_background(house: House, found: list[httpx.Response], **members: Any) -> threading.Thread:
    body = {**SMALL, "steps": 100, **members}
    thread = threading.Thread(target=lambda: found.append(house.post(TXT2IMG, json=body)))
    thread.start()
    return thread


def _progress(house: House, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = house.client.get("/sdapi/v1/progress", **options).json()
    return found


def test_progress_while_a_request_runs_and_its_interruption(slow: House) -> None:
    idle = _progress(slow)
    assert (idle["progress"], idle["eta_relative"], idle["state"]["job_count"]) == (0, 0, 0)
    assert list(idle) == ["progress", "eta_relative", "state", "current_image", "textinfo"]
    found: list[httpx.Response] = []
    thread = _in_background(slow, found)
    until(lambda: _progress(slow)["state"]["sampling_step"] > 2)
    busy = _progress(slow, params={"skip_current_image": "true"})
    assert 0 < busy["progress"] < 1
    assert busy["eta_relative"] > 0
    assert busy["current_image"] is None
    assert (busy["state"]["job"], busy["state"]["job_count"], busy["state"]["sampling_steps"]) == ("txt2img", 1, 100)
    assert slow.post("/sdapi/v1/interrupt").json() == {}
    thread.join(60)
    assert found[0].status_code == 200, found[0].text
    body = found[0].json()
    assert body["images"] == []
    assert ("interrupted", "") in _warnings(json.loads(body["info"]))
    assert _progress(slow) == idle
    until(lambda: slow.live == 0)


def test_an_interrupted_race_gives_its_best_preview(slow: House) -> None:
    found: list[httpx.Response] = []
    thread = _in_background(slow, found, width=128, height=128, frontrunner_previews=4)
    until(lambda: _progress(slow)["current_image"] is not None)
    shown = _file(_progress(slow)["current_image"])
    assert shown.size == (128, 128)
    assert slow.post("/sdapi/v1/skip").json() is None
    thread.join(60)
    body = found[0].json()
    info = json.loads(body["info"])
    assert _file(body["images"][0]).size == (128, 128)
    assert _file(body["images"][0]).info["parameters"] == info["infotexts"][0]
    assert info["all_seeds"][0] in range(7, 11)
    assert slow.client.get(f"/v1/generations/{info['frontrunner']['id']}").json()["status"] == "cancelled"


def test_a_key_is_the_password_and_sees_its_own_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as house:
        mine, other, reader = (
            add_key(tmp_path / "data", *rights)[1]["authorization"].removeprefix("Bearer ")
            for rights in ((), (), (Permission.READ,))
        )
        refused = house.client.get("/sdapi/v1/samplers")
        _refused(refused, 401, "unauthorized", "missing")
        assert refused.headers["www-authenticate"].startswith("Basic")
        for wrong in (("user", "x"), ("", ""), (mine, "")):
            _refused(house.client.get("/sdapi/v1/samplers", auth=wrong), 401, "unauthorized", "key")
        broken = {"authorization": "Basic !"}
        _refused(house.client.get("/sdapi/v1/samplers", headers=broken), 401, "unauthorized", "key")
        assert house.client.get("/v1/models", auth=("any", mine)).status_code == 401
        _refused(house.post(TXT2IMG, json=SMALL, auth=("any", reader)), 403, "forbidden", "generate")
        assert house.post("/sdapi/v1/options", json={}, auth=("any", reader)).status_code == 200
        bearer = {"authorization": f"Bearer {mine}"}
        assert house.client.get("/sdapi/v1/samplers", headers=bearer).status_code == 200
        found: list[httpx.Response] = []
        body = {**SMALL, "steps": 100}
        thread = threading.Thread(target=lambda: found.append(house.post(TXT2IMG, json=body, auth=("any", mine))))
        thread.start()
        until(lambda: _progress(house, auth=("any", mine))["state"]["job_count"] == 1)
        assert _progress(house, auth=("any", other))["state"]["job_count"] == 0
        house.post("/sdapi/v1/interrupt", auth=("any", other))
        assert _progress(house, auth=("any", mine))["state"]["interrupted"] is False
        house.post("/sdapi/v1/interrupt", auth=("any", mine))
        thread.join(60)
        assert json.loads(found[0].json()["info"])["warnings"][-1]["code"] == "interrupted"


def test_a_client_that_leaves_cancels_its_request(slow: House) -> None:
    with pytest.raises(httpx.ReadTimeout):
        slow.post(TXT2IMG, json={**SMALL, "steps": 150}, timeout=0.5)
    until(lambda: slow.live == 0)
    assert _progress(slow)["state"]["job_count"] == 0
