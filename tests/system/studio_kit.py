"""The studio in a browser that watches it: what its console says, and whom it talks to."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.protocols import Latent, StepRow
from tests.api.kit import House

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser as Browser
from playwright.sync_api import ConsoleMessage, Page, sync_playwright
from playwright.sync_api import expect as expect

STUDIO = Path(__file__).parents[2] / "app" / "studio"
AXE = STUDIO / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or ""
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync"]
WIDE, PHONE = (1280, 800), (360, 740)


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
        yield found
        found.close()


@contextmanager
def slow(house: House) -> Iterator[None]:
    """Races come to half of their steps, with previews, and wait there until the block ends."""
    go_on = threading.Event()
    step = house.generator.step

    def held(rows: Sequence[StepRow], size: int) -> list[Latent]:
        if any(2 * row.step >= row.schedule.steps for row in rows):
            go_on.wait(60)
        return step(rows, size)

    house.generator.step = held  # type: ignore[method-assign]
    try:
        yield
    finally:
        house.generator.step = step  # type: ignore[method-assign]
        go_on.set()


@contextmanager
def opened(browser: Browser, house: House, size: tuple[int, int] = WIDE, dark: bool = False) -> Iterator[Page]:
    """The page in a browser that knows nothing yet, as `opened_at` opens it."""
    with opened_at(browser, house.url, size, dark) as page:
        yield page


@contextmanager
def opened_at(
    browser: Browser, url: str, size: tuple[int, int] = WIDE, dark: bool = False, failing: bool = False
) -> Iterator[Page]:
    """Errors in the page's console fail the test, and so do other hosts.

    The browser itself logs each answer of 400 and more, and each connection that breaks: let pass where `failing`.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    said: list[str] = []

    def told(message: ConsoleMessage) -> None:
        expected = failing and message.text.startswith("Failed to load resource:")
        if message.type in {"error", "warning"} and not expected:
            said.append(message.text)

    page.on("console", told)
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: said.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(url)
    yield page
    context.close()
    assert said == []


def start(page: Page, prompt: str = "a red apple", candidates: int = 12) -> None:
    page.get_by_role("textbox", name="Prompt").first.fill(prompt)
    page.get_by_label("Candidates", exact=True).fill(str(candidates))
    page.get_by_role("button", name="Generate", exact=True).click()


def raced(page: Page, prompt: str = "a red apple", candidates: int = 12) -> None:
    start(page, prompt, candidates)
    expect(page.locator(".tile[data-index]")).to_have_count(candidates, timeout=60_000)


def order(page: Page) -> list[str]:
    found: list[str] = page.locator(".tile[data-index]").evaluate_all("all => all.map(tile => tile.dataset.index)")
    return found


def posts(page: Page) -> list[str]:
    """Where the page posts to, from now on."""
    seen: list[str] = []
    page.on("request", lambda r: seen.append(httpx.URL(r.url).path) if r.method == "POST" else None)
    return seen


def copied_body(page: Page) -> dict[str, Any]:
    """What the request of "Copy as curl" sends."""
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    text: str = page.evaluate("window.copied")
    body: dict[str, Any] = json.loads(text.partition(" -d '")[2].rpartition("'")[0].replace("'\\''", "'"))
    return body


def violations(page: Page) -> list[str]:
    """What axe finds on the page as it is that is serious."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in {"serious", "critical"}]
