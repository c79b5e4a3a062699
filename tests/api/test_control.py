"""Images that the composition follows: kinds, weights, inheritance, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from app.settings import Settings
from models.load_options import parse_controls
from tests.api.kit import PROMPT, House, is_problem, running, until
from tests.api.test_refine import pixels
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

KINDS = ("depth", "sketch")


def drawn(colour: str = "white", size: tuple[int, int] = (64, 64), form: str = "PNG", mode: str = "RGB") -> str:
    """Black, with the upper half in a colour."""
    image = Image.new("RGB", size)
    image.paste(colour, (0, 0, size[0], size[1] // 2))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, form)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def control(kind: str = "sketch", weight: float = 1.0, **how: Any) -> dict[str, Any]:
    return {"kind": kind, "image": drawn(**how), "weight": weight}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    generator = InstrumentedGenerator(controls=KINDS)
    with running(tmp_path_factory.mktemp("control"), generator=generator, max_image_pixels=250_000) as it:
        yield it


def contrast(house: House, made: dict[str, Any]) -> float:
    """How much brighter the upper half is."""
    found = pixels(house, made["id"], 0)
    return float(found[:32].mean() - found[32:].mean())


def test_the_composition_follows_a_sketch(studio: House) -> None:
    free, weak, strong = studio.made(), studio.made(control=[control(weight=0.3)]), studio.made(control=[control()])
    assert contrast(studio, free) + 10 < contrast(studio, weak) < contrast(studio, strong) - 10
    assert [made["control"] for made in (free, weak)] == [[], [{"kind": "sketch", "weight": 0.3}]]
    none = studio.made(control=[control(weight=0)])
    assert [c["score"] for c in none["candidates"]] == [c["score"] for c in free["candidates"]]


def test_several_controls_of_any_size_and_mode(studio: House) -> None:
    both = [control(size=(300, 200), form="JPEG", mode="CMYK"), control("depth", 0.2, form="GIF", mode="L")]
    made = studio.made(control=both, size="128x64")
    assert [each["kind"] for each in made["control"]] == ["sketch", "depth"]


def test_a_refinement_keeps_the_controls_unless_it_names_others(studio: House) -> None:
    made = studio.made(control=[control()])
    where = f"/v1/generations/{made['id']}/refine"
    asked = {"index": 0, "strength": 1, "seed": 7}
    others: list[dict[str, Any]] = [{}, {"control": []}, {"control": [control("depth", 0.2)]}]
    kept, none, other = (studio.post(where, json={**asked, **given}).json() for given in others)
    assert [c["score"] for c in kept["candidates"]] == [c["score"] for c in made["candidates"]]
    assert (kept["control"], none["control"]) == (made["control"], [])
    assert other["control"] == [{"kind": "depth", "weight": 0.2}]
    assert contrast(studio, none) < contrast(studio, other) < contrast(studio, kept)


def test_controls_join_with_a_mask_and_with_a_stored_reranking(studio: House) -> None:
    from tests.api.test_inpainting import drawn as mask
    from tests.api.test_inpainting import uri

    made = studio.made()
    asked = {"index": 1, "mask": uri(mask()), "control": [control()], "n": 1}
    child = studio.post(f"/v1/generations/{made['id']}/refine", json=asked).json()
    assert (child["masked"], len(child["control"])) == (True, 1)
    stored = studio.post(
        f"/v1/generations/{child['id']}/rerank", json={"ranking": {"prompt": "green"}, "store": True}
    ).json()
    studio.client.delete(f"/v1/generations/{child['id']}")
    grand = studio.post(f"/v1/generations/{stored['id']}/refine", json={"index": 0}).json()
    assert grand["control"] == child["control"]


def test_models_list_their_kinds(studio: House, house: House) -> None:
    for server, kinds in ((studio, list(KINDS)), (house, [])):
        (model,) = server.client.get("/v1/models").json()["data"]
        assert model["generator"]["controls"] == kinds


@pytest.mark.parametrize(
    ("given", "status", "code", "pointer"),
    [
        ([control("canny")], 422, "invalid_request", "#/control/0/kind"),
        ([control(), control("canny")], 422, "invalid_request", "#/control/1/kind"),
        ([control(weight=2.01)], 422, "invalid_request", "#/control/0/weight"),
        ([control(weight=-0.1)], 422, "invalid_request", "#/control/0/weight"),
        ([{**control(), "image": "data:image/png;base64,AAAA"}], 400, "bad_image", "#/control/0/image"),
        ([{"kind": "sketch"}], 422, "invalid_request", "#/control/0/image"),
        ([{**control(), "start": 0}], 422, "invalid_request", "#/control/0/start"),
        ([control()] * 5, 422, "invalid_request", "#/control"),
        ([control(size=(600, 600))], 413, "too_large", "#/control/0/image"),
    ],
)
def test_controls_that_do_not_fit(studio: House, given: Any, status: int, code: str, pointer: str) -> None:
    is_problem(studio.post(json={**PROMPT, "control": given}), status, code, pointer)
    assert studio.post(json=PROMPT).status_code == 200


def test_a_model_without_control_says_what_to_do(house: House) -> None:
    answer = house.post(json={**PROMPT, "control": [control()]})
    body = is_problem(answer, 422, "invalid_request", "#/control/0/kind")
    assert "send the sketch as `image`" in body["detail"]


def test_another_replica_continues_it(tmp_path: Any) -> None:
    with running(tmp_path, generator=InstrumentedGenerator(controls=KINDS, delay_s=0.2)) as first:
        name = first.queued(control=[control()], steps=60)["id"]
        until(lambda: first.client.get(f"/v1/generations/{name}").json()["status"] == "running")
    with running(tmp_path, generator=InstrumentedGenerator(controls=KINDS)) as second:
        until(lambda: second.client.get(f"/v1/generations/{name}").json()["status"] == "succeeded")
        assert contrast(second, {"id": name}) > 30


def test_the_images_of_a_batch_are_bounded_together(tmp_path: Any) -> None:
    with running(tmp_path, generator=InstrumentedGenerator(controls=KINDS), max_total_pixels=10_000) as house:
        for count, status in ((2, 202), (3, 413)):
            entries = [{**PROMPT, "control": [control()]}] * count
            answer = house.post("/v1/batches", json={"requests": entries})
            assert answer.status_code == status, answer.text
        is_problem(answer, 413, "too_large", "#/requests/2/control")


def test_the_setting_names_kinds() -> None:
    assert parse_controls(" sketch=/models/a , depth=some/net,") == {"sketch": "/models/a", "depth": "some/net"}
    assert Settings(controls="sketch=a/b").load_options.controls == {"sketch": "a/b"}
    for wrong in ("sketch", "sketch=", "=a/b", "Sketch=a/b", "sketch=a,sketch=b", "a b=c"):
        with pytest.raises(ValueError, match="must be kind="):
            Settings(controls=wrong)
