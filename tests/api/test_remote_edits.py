"""Initial images and masks by way of a remote generator: another Frontrunner, its web UI routes, OpenAI's edits."""

from __future__ import annotations

import base64
import email
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.api.kit import House, is_problem, running
from tests.api.test_remote import codes, fronted, loader, painted, pixels
from tests.remotes import Remote, base64_of

pytestmark = pytest.mark.slow


def masked() -> str:
    """A mask whose upper half is white."""
    area = np.zeros((64, 64), np.uint8)
    area[:32] = 255
    file = io.BytesIO()
    Image.fromarray(area).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("api", ["frontrunner", "a1111"])
def test_a_refinement_with_a_mask_redraws_only_its_area(api: str, tmp_path: Path, house: House) -> None:
    with running(tmp_path, load=loader(f"{api}:{house.url}", size=(64, 64), parameters=sampler(api))) as front:
        first = front.made(prompt="a red apple", n_candidates=2, steps=4)
        path = f"/v1/generations/{first['id']}"
        source = pixels(front.client.get(f"{path}/images/1.png").content)
        plain = front.post(
            f"{path}/refine", json={"index": 1, "strength": 0.6, "prompt": "a blue boat", "n_candidates": 2}
        )
        assert plain.status_code == 200, plain.text
        assert plain.json()["parent"] == {"kind": "refine", "generation": first["id"], "index": 1}
        ask = {"index": 1, "strength": 0.9, "prompt": "a blue boat", "n_candidates": 2, "mask": masked()}
        redrawn = front.post(f"{path}/refine", json=ask)
        assert redrawn.status_code == 200, redrawn.text
        best = pixels(front.client.get(redrawn.json()["data"][0]["url"]).content)
        np.testing.assert_array_equal(best[40:], source[40:])
        assert (best[:24] != source[:24]).any()
        kept = front.post(f"{path}/refine", json={"index": 1, "strength": 0.0, "n_candidates": 1})
        np.testing.assert_array_equal(pixels(front.client.get(kept.json()["data"][0]["url"]).content), source)


def sampler(api: str) -> dict[str, Any]:
    return {"sampler_name": "Euler"} if api == "a1111" else {}


def test_openais_edits_take_no_strength(tmp_path: Path) -> None:
    with Remote(lambda *_: {"data": [{"b64_json": base64_of("blue")}]}) as remote, fronted(tmp_path, remote) as house:
        told = house.made(prompt="a blue boat", n_candidates=2, steps=None, image=base64_of("red"), strength=0.4)
        assert "strength_not_applied" in codes(told)
        assert {asked.path for asked in remote.made} == {"/v1/images/edits"}
        assert len(remote.made) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_the_mask_of_an_edit_reaches_a_remote_that_takes_one(tmp_path: Path, *, whole: bool) -> None:
    """One that marks all of the image is none."""
    picture = np.full((64, 64, 4), 200, np.uint8)
    picture[: 64 if whole else 32, :, 3] = 0
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    sent = {"image": ("image.png", base64.b64decode(base64_of("red"))), "mask": ("mask.png", file.getvalue())}
    with Remote(lambda *_: {"data": [{"b64_json": base64_of("blue")}]}) as remote:
        with fronted(tmp_path, remote, size=(64, 64)) as house:
            got = house.post("/v1/images/edits", files=sent, data={"prompt": "a boat", "n_candidates": "2"})
            assert got.status_code == 200, got.text
        assert {asked.path for asked in remote.made} == {"/v1/images/edits"}
        for asked in remote.made:
            head = f"content-type: {asked.headers['content-type']}\n\n".encode()
            parts = {each.get_param("name", header="content-disposition"): each for each in _parts(head + asked.raw)}
            assert ("mask" in parts) is not whole
            if not whole:
                alpha = np.asarray(Image.open(io.BytesIO(parts["mask"].get_payload(decode=True))))[..., 3]
                np.testing.assert_array_equal(alpha == 0, picture[..., 3] == 0)


def _parts(message: bytes) -> list[Any]:
    return list(email.message_from_bytes(message).walk())[1:]


def test_a_model_that_edits_nothing_refuses_before_it_is_asked(tmp_path: Path) -> None:
    with Remote(painted) as remote:
        with running(tmp_path, load=loader(f"openai:{remote.url}/v1#dall-e-3")) as house:
            body = {"prompt": "x", "image": base64_of("red"), "strength": 0.4}
            is_problem(house.post(json=body), 422, "invalid_request", "#/image")
        assert remote.asked == []
