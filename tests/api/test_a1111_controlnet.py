"""ControlNet units on the web UI's routes, in the shapes that its extension takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.api.compat.a1111.controlnet import _kind
from tests.api.kit import House, running
from tests.api.test_a1111 import IMG2IMG, SMALL, TXT2IMG, refused, warning_codes
from tests.api.test_control import KINDS, contrast, drawn
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

PLACE = "alwayson_scripts.controlnet.args"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    generator = InstrumentedGenerator(controls=KINDS)
    with running(tmp_path_factory.mktemp("units"), generator=generator, max_image_pixels=250_000) as it:
        yield it


def unit(**members: Any) -> dict[str, Any]:
    return {"module": "none", "model": "sketch", "image": bare(), **members}


def bare(**how: Any) -> str:
    """The image without the head of its data URI, as clients of web UIs send it."""
    return drawn(**how).partition(",")[2]


def scripts(*units: Any, name: str = "controlnet") -> dict[str, Any]:
    return {"alwayson_scripts": {name: {"args": list(units)}}}


def codes(info: dict[str, Any]) -> set[tuple[str, str]]:
    """Codes and members of warnings about the request."""
    return {each for each in warning_codes(info) if each[0] != "prompt_not_recognised"}


def made(house: House, *units: Any, path: str = TXT2IMG, **members: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The generation behind the answer, and the answer's info."""
    answer = house.post(path, json={**SMALL, "width": 64, "height": 64, **scripts(*units), **members})
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    return house.client.get(f"/v1/generations/{info['frontrunner']['id']}").json(), info


def test_a_unit_is_a_control_image(studio: House) -> None:
    free, info = made(studio)
    assert codes(info) == set()
    found = []
    for one in (unit(), unit(image=None, input_image=bare()), unit(image={"image": drawn(), "mask": None})):
        generation, info = made(studio, one)
        assert codes(info) == set()
        assert generation["control"] == [{"kind": "sketch", "weight": 1.0}]
        found.append(contrast(studio, generation))
    assert found[0] == found[1] == found[2] > contrast(studio, free) + 20
    weak, _ = made(studio, unit(weight="0.3"))
    assert contrast(studio, free) < contrast(studio, weak) < found[0]
    native = studio.made(
        control=[{"kind": "sketch", "image": drawn()}], steps=4, n_candidates=4, seed=7, prompt="a red apple",
        guidance_scale=None, size="64x64",
    )  # fmt: skip
    assert contrast(studio, native) == found[0], "as on the native route"


def test_several_units_and_disabled_ones(studio: House) -> None:
    units = [unit(), unit(enabled=False, model="none such", module="canny"), unit(model="depth", weight=0.5)]
    generation, _ = made(studio, *units)
    assert generation["control"] == [{"kind": "sketch", "weight": 1.0}, {"kind": "depth", "weight": 0.5}]
    nothings: list[dict[str, Any]] = [
        {"args": []},
        {"args": [False]},
        {},
        {"args": None},
        {"args": [unit(enabled=False)]},
    ]
    for nothing in nothings:
        generation, info = made(studio, alwayson_scripts={"ControlNet": nothing})
        assert generation["control"] == []
        assert codes(info) == set()


def test_what_clients_of_the_extension_send(studio: House) -> None:
    webuiapi = pytest.importorskip("webuiapi")
    from PIL import Image

    api = webuiapi.WebUIApi(baseurl=f"{studio.url}/sdapi/v1", steps=4)
    image = Image.new("RGB", (64, 64))
    image.paste("white", (0, 0, 64, 32))
    sent = webuiapi.ControlNetUnit(image=image, model="control_v11p_sd15_scribble [d4ba51ff]", weight=0.8)
    # The client keeps the units of a call in the default of `alwayson_scripts`: without one of its own they leak.
    answer = api.txt2img(prompt="x", width=64, height=64, controlnet_units=[sent], alwayson_scripts={})
    generation = studio.client.get(f"/v1/generations/{answer.info['frontrunner']['id']}").json()
    api.session.close()
    assert generation["control"] == [{"kind": "sketch", "weight": 0.8}]
    assert codes(answer.info) - {("sampler_replaced", "sampler_name")} == set()


def test_image_to_image_units_may_follow_the_initial_image(studio: House) -> None:
    initial = [bare(colour="blue")]
    one = {"module": "None", "model": "depth"}
    generation, _ = made(studio, one, path=IMG2IMG, init_images=initial, denoising_strength=0.9)
    assert generation["control"] == [{"kind": "depth", "weight": 1.0}]
    again, _ = made(studio, {**one, "image": initial[0]}, path=IMG2IMG, init_images=initial, denoising_strength=0.9)
    assert [c["score"] for c in again["candidates"]] == [c["score"] for c in generation["candidates"]]


def test_the_size_of_the_picture_is_kept(studio: House) -> None:
    answer = studio.post(TXT2IMG, json={**SMALL, "width": 512, "height": 768, **scripts(unit())})
    info = json.loads(answer.json()["info"])
    assert (info["width"], info["height"]) == (512, 768)
    answer = studio.post(
        TXT2IMG, json={**SMALL, "width": 64, "height": 64, "enable_hr": True, "hr_scale": 1.5, **scripts(unit())}
    )
    assert json.loads(answer.json()["info"])["width"] == 96


def test_members_without_effect_are_named(studio: House) -> None:
    quiet = {
        "resize_mode": "Resize and Fill", "processor_res": 512, "pixel_perfect": True, "threshold_a": 64,
        "control_mode": "Balanced", "guidance_start": 0, "guidance_end": 1.0, "low_vram": False, "mask": None,
    }  # fmt: skip
    assert codes(made(studio, unit(**quiet))[1]) == set()
    loud = {
        "control_mode": 2, "guidance_end": 0.5, "mask": bare(), "union_control_type": "Depth", "colour": "x",
        "image": {"image": bare(), "mask": bare()},
    }  # fmt: skip
    found = codes(made(studio, unit(enabled=False), unit(**loud))[1])
    unsupported = {f"{PLACE}.1.{name}" for name in ("control_mode", "guidance_end", "mask", "union_control_type")}
    assert found == {("unsupported_parameter", name) for name in unsupported} | {
        ("unknown_parameter", f"{PLACE}.1.colour")
    }


def test_the_answer_does_not_repeat_the_images(studio: House) -> None:
    answer = studio.post(TXT2IMG, json={**SMALL, **scripts(unit(weight=0.5))}).json()
    (echoed,) = answer["parameters"]["alwayson_scripts"]["controlnet"]["args"]
    assert echoed == {"module": "none", "model": "sketch", "weight": 0.5}


@pytest.mark.parametrize(
    ("args", "status", "code", "place", "part"),
    [
        ([unit(module="canny")], 422, "invalid_request", ".0.module", "preprocessor 'canny' not found"),
        ([unit(model="canny")], 422, "invalid_request", ".0.model", "use one of depth, sketch"),
        ([unit(model="None")], 422, "invalid_request", ".0.model", "use one of depth, sketch"),
        ([unit(model=None)], 422, "invalid_request", ".0.model", "use one of depth, sketch"),
        ([unit(model="depth-sketch")], 422, "invalid_request", ".0.model", "use one of depth, sketch"),
        ([unit(enabled=False), unit(image="")], 422, "invalid_request", ".1.image", "the unit has no image"),
        ([unit(enabled=False), unit(image="xyz")], 400, "bad_image", ".1.image", ""),
        ([unit(weight=3)], 422, "invalid_request", ".0.weight", "3 is out of range; send a value between 0 and 2"),
        ([unit(weight=-1)], 422, "invalid_request", ".0.weight", "-1 is out of range; send a value between 0 and 2"),
        ([unit(image=7)], 422, "invalid_request", ".0.image", "must be a text"),
        ([unit(), "sketch"], 422, "invalid_request", ".1", "the value must be an object"),
        ([unit()] * 5, 422, "invalid_request", PLACE, "send at most 4"),
        ({"0": unit()}, 422, "invalid_request", PLACE, "as a list"),
    ],
)
def test_units_that_cannot_be_applied(studio: House, args: Any, status: int, code: str, place: str, part: str) -> None:
    answer = studio.post(TXT2IMG, json={**SMALL, "alwayson_scripts": {"ControlNet": {"args": args}}})
    refused(answer, status, code, part)
    assert place in answer.json()["detail"]


def test_a_model_without_control_says_so(house: House) -> None:
    answer = house.post(TXT2IMG, json={**SMALL, **scripts(unit())})
    refused(answer, 422, "invalid_request", "the loaded model has none, omit the unit")


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("canny", "canny"),
        ("Canny", "canny"),
        ("control_v11p_sd15_canny [d14c016b]", "canny"),
        ("diffusers_xl_depth_mid.safetensors", "depth"),
        ("control_v11p_sd15_openpose", "pose"),
        ("xinsir_low_quality", "low_quality"),
        ("xinsir_low-quality", "low_quality"),
        ("lowquality", None),
        ("cannyness", None),
        ("canny_depth", None),
        ("", None),
        ("None", None),
    ],
)
def test_the_kind_is_read_from_the_title(title: str, kind: str | None) -> None:
    assert _kind(title, ("canny", "depth", "pose", "low_quality")) == kind
