"""Only the masked part of a picture is redrawn: through refine and OpenAI's edits."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from app.imaging import crop_to_fill
from app.service.candidates.keys import inputs_key
from tests.api.kit import House, events, is_problem, running, until
from tests.api.test_openai_edits import EDITS, FORM
from tests.api.test_refine import pixels, refined

pytestmark = pytest.mark.slow

STEPS = 10
BOX = (16, 8, 40, 32)
"""Left, top, right and bottom of the part that is redrawn, in pixels."""


def drawn(size: tuple[int, int] = (64, 64), box: tuple[int, int, int, int] | None = BOX, **how: Any) -> bytes:
    """A mask: black, with a white box."""
    mode, form = how.get("mode", "L"), how.get("form", "PNG")
    image = Image.new("L", size, how.get("ground", 0))
    if box is not None:
        image.paste(255, box)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, form)
    return buffer.getvalue()


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def boxed() -> Any:
    inside = np.zeros((64, 64), bool)
    inside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return inside


def masked(house: House, made: dict[str, Any], **asked: Any) -> dict[str, Any]:
    asked = {"mask": uri(drawn()), "prompt": "a blue boat", "seed": 5, **asked}
    return refined(house, made, **asked)


def kept(house: House, made: dict[str, Any], index: int, child: dict[str, Any]) -> None:
    """Every candidate has the source's pixels outside the box, and others inside."""
    source, inside = pixels(house, made["id"], index), boxed()
    for candidate in child["candidates"]:
        found = pixels(house, child["id"], candidate["index"])
        np.testing.assert_array_equal(found[~inside], source[~inside])
        assert np.abs(found[inside] - source[inside]).mean() > 1


def test_only_the_white_part_is_redrawn(house: House) -> None:
    made = house.made(steps=STEPS)
    child = masked(house, made)
    kept(house, made, 1, child)
    assert (child["masked"], child["strength"]) == (True, 1.0)
    assert "mask_covers_all" not in {w["code"] for w in child["warnings"]}
    assert child["parent"] == {"kind": "refine", "generation": made["id"], "index": 1}
    assert (made["masked"], refined(house, made)["masked"]) == (False, False)
    weak = masked(house, made, strength=0.3)
    kept(house, made, 1, weak)
    assert weak["work"]["rows_stepped"] == 9


def test_pruning_takes_none_of_it_away(house: House) -> None:
    made = house.made(steps=STEPS)
    asked = {"n_candidates": 6, "n": 1, "deterministic": True}
    whole = masked(house, made, **asked)
    pruned = masked(house, made, **asked, pruning=[{"at": 4, "keep": 3}, {"at": 7, "keep": 2}])
    kept(house, made, 1, pruned)
    before = {c["index"]: c for c in whole["candidates"]}
    survivors = [c for c in pruned["candidates"] if c["pruned_at_step"] is None]
    assert len(survivors) == 2
    for one in survivors:
        assert one["score"] == before[one["index"]]["score"]


def test_an_uploaded_picture_is_redrawn_in_part(house: House) -> None:
    made = house.made(steps=STEPS)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    child = masked(house, made, index=None, image=uri(buffer.getvalue()))
    for index in range(3):
        np.testing.assert_array_equal(pixels(house, child["id"], index)[~boxed()], noise[~boxed()])
    larger, picture = io.BytesIO(), Image.fromarray(noise).resize((256, 256))
    picture.save(larger, "PNG")
    left, top, right, bottom = (4 * side for side in BOX)
    mask = uri(drawn((256, 256), (left, top, right, bottom)))
    child = masked(house, made, index=None, image=uri(larger.getvalue()), mask=mask)
    fitted = crop_to_fill(np.asarray(picture), (64, 64))
    np.testing.assert_array_equal(pixels(house, child["id"], 0)[~boxed()], fitted[~boxed()])


def test_a_masked_result_lives_on_its_own(house: House) -> None:
    made = house.made(steps=STEPS)
    source = pixels(house, made["id"], 1)
    child = masked(house, made, n=1)
    asked = {"ranking": {"prompt": "green"}, "store": True}
    stored = house.post(f"/v1/generations/{child['id']}/rerank", json=asked).json()
    again = masked(house, child, index=0, mask=uri(drawn(box=(0, 40, 64, 64))))
    untouched = np.zeros((64, 64), bool)
    untouched[:40] = True
    for name in (made["id"], child["id"]):
        house.client.delete(f"/v1/generations/{name}")
    for index in range(3):
        np.testing.assert_array_equal(pixels(house, stored["id"], index)[~boxed()], source[~boxed()])
        np.testing.assert_array_equal(
            pixels(house, again["id"], index)[untouched & ~boxed()], source[untouched & ~boxed()]
        )


def test_a_mask_of_a_resized_picture_has_the_size_of_its_file(house: House) -> None:
    made = house.made(steps=STEPS, output_size="96x64", n=3)
    box = (32, 0, 64, 32)
    child = masked(house, made, mask=uri(drawn((96, 64), box)))
    one, other = pixels(house, made["id"], 1), pixels(house, child["id"], 0)
    assert one.shape == other.shape == (64, 96, 3)
    changed = np.abs(one - other).max(axis=2) > 2
    assert changed[4:28, 36:60].any()
    assert not changed[:, :24].any()
    assert not changed[:, 72:].any()
    is_problem(_answer(house, made, drawn((64, 64))), 422, "invalid_request", "#/mask")


def test_previews_show_the_source_around(house: House) -> None:
    made = house.made(steps=STEPS)
    asked = {"index": 1, "mask": uri(drawn()), "previews": 1, "n_candidates": 2}
    told = house.post(f"/v1/generations/{made['id']}/refine", json=asked, headers={"accept": "text/event-stream"}).text
    shown = next(data["image"] for kind, _, data in events(told) if kind == "preview")
    preview = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).convert("RGB"), np.int16)
    assert np.median(np.abs(preview - pixels(house, made["id"], 1))[~boxed()]) <= 2, "WebP loses a little"


def _answer(house: House, made: dict[str, Any], mask: bytes | str, **asked: Any) -> Any:
    asked = {"index": 1, "mask": mask if isinstance(mask, str) else uri(mask), **asked}
    return house.post(f"/v1/generations/{made['id']}/refine", json=asked)


@pytest.mark.usefixtures("served_afterwards")
def test_masks_that_do_not_fit(house: House) -> None:
    made = house.made(steps=STEPS)
    for mask in (drawn((32, 64)), drawn((1, 1)), drawn(box=None), drawn(ground=120, box=None)):
        is_problem(_answer(house, made, mask), 422, "invalid_request", "#/mask")
    for broken in (uri(b"junk"), "data:image/png;base64,AAAA", uri(drawn()[:60]), ""):
        is_problem(_answer(house, made, broken), 400, "bad_image", "#/mask")
    is_problem(_answer(house, made, drawn((600, 600))), 413, "too_large", "#/mask")
    is_problem(_answer(house, made, drawn(), index=7), 404, "not_found")
    whole = _answer(house, made, drawn(ground=255), strength=0.5, seed=4).json()
    assert [w["code"] for w in whole["warnings"]] == ["mask_covers_all"]
    assert whole["candidates"] == refined(house, made, strength=0.5, seed=4)["candidates"]


def test_masks_of_any_kind_are_read(house: House) -> None:
    made = house.made(steps=STEPS)
    clear = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), BOX)
    frames, brush = io.BytesIO(), io.BytesIO()
    clear.save(brush, "PNG")
    first = Image.open(io.BytesIO(drawn()))
    first.save(frames, "GIF", save_all=True, append_images=[Image.new("L", (64, 64), 255)])
    cmyk = drawn(mode="CMYK", form="JPEG")
    wanted = masked(house, made)["candidates"]
    for mask in (brush.getvalue(), frames.getvalue(), drawn(mode="1"), drawn(form="BMP")):
        assert masked(house, made, mask=uri(mask))["candidates"] == wanted
    assert masked(house, made, mask=uri(cmyk))["masked"]


def test_a_mask_needs_no_second_look(house: House) -> None:
    made = house.made(steps=STEPS)
    once = {"idempotency-key": "masked"}
    asked = {"index": 1, "mask": uri(drawn()), "seed": 5}
    where = f"/v1/generations/{made['id']}/refine"
    first = house.post(where, json=asked, headers=once).json()
    assert house.post(where, json=asked, headers=once).json() == first
    other = house.post(where, json={**asked, "mask": uri(drawn(box=(0, 0, 8, 8)))}, headers=once)
    is_problem(other, 422, "idempotency_key_reused")


def test_another_replica_continues_it(tmp_path: Path) -> None:
    """The images are in the store, so the second process makes the same pictures."""
    from tests.synthetic_models import InstrumentedGenerator

    with running(tmp_path, generator=InstrumentedGenerator(delay_s=0.2)) as first:
        made = first.made(steps=2)
        asked = {"index": 1, "mask": uri(drawn()), "seed": 5, "steps": 60, "strength": 1}
        where = f"/v1/generations/{made['id']}/refine"
        name = first.post(where, json=asked, headers={"prefer": "respond-async"}).json()["id"]
        gone = first.post(where, json=asked, headers={"prefer": "respond-async"}).json()["id"]
        until(lambda: first.client.get(f"/v1/generations/{name}").json()["status"] == "running")
    files = tmp_path / "data" / "blobs"
    assert (files / inputs_key(name)).is_file()
    (files / inputs_key(gone)).unlink()
    with running(tmp_path) as second:
        until(lambda: second.client.get(f"/v1/generations/{name}").json()["status"] == "succeeded")
        kept(second, made, 1, second.client.get(f"/v1/generations/{name}").json())
        until(lambda: second.client.get(f"/v1/generations/{gone}").json()["status"] == "failed")
        second.client.delete(f"/v1/generations/{name}")
        assert not (files / inputs_key(name)).exists()


# OpenAI's edits


def transparent(size: tuple[int, int] = (64, 64), box: tuple[int, int, int, int] | None = BOX) -> bytes:
    """A mask in OpenAI's form: opaque, with a fully transparent box."""
    image = Image.new("RGBA", size, (0, 0, 0, 255))
    if box is not None:
        image.paste((0, 0, 0, 0), box)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def photo() -> tuple[bytes, Any]:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue(), noise.astype(np.int16)


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def test_the_transparent_part_is_edited(client: openai.OpenAI, house: House) -> None:
    data, noise = photo()
    answer = client.images.edit(
        image=("one.png", data), mask=("mask.png", transparent()), prompt="a green apple", n=2,
        extra_body={"n_candidates": 3, "steps": 4, "seed": 7},
    )  # fmt: skip
    assert answer.data is not None
    for image in answer.data:
        found = np.asarray(Image.open(io.BytesIO(house.client.get(image.url or "").content)).convert("RGB"), np.int16)
        np.testing.assert_array_equal(found[~boxed()], noise[~boxed()])
        assert np.abs(found - noise)[boxed()].mean() > 10
    behind = house.client.get(f"/v1/generations/{(answer.model_extra or {})['id']}").json()
    assert (behind["masked"], behind["strength"]) == (True, 1.0)


@pytest.mark.usefixtures("served_afterwards")
@pytest.mark.parametrize(
    ("mask", "status", "code"),
    [
        (transparent((32, 32)), 422, "invalid_request"),
        (transparent(box=None), 422, "invalid_request"),
        (drawn(mode="RGB"), 422, "invalid_request"),
        (drawn(mode="CMYK", form="JPEG"), 422, "invalid_request"),
        (b"junk", 400, "bad_image"),
        (b"", 400, "bad_image"),
    ],
)
def test_edits_with_a_mask_that_does_not_fit(house: House, mask: bytes, status: int, code: str) -> None:
    answer = house.post(EDITS, data=FORM, files={"image": photo()[0], "mask": mask})
    body = is_problem(answer, status, code, "#/mask")
    if code == "invalid_request" and b"JFIF" in mask:
        assert "transparent" in body["detail"]


def test_an_animated_mask_counts_by_its_first_frame(house: House) -> None:
    frames = io.BytesIO()
    first, second = Image.open(io.BytesIO(transparent())), Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    first.save(frames, "WEBP", save_all=True, append_images=[second], lossless=True, exact=True)
    data, noise = photo()
    answer = house.post(EDITS, data=FORM, files={"image": data, "mask": frames.getvalue()})
    assert answer.status_code == 200, answer.text
    found = pixels(house, answer.json()["id"], 0)
    np.testing.assert_array_equal(found[~boxed()], noise[~boxed()])


def test_a_mask_that_is_all_transparent_is_told(house: House) -> None:
    answer = house.post(EDITS, data=FORM, files={"image": photo()[0], "mask": transparent(box=(0, 0, 64, 64))}).json()
    assert "mask_covers_all" in {w["code"] for w in answer["warnings"]}
    twice = [("image", photo()[0]), ("mask", transparent()), ("mask", transparent())]
    refused = house.post(EDITS, data=FORM, files=[(name, ("a.png", data)) for name, data in twice])
    is_problem(refused, 422, "invalid_request", "#/mask")
