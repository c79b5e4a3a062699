"""The studio's brush: paint what is to be redrawn, sketch what is to be followed; by mouse, touch and keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.api.kit import House, running
from tests.api.test_refine import pixels
from tests.synthetic_models import InstrumentedGenerator
from tests.system.studio_kit import AXE, PHONE, WIDE, Browser, expect, needs_browser, opened, raced, violations

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make studio")
pytestmark = needs_browser


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    generator = InstrumentedGenerator(controls=("depth", "scribble"))
    with running(tmp_path_factory.mktemp("controlled"), generator=generator) as it:
        yield it


def bodies(page: Page) -> list[dict[str, Any]]:
    """What the page posts to generations and refine, from now on."""
    seen: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.method == "POST" and request.url.endswith(("/generations", "/refine")):
            seen.append(json.loads(request.post_data or "{}"))

    page.on("request", note)
    return seen


def box(canvas: Locator) -> Any:
    """Where the canvas is on the page: x, y, width, height."""
    canvas.scroll_into_view_if_needed()
    found = canvas.bounding_box()
    assert found is not None
    return found


def drag(page: Page, canvas: Locator, *path: tuple[float, float]) -> None:
    """Paint along shares of the canvas."""
    area = box(canvas)
    points = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in path]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def painting(page: Page) -> Locator:
    page.get_by_text("Refine this candidate").click()
    page.get_by_role("button", name="Paint what is to be redrawn").click()
    return page.get_by_role("application", name="Paint the area to redraw")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_only_the_painted_part_is_redrawn(browser: Browser, house: House, size: tuple[int, int]) -> None:
    with opened(browser, house, size) as page:
        raced(page)
        parent, asked = page.url.rsplit("#", 1)[1], bodies(page)
        canvas, undo = painting(page), page.get_by_role("button", name="Undo")
        expect(undo).to_be_disabled()
        drag(page, canvas, (0.8, 0.8), (0.9, 0.9))
        expect(undo).to_be_enabled()
        undo.click()
        expect(undo).to_be_disabled()
        page.get_by_role("slider", name="Brush size").fill("8")
        drag(page, canvas, (0.1, 0.1), (0.3, 0.1))
        page.get_by_role("button", name="from here").click()
        expect(page.locator(".tile[data-index]")).to_have_count(12)
        child = page.url.rsplit("#", 1)[1]
        assert child != parent
        assert (asked[-1]["strength"], asked[-1]["mask"][:22]) == (1, "data:image/png;base64,")
        made = house.client.get(f"/v1/generations/{child}").json()
        assert made["masked"]
        old, new = pixels(house, parent, made["parent"]["index"]), pixels(house, child, 0)
        np.testing.assert_array_equal(new[16:], old[16:])
        np.testing.assert_array_equal(new[:, 28:], old[:, 28:])
        assert (new[2:10, 6:20] != old[2:10, 6:20]).any()


def test_the_brush_works_by_keyboard(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        raced(page)
        canvas, undo = painting(page), page.get_by_role("button", name="Undo")
        canvas.focus()
        for key in ("ArrowLeft", "Space", *["ArrowRight"] * 6, "ArrowDown", "Space", "ArrowUp"):
            page.keyboard.press(key)
        expect(undo).to_be_enabled()
        page.keyboard.press("Control+z")
        expect(undo).to_be_disabled()
        page.keyboard.press("Space")
        page.keyboard.press("Space")
        expect(undo).to_be_enabled()
        page.get_by_role("button", name="Clear").click()
        expect(undo).to_be_disabled()
        page.get_by_role("button", name="Paint what is to be redrawn").click()
        expect(canvas).to_have_count(0)


def test_the_brush_works_by_touch(browser: Browser, house: House) -> None:
    context = browser.new_context(viewport={"width": PHONE[0], "height": PHONE[1]}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(house.url)
    raced(page)
    canvas = painting(page)
    area = box(canvas)
    page.touchscreen.tap(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    assert canvas.evaluate("c => getComputedStyle(c).touchAction") == "none"
    context.close()


def test_a_sketch_is_a_control_where_the_model_has_one(browser: Browser, controlled: House) -> None:
    with opened(browser, controlled) as page:
        asked = bodies(page)
        page.get_by_role("button", name="Draw a sketch").click()
        expect(page.get_by_text("has a control for sketches")).to_be_visible()
        drag(page, page.get_by_role("application", name="Sketch"), (0.1, 0.2), (0.9, 0.2))
        page.get_by_role("button", name="Use the sketch").click()
        page.get_by_role("slider", name="Weight").first.fill("0.5")
        raced(page)
        (control,) = asked[0]["control"]
        assert (control["kind"], control["weight"], "image" in asked[0]) == ("scribble", 0.5, False)
        made = controlled.client.get(f"/v1/generations/{page.url.rsplit('#', 1)[1]}").json()
        assert made["control"] == [{"kind": "scribble", "weight": 0.5}]
        page.get_by_role("button", name="Remove the sketch").click()
        expect(page.get_by_role("button", name="Draw a sketch")).to_be_visible()


def test_a_sketch_is_the_start_image_elsewhere(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        asked = bodies(page)
        page.get_by_role("button", name="Draw a sketch").click()
        expect(page.get_by_text("has no control for sketches")).to_be_visible()
        drag(page, page.get_by_role("application", name="Sketch"), (0.1, 0.2), (0.9, 0.2))
        page.get_by_role("button", name="Use the sketch").click()
        expect(page.get_by_role("img", name="Start image")).to_be_visible()
        raced(page)
        assert asked[0]["image"].startswith("data:image/png;base64,")
        assert "control" not in asked[0]


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_with_the_brush(browser: Browser, house: House, dark: bool) -> None:
    with opened(browser, house, WIDE, dark) as page:
        page.get_by_role("button", name="Draw a sketch").click()
        raced(page)
        painting(page)
        assert violations(page) == []
