"""Uploads as they come in the wild: read where they are images, refused with the place of the one that is not."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from app.api.upload_limits import MAX_CONCURRENT_UPLOADS, MAX_WAITING_UPLOADS, Sent, UploadLimiter
from app.errors import Overloaded
from app.imaging import DecoderPool, Upload
from tests.api.kit import PROMPT, House, hang_up, is_problem, running
from tests.hostile import scans
from tests.servers import PATIENCE_S

pytestmark = [pytest.mark.usefixtures("served_afterwards"), pytest.mark.slow]


def _file(image: Image.Image, form: str = "PNG", **given: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **given)
    return buffer.getvalue()


RED = Image.new("RGB", (24, 16), "red")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6
PALETTE = Image.new("P", (24, 16), 1)
PALETTE.putpalette([255, 255, 255, 255, 0, 0])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_file(RED, "GIF", save_all=True, append_images=[RED.rotate(9)]), id="animated"),
        pytest.param(_file(RED.convert("CMYK"), "JPEG"), id="cmyk"),
        pytest.param(_file(Image.fromarray(np.full((16, 24), 40_000, np.uint16))), id="16-bit"),
        pytest.param(_file(PALETTE, transparency=0), id="palette-with-alpha"),
        pytest.param(_file(RED, "JPEG", exif=TURNED), id="rotated"),
        pytest.param(_file(RED, "WEBP"), id="mislabelled"),
    ],
)  # fmt: skip
def test_odd_images_that_work(house: House, data: bytes) -> None:
    answer = _ranked(house, data, prompt="red")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        pytest.param(b"", 400, "bad_image", id="0-bytes"),
        pytest.param(_file(NOISE)[:2000], 400, "bad_image", id="truncated"),
        pytest.param(b"GIF89a", 400, "bad_image", id="header-only"),
        pytest.param(_file(Image.new("L", (4000, 4000))), 413, "too_large", id="pixel-bomb"),
        pytest.param(_file(Image.new("L", (2000, 1))), 422, "invalid_request", id="strip"),
        pytest.param(b"%PDF-1.7 nothing", 415, "unsupported_media", id="pdf"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media", id="svg"),
    ],
)
def test_images_that_do_not(house: House, data: bytes, status: int, code: str) -> None:
    is_problem(_ranked(house, data, prompt="red"), status, code, "#/images/1")
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    good = f"data:image/png;base64,{base64.b64encode(_file(RED)).decode()}"
    is_problem(house.post("/v1/rank", json={"prompt": "x", "images": [good, uri]}), status, code, "#/images/1")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://example.com/a.png",
        "data:,x",
        "data:image/png;base64,!!!",
        "data:text/html,<b>",
        "file:///etc/passwd",
    ],
)
def test_data_uris_that_are_no_images(house: House, uri: str) -> None:
    answer = house.post("/v1/rank", json={"prompt": "x", "images": [uri]})
    assert answer.status_code in {400, 415}
    is_problem(answer, answer.status_code, answer.json()["error"]["code"], "#/images/0")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({}, "#/prompt"),
        ({"prompt": ""}, "#/prompt"),
        ({"prompt": "x", "ranking": "{"}, "#/ranking"),
        ({"prompt": "x", "ranking": '{"diversity": 3}'}, "#/ranking/diversity"),
        ({"prompt": "x", "ranking": "NaN"}, "#/ranking"),
        ({"prompt": ["x", "y"]}, "#/prompt"),
        ({"prompt": "x", "colour": "red"}, "#/colour"),
    ],
)
def test_forms_that_do_not_fit(house: House, fields: dict[str, Any], pointer: str) -> None:
    is_problem(_ranked(house, _file(RED), **fields), 422, "invalid_request", pointer)


def test_rank_wants_images_but_not_too_many(house: House) -> None:
    is_problem(house.post("/v1/rank", json={"prompt": "x", "images": []}), 422, "invalid_request", "#/images")
    is_problem(house.post("/v1/rank", json={"prompt": "x"}), 422, "invalid_request", "#/images")
    one = [("images", ("a.png", _file(RED), "image/png"))]
    for many in (65, 66, 70):
        answer = house.post("/v1/rank", data={"prompt": "x"}, files=one * many)
        is_problem(answer, 422, "invalid_request", "#/images")
        assert "limit of 64" in answer.json()["detail"]
    many_texts = {"prompt": "x", **{f"a{i}": "b" for i in range(64)}}
    is_problem(house.post("/v1/rank", data=many_texts, files=one), 422, "invalid_request", "#")
    is_problem(house.post("/v1/rank", data={"prompt": "x" * 2**20 + "x"}, files=one), 413, "too_large")
    uris = [f"data:image/png;base64,{base64.b64encode(_file(RED)).decode()}"] * 65
    is_problem(house.post("/v1/rank", json={"prompt": "x", "images": uris}), 422, "invalid_request", "#/images")
    is_problem(
        house.post("/v1/rank", content=b"x", headers={"content-type": "multipart/form-data"}), 400, "bad_request"
    )
    is_problem(house.post("/v1/rank", content=b"x", headers={"content-type": "image/png"}), 415, "unsupported_media")


def test_pixels_are_counted_together(tmp_path: Path) -> None:
    square = _file(Image.new("RGB", (60, 60)))
    uri = f"data:image/png;base64,{base64.b64encode(square).decode()}"
    with running(tmp_path, max_total_pixels=5000) as tight:
        both = tight.post("/v1/rank", json={"prompt": "x", "images": [uri, uri]})
        assert "5000" in is_problem(both, 413, "too_large", "#/images/1")["detail"]
        like = {**PROMPT, "ranking": {"references": [{"image": uri}] * 2}}
        is_problem(tight.post(json=like), 413, "too_large", "#/ranking/references/1/image")
        assert tight.post("/v1/rank", json={"prompt": "x", "images": [uri]}).status_code == 200


def test_uploads_take_turns_and_large_ones_hold_no_small_ones_back() -> None:
    small, large = (Sent(Upload(_file(Image.new("L", (side, side)))), "#/image") for side in (8, 3000))

    async def crowd() -> None:
        pool, gone, inside = DecoderPool(), asyncio.Event(), Counter[str]()
        uploads = UploadLimiter(pool, 10**8, 10**8)

        async def one(sent: Sent, name: str) -> None:
            async with uploads.reader([sent]) as batches:
                assert [len(batch) async for batch in batches] == [1]
                inside[name] += 1
                await gone.wait()

        async with asyncio.TaskGroup() as group:
            for name, sent in (("large", large), ("small", small)):
                for _ in range(MAX_WAITING_UPLOADS // 2):
                    group.create_task(one(sent, name))
            while inside != {"large": 1, "small": MAX_CONCURRENT_UPLOADS}:
                await asyncio.sleep(0.01)
            assert uploads._waiting == MAX_WAITING_UPLOADS - 1 - MAX_CONCURRENT_UPLOADS
            for _ in range(1 + MAX_CONCURRENT_UPLOADS):
                group.create_task(one(small, "small"))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await one(small, "small")
            gone.set()
        assert inside.total() == 1 + MAX_CONCURRENT_UPLOADS + MAX_WAITING_UPLOADS
        await pool.close()

    asyncio.run(crowd())


def test_large_images_are_passed_on_one_by_one() -> None:
    images = [Image.new("L", (side, side), side % 251) for side in (10, 20, 2500, 2000, 30)]
    sent = [Sent(Upload(_file(image)), "#/image") for image in images]

    async def sizes() -> list[list[int]]:
        pool = DecoderPool(1)
        async with UploadLimiter(pool, 10**8, 10**8).reader(sent) as batches:
            found = [[len(image) for image in batch] async for batch in batches]
        await pool.close()
        return found

    assert asyncio.run(sizes()) == [[10, 20, 2500], [2000, 30]]


def test_nothing_is_left_of_an_upload_whose_client_hung_up(tmp_path: Path) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(_file(RED)).decode()}"
    bodies = {
        "/v1/rank": {"prompt": "x", "images": [uri]},
        "/v1/generations": {"prompt": "x", "image": uri},
        "/v1/images/generations": {"prompt": "x", "ranking": {"references": [{"image": uri}]}},
    }
    with running(tmp_path, decoders=1, decode_timeout_s=600) as it:
        pool = it.app.state.services.uploads._pool
        for path, body in bodies.items():
            assert it.post("/v1/rank", json=bodies["/v1/rank"]).status_code == 200
            child = pool._slots[0]._child
            os.kill(child.pid, signal.SIGSTOP)
            hang_up(it, path, body, pool._free.empty)
            child.wait(PATIENCE_S)
            assert it.live == 0


def test_a_bomb_is_refused_and_holds_nothing_up(house: House) -> None:
    bomb = scans(400, 1200)
    assert "50 scans" in is_problem(_ranked(house, bomb, prompt="x"), 413, "image_too_complex", "#/images/1")["detail"]


def _ranked(house: House, data: bytes, **fields: Any) -> Any:
    files = [("images", ("a.png", _file(RED), "image/png")), ("images", ("b.png", data, "image/png"))]
    return house.post("/v1/rank", data=fields, files=files)
