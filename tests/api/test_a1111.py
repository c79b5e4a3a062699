"""The web UI's API: its exact shapes, names of other models, sizes, errors, keys."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import ExifTags, Image

from app import imaging
from app.api.compat.a1111.samplers import resolve_sampler
from app.errors import InvalidRequest
from models.synthetic.generator import FakeGenerator
from tests.api.kit import House, running

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


def opened(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image)))


def warning_codes(info: dict[str, Any]) -> set[tuple[str, str]]:
    """Codes and members, except that the synthetic model cannot be pruned."""
    found = {(one["code"], one.get("param", "")) for one in info["warnings"]}
    return found - {("pruning_uncalibrated", "")}


def refused(answer: httpx.Response, status: int, code: str, part: str) -> None:
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
        file = opened(image)
        assert file.info["parameters"] == text
        assert text.split("\n")[:2] == ["a red apple", "Negative prompt: blue"]
        assert re.fullmatch(
            rf"Steps: 4, Sampler: DDIM, CFG scale: 3.0, Seed: {seed}, Size: 64x64, Model: fake", text.split("\n")[2]
        )
    assert warning_codes(info) == set()


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
    assert opened(body["images"][0]).size == (512, 768)
    assert (info["width"], info["height"]) == (512, 768)
    assert ("size_adapted", "size") in warning_codes(info)
    assert "Size: 512x768" in info["infotexts"][0]
    assert "Sampled size: " in info["infotexts"][0]
    body, info = _made(house, enable_hr=True, hr_scale=1.5)
    assert opened(body["images"][0]).size == (96, 96)
    assert ("unsupported_parameter", "enable_hr") in warning_codes(info)
    body, info = _made(house, enable_hr=True, hr_resize_x=128, hr_resize_y=80)
    assert opened(body["images"][0]).size == (128, 80)


def test_known_members_without_effect_and_unknown_ones_are_named(house: House) -> None:
    _, info = _made(
        house, restore_faces=True, tiling=False, s_noise=1, subseed_strength=0.5, colour="x", seed=-1,
        override_settings={"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "fake [0123456789]"},
    )  # fmt: skip
    assert warning_codes(info) == {
        ("unsupported_parameter", "restore_faces"),
        ("unsupported_parameter", "subseed_strength"),
        ("unsupported_parameter", "override_settings.CLIP_stop_at_last_layers"),
        ("unknown_parameter", "colour"),
    }


def test_numbers_may_be_texts(house: House) -> None:
    _, info = _made(house, steps="5", cfg_scale="2.5", width="64", seed=9.0)
    assert (info["steps"], info["cfg_scale"]) == (5, 2.5)
    refused(house.post(TXT2IMG, json={**SMALL, "steps": "many"}), 422, "invalid_request", "steps")


def test_styles_are_presets_and_networks_are_removed(house: House) -> None:
    style = house.client.get("/sdapi/v1/prompt-styles").json()[0]
    _, info = _made(house, styles=[style["name"], "none such"], prompt="a <lora:thin:0.5> red apple")
    assert info["prompt"] == f"a  red apple, {style['prompt']}"
    assert {("unknown_style", "styles"), ("unsupported_parameter", "prompt")} <= warning_codes(info)
    _, info = _made(house, prompt="an apple " + "".join(f"<lora:{number % 40}>" for number in range(200)))
    removed = [one["detail"] for one in info["warnings"] if "removed from the prompt" in one["detail"]]
    assert len(removed) == 17
    assert removed[-1].startswith("24 more ")
    many = house.post(TXT2IMG, json={**SMALL, "prompt": "an apple" + "<a:b>" * 100_000})
    refused(many, 422, "invalid_request", "prompt: the text has 500008 characters")
    _, info = _made(house, prompt="")
    assert info["prompt"] == "a picture"
    assert ("empty_prompt", "prompt") in warning_codes(info)


def test_image_to_image_keeps_what_the_strength_keeps(house: House) -> None:
    body, info = _made(house, IMG2IMG, init_images=[f"data:image/png;base64,{_picture(colour='blue')}"],
                       denoising_strength=0, width=64, height=64)  # fmt: skip
    red, _, blue = opened(body["images"][0]).convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert blue > 200 > red
    assert info["denoising_strength"] == 0
    assert "Denoising strength: 0" in info["infotexts"][0]
    refused(house.post(IMG2IMG, json=SMALL), 422, "invalid_request", "init_images")
    refused(house.post(IMG2IMG, json={**SMALL, "init_images": ["x"]}), 400, "bad_image", "init_images.0")
    body = {**SMALL, "init_images": [_picture()], "denoising_strength": 2}
    refused(house.post(IMG2IMG, json=body), 422, "invalid_request", "denoising_strength")


def _corner(size: tuple[int, int], mode: str) -> str:
    """A mask of the upper left quarter: white, or opaque."""
    image = Image.new(mode, size, 0)
    image.paste(255 if mode == "L" else (0, 0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(("mode", "size"), [("L", (64, 64)), ("L", (256, 128)), ("RGBA", (64, 64))])
@pytest.mark.parametrize("invert", [0, 1])
def test_only_the_masked_area_is_redrawn(house: House, mode: str, size: tuple[int, int], invert: int) -> None:
    body, info = _made(
        house, IMG2IMG, init_images=[_picture(colour="blue")], mask=_corner(size, mode), width=64, height=64,
        inpainting_mask_invert=invert, denoising_strength=1, mask_blur=4, inpainting_fill=1, inpaint_full_res=False,
    )  # fmt: skip
    image = opened(body["images"][0]).convert("RGB")
    inside, outside = image.getpixel((8, 8)), image.getpixel((56, 56))
    kept, redrawn = (inside, outside) if invert else (outside, inside)
    assert kept == (0, 0, 255)
    assert redrawn != (0, 0, 255)
    assert {name for code, name in warning_codes(info) if code == "unsupported_parameter"} == {"mask_blur"}


def test_a_cropped_image_is_named(house: House) -> None:
    wide = [_picture((128, 64))]
    _, info = _made(house, IMG2IMG, init_images=wide, width=64, height=64)
    assert ("init_image_cropped", "resize_mode") in warning_codes(info)
    for members in ({"resize_mode": 1, "width": 64, "height": 64}, {"width": 128, "height": 64}):
        _, info = _made(house, IMG2IMG, init_images=wide, **members)
        assert ("init_image_cropped", "resize_mode") not in warning_codes(info)


@pytest.mark.parametrize(
    ("members", "status", "code", "part"),
    [
        ({"steps": 0}, 422, "invalid_request", "steps: 0 "),
        ({"cfg_scale": 99}, 422, "invalid_request", "cfg_scale"),
        ({"batch_size": 0}, 422, "invalid_request", "batch_size"),
        ({"batch_size": -1, "n_iter": -1}, 422, "invalid_request", "batch_size"),
        ({"steps": 1e300}, 422, "invalid_request", "steps: the value is out of range; send a value between 1 and 150"),
        ({"width": 0}, 422, "invalid_request", "width"),
        ({"enable_hr": True, "hr_scale": 1e308}, 422, "invalid_request", "hr_scale"),
        ({"enable_hr": True, "hr_scale": 0}, 422, "invalid_request", "hr_scale"),
        ({"enable_hr": True, "hr_resize_x": -1}, 422, "invalid_request", "hr_resize_x"),
        ({"batch_size": 8, "n_iter": 100}, 422, "invalid_request", "batch_size"),
        ({"batch_size": 5}, 422, "invalid_request", "batch_size"),
        ({"batch_size": 10**6}, 422, "invalid_request", "batch_size: 1000000 is out of range; send a value between 1"),
        ({"n_iter": 10**23}, 422, "invalid_request", "batch_size: the value is out of range; send a value between 1"),
        ({"width": 100_000, "height": 1}, 422, "invalid_request", "width"),
        ({"width": -64, "height": -64}, 422, "invalid_request", "width"),
        ({"sampler_name": "Sketch"}, 422, "invalid_request", "Sampler not found"),
        ({"prompt": 3}, 422, "invalid_request", "prompt"),
        ({"script_name": "X/Y/Z plot"}, 422, "invalid_request", "Script not found"),
        ({"alwayson_scripts": {"ADetailer": {"args": [{}]}}}, 422, "invalid_request", "ADetailer"),
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
    refused(house.post(TXT2IMG, json={**SMALL, **members}), status, code, part)


def test_errors_of_http_have_the_web_uis_shape(house: House) -> None:
    refused(house.client.get("/sdapi/v1/nothing"), 404, "not_found", "no route")
    refused(house.client.get(TXT2IMG), 405, "method_not_allowed", "POST")
    refused(
        house.post(TXT2IMG, content=b"{", headers={"content-type": "application/json"}), 400, "invalid_json", "JSON"
    )
    refused(house.post(TXT2IMG, content=b" " * 3 * 2**20), 413, "too_large", "exceeds")


def test_errors_keep_their_shape_under_a_prefix(tmp_path: Path) -> None:
    with running(tmp_path, root_path="/images", wait=False) as house:
        refused(house.client.get("/images/sdapi/v1/nothing"), 404, "not_found", "no route")


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
    assert ("sampler_replaced", "sampler_name") in warning_codes(info)
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
    refused(house.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sdxl"}), 404, "not_found", "'sdxl'")


def _commented(text: str) -> str:
    """A JPEG with this user comment, in base64."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + text.encode()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    return base64.b64encode(buffer.getvalue()).decode()


def test_png_info_reads_what_was_written(house: House) -> None:
    body, info = _made(house, prompt='two lines, "quoted":\nof a prompt', negative_prompt="blue, green", width=512)
    read = house.post("/sdapi/v1/png-info", json={"image": body["images"][0]}).json()
    assert read["info"] == info["infotexts"][0]
    assert json.loads(read["items"]["frontrunner"])["seed"] == info["seed"]
    expected = {"Prompt": 'two lines, "quoted":\nof a prompt', "Negative prompt": "blue, green", "Size-1": "512"}
    assert expected.items() <= read["parameters"].items()
    for form in ("jpg", "webp"):
        other, info = _made(house, prompt="a, b", override_settings={"samples_format": form})
        assert opened(other["images"][0]).format == {"jpg": "JPEG", "webp": "WEBP"}[form]
        read = house.post("/sdapi/v1/png-info", json={"image": other["images"][0]}).json()
        assert read["info"] == info["infotexts"][0]
        assert read["parameters"]["Seed"] == str(info["seed"])
        assert json.loads(read["items"]["frontrunner"])["seed"] == info["seed"]
    for text in (
        '{"generation": 1, "prompt": 2}',
        "{",
        '{"a": ' * 2000,
        '{"width": 1, "generation": "x", "prompt": ""}',
    ):
        assert house.post("/sdapi/v1/png-info", json={"image": _commented(text)}).json()["info"] == text
    plain = house.post("/sdapi/v1/png-info", json={"image": f"data:image/png;base64,{_picture()}"}).json()
    assert plain == {"info": "", "items": {}, "parameters": {}}
    refused(house.post("/sdapi/v1/png-info", json={"image": "x"}), 400, "bad_image", "image")


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
