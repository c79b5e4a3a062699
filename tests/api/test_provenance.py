"""Image files contain how they were made only if the request, or else the server, says so."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app as cli
from tests.api.kit import House, is_problem, running

FORMATS = ("png", "webp", "jpeg")
SECRET = {"prompt": "a red apple of the secret project", "negative_prompt": "unannounced blue"}


def _written(data: bytes) -> dict[str, Any] | None:
    """What a file says about how it was made; None if it holds no text at all."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        comment = image.getexif().get_ifd(0x8769).get(0x9286)
        text = image.info.get("frontrunner") or (comment and comment.removeprefix(b"ASCII\0\0\0").decode())
        assert text or not ({"parameters", "exif", "xmp", "comment"} & set(image.info)), image.info
    return json.loads(text) if text else None


def _files(house: House, made: dict[str, Any]) -> dict[tuple[int, str], httpx.Response]:
    return {
        (index, form): house.client.get(f"/v1/generations/{made['id']}/images/{index}.{form}")
        for index in range(3)
        for form in FORMATS
    }


def test_a_private_prompt_is_in_no_file_by_default(house: House) -> None:
    made = house.made(**SECRET, n=2)
    assert made["provenance"] == "none"
    for name, file in _files(house, made).items():
        assert _written(file.content) is None, name
        assert b"secret project" not in file.content
    answer = house.post(json={**SECRET, "n_candidates": 1, "steps": 2}, headers={"accept": "image/jpeg"})
    assert _written(answer.content) is None


def test_metadata_is_the_same_in_every_format_and_download(house: House) -> None:
    made = house.made(**SECRET, n=2, provenance="metadata")
    assert made["provenance"] == "metadata"
    files = _files(house, made)
    for index in range(3):
        png, webp, jpeg = (_written(files[index, form].content) for form in FORMATS)
        assert png == webp == jpeg
        assert png is not None
        candidate = made["candidates"][index]
        wanted = {
            **SECRET,
            **{name: made[name] for name in ("model", "scorer", "steps", "sampler", "guidance_scale")},
            **{name: candidate[name] for name in ("seed", "score")},
            "generation": made["id"],
        }
        assert wanted.items() <= png.items()
    again = _files(house, made)
    assert {name: file.headers["etag"] for name, file in again.items()} == {
        name: file.headers["etag"] for name, file in files.items()
    }


def test_a_jpeg_never_loses_its_text_silently(house: House) -> None:
    limits = house.client.get("/v1/models").json()["limits"]
    long = "\N{ROCKET}" * limits["prompt_chars"]
    made = house.made(prompt=long, negative_prompt=long, provenance="metadata", output_format="jpeg", n=1)
    (warning,) = [one for one in made["warnings"] if one["code"] == "metadata_truncated"]
    assert warning["param"] == "output_format"
    told = _written(house.client.get(made["data"][0]["url"]).content)
    assert told is not None
    assert set(told["metadata_truncated"]) == {"prompt", "negative_prompt"}
    assert long.startswith(told["prompt"])
    assert (told["generation"], told["seed"]) == (made["id"], made["data"][0]["seed"])
    for form in ("png", "webp"):
        whole = _written(house.client.get(f"/v1/generations/{made['id']}/images/0.{form}").content)
        assert whole is not None
        assert whole["prompt"] == long
    for silent in ({"prompt": "a" * 4000, "provenance": "metadata"}, {"prompt": long, "provenance": "none"}):
        made = house.made(**silent, output_format="jpeg", n_candidates=1)
        assert "metadata_truncated" not in {one["code"] for one in made["warnings"]}


@pytest.mark.parametrize("default", ["none", "metadata"])
def test_the_request_wins_over_the_setting(tmp_path: Path, default: str) -> None:
    with running(tmp_path, provenance=default) as house:
        for asked, used in ((None, default), ("none", "none"), ("metadata", "metadata")):
            made = house.made(provenance=asked)
            assert made["provenance"] == used
            file = house.client.get(made["data"][0]["url"])
            assert (_written(file.content) is not None) is (used == "metadata")


def test_refine_inherits_it_and_a_stored_ranking_keeps_it(house: House) -> None:
    made = house.made(provenance="metadata")
    path = f"/v1/generations/{made['id']}"
    refined = house.post(f"{path}/refine", json={"index": 0, "n_candidates": 1}).json()
    bare = house.post(f"{path}/refine", json={"index": 0, "n_candidates": 1, "provenance": "none"}).json()
    ranked = house.post(f"{path}/rerank", json={"ranking": {"prompt": "a tree"}, "store": True}).json()
    assert [each["provenance"] for each in (refined, bare, ranked)] == ["metadata", "none", "metadata"]
    found = [_written(house.client.get(each["data"][0]["url"]).content) for each in (refined, bare, ranked)]
    assert found[0] is not None
    assert found[0]["generation"] == refined["id"]
    assert found[1] is None
    assert found[2] is not None


def test_c2pa_is_refused_with_the_values_that_work(house: House) -> None:
    made = house.made(n_candidates=1)
    asked = {"prompt": "x", "provenance": "c2pa"}
    for path, body in (
        ("/v1/generations", asked),
        (f"/v1/generations/{made['id']}/refine", {"index": 0, "provenance": "c2pa"}),
        ("/v1/images/generations", asked),
    ):
        problem = is_problem(house.post(path, json=body), 422, "invalid_request")
        (error,) = problem["errors"]
        assert error["pointer"] == "#/provenance"
        assert "send `none` or `metadata`" in error["detail"]
    assert house.post(json={"prompt": "x", "provenance": "exif"}).status_code == 422


def test_openais_route_takes_it(house: House) -> None:
    asked = {"prompt": SECRET["prompt"], "n_candidates": 1, "response_format": "b64_json"}
    for provenance, prompt in ((None, None), ("metadata", SECRET["prompt"])):
        answer = house.post("/v1/images/generations", json={**asked, "provenance": provenance}).json()
        found = _written(base64.b64decode(answer["data"][0]["b64_json"]))
        assert (found and found["prompt"]) == prompt


def test_the_web_uis_files_have_its_infotext_unless_its_own_setting_says_no(house: House) -> None:
    asked = {"prompt": "a red apple", "steps": 4, "frontrunner_candidates": 1}

    def made(**settings: Any) -> Image.Image:
        answer = house.post("/sdapi/v1/txt2img", json={**asked, "override_settings": settings})
        assert answer.status_code == 200, answer.text
        assert "override_settings" not in str(json.loads(answer.json()["info"])["warnings"])
        return Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))

    assert made().info["parameters"].startswith("a red apple\n")
    assert made(enable_pnginfo=True).info["parameters"].startswith("a red apple\n")
    assert not {"parameters", "frontrunner"} & set(made(enable_pnginfo=False).info)
    refused = house.post("/sdapi/v1/txt2img", json={**asked, "override_settings": {"enable_pnginfo": "no"}})
    assert refused.status_code == 422
    assert "enable_pnginfo" in refused.json()["detail"]


@pytest.mark.parametrize("option", ["--metadata", "--no-metadata"])
def test_the_command_line_writes_it_for_its_user(house: House, tmp_path: Path, option: str) -> None:
    given = ["generate", "a red apple", "-c", "2", "-n", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(cli, [*given, "--url", house.url, *([option] if option == "--no-metadata" else [])])
    assert found.exit_code == 0, found.output
    saved = [path for path in (tmp_path / "out").glob("*.png") if "sheet" not in path.name]
    assert saved
    for path in saved:
        assert (_written(path.read_bytes()) is not None) is (option == "--metadata")
