"""The studio in a real browser, on the fakes: race, weigh anew, like, refine, walk back, reload; wide and narrow."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from models.fakes import FakeGenerator
from tests.api.kit import House, running, until

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

STUDIO = Path(__file__).parents[2] / "app" / "studio"
AXE = STUDIO / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or ""
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync"]
WIDE, PHONE = (1280, 800), (360, 740)
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title="stolen"</script> a red apple'

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make studio")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("studio"), FakeGenerator(delay_s=0.04)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
        yield found
        found.close()


@contextmanager
def opened(browser: Browser, house: House, size: tuple[int, int] = WIDE, dark: bool = False) -> Iterator[Page]:
    """The page in a browser that knows nothing yet. Errors in its console fail the test, and so do other hosts."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: said.append(r.url) if not r.url.startswith((house.url, "data:", "blob:")) else None)
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    page.goto(house.url)
    yield page
    context.close()
    assert said == []


def start(page: Page, prompt: str = "a red apple", candidates: int = 12) -> None:
    page.get_by_label("Show", exact=True).first.fill(prompt)
    page.get_by_label("Candidates", exact=True).fill(str(candidates))
    page.get_by_role("button", name="Race").click()


def raced(page: Page, prompt: str = "a red apple", candidates: int = 12) -> None:
    start(page, prompt, candidates)
    expect(page.locator(".tile")).to_have_count(candidates)


def order(page: Page) -> list[str]:
    found: list[str] = page.locator(".tile[data-index]").evaluate_all("all => all.map(tile => tile.dataset.index)")
    return found


def posts(page: Page) -> list[str]:
    """Where the page posts to, from now on."""
    seen: list[str] = []
    page.on("request", lambda r: seen.append(httpx.URL(r.url).path) if r.method == "POST" else None)
    return seen


@needs_browser
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_dialogue(browser: Browser, house: House, size: tuple[int, int]) -> None:
    with opened(browser, house, size) as page:
        page.get_by_role("button", name="Add a negative").click()
        page.get_by_label("Negative 1", exact=True).fill("an orange fish")
        page.get_by_text("Sampling").click()
        page.get_by_label("Seed").fill("7")
        start(page)
        expect(page.locator(".runner img").first).to_be_visible()
        expect(page.get_by_role("progressbar")).to_be_attached()
        expect(page.locator(".tile[data-index]")).to_have_count(12)
        parent = page.url

        asked, before = posts(page), order(page)
        page.get_by_role("slider", name="Negatives count").fill("3")
        until(lambda: order(page) != before)
        page.get_by_role("slider", name="Diversity").fill("0.5")
        page.get_by_role("button", name="As it was").click()
        until(lambda: order(page) == before)
        assert {path.rsplit("/", 1)[1] for path in asked} == {"rerank"}

        for place in (0, 1):
            page.locator(".tile button").nth(place).click()
            page.get_by_role("button", name="Like", exact=False).first.click()
            expect(page.get_by_role("button", name="♥ Like")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("slider", name="Your taste").fill("1")
        expect(page.get_by_text("your taste", exact=True)).to_be_visible()

        page.get_by_text("Refine this one").click()
        page.get_by_role("button", name="from here").click()
        expect(page.locator(".history ul ul .leaf")).to_have_count(1)
        expect(page.locator(".tile")).to_have_count(12)
        assert page.url != parent

        page.go_back()
        expect(page.locator(".tile").first).to_have_attribute("data-index", before[0])
        page.reload()
        expect(page.locator(".tile").first).to_have_attribute("data-index", before[0])
        expect(page.locator(".history .leaf")).to_have_count(2)
        expect(page.locator(".flags")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@needs_browser
def test_two_side_by_side_by_keyboard(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        raced(page)
        page.locator(".tile button").first.focus()
        page.keyboard.press("p")
        expect(page.get_by_role("button", name="★ Pick")).to_have_attribute("aria-pressed", "true")
        for key in ("c", "ArrowRight", "c"):
            page.keyboard.press(key)
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("img", name="Candidate")).to_have_count(2)
        dialog.get_by_role("button", name="I prefer this one").first.click()
        expect(dialog).not_to_be_visible()


@needs_browser
def test_what_people_write_stays_text(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        raced(page, HOSTILE, 2)
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        assert page.title() == "Frontrunner"


@needs_browser
def test_reload_in_mid_race(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        asked = posts(page)
        start(page, candidates=32)
        expect(page.locator(".runner img").first).to_be_visible()
        page.reload()
        expect(page.locator(".runner")).to_have_count(32)
        expect(page.locator(".tile")).to_have_count(32)
        assert asked.count("/v1/generations") == 1


@needs_browser
def test_errors_in_words(browser: Browser, house: House) -> None:
    """The browser logs each refusal by itself, so this one listens to the page only."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(house.url)
    page.get_by_label("Steer away from").fill("blurry")
    page.evaluate("document.querySelector('form').noValidate = true")
    page.get_by_text("Sampling").click()
    page.get_by_label("Guidance").fill("-3")
    start(page)
    expect(page.get_by_role("alert")).to_contain_text("guidance scale: ")
    page.goto(f"{house.url}/#gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH")
    expect(page.get_by_role("alert")).to_contain_text("There is no such generation")
    context.close()


@needs_browser
@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, house: House, dark: bool) -> None:
    with opened(browser, house, dark=dark) as page:
        found = _violations(page)
        start(page)
        expect(page.locator(".runner img").first).to_be_visible()
        found += _violations(page)
        expect(page.locator(".tile")).to_have_count(12)
        page.get_by_text("Other words").click()
        page.get_by_text("Refine this one").click()
        found += _violations(page)
        assert found == []


def _violations(page: Page) -> list[str]:
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in {"serious", "critical"}]


def test_policy_and_etags(house: House) -> None:
    page = house.client.get("/")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    again = house.client.get("/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304
    assert house.client.get("/studio/nothing.js").status_code == 404
    assert house.client.get("/studio/..%2f__init__.py").status_code == 404


def test_the_build_is_what_the_source_makes(tmp_path: Path) -> None:
    if shutil.which("node") is None or not (STUDIO / "node_modules").exists():
        pytest.skip("node or its packages are not installed: make studio")
    subprocess.run(["node", "build.mjs", str(tmp_path)], cwd=STUDIO, check=True)
    names = sorted(path.name for path in (STUDIO / "dist").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert filecmp.cmpfiles(STUDIO / "dist", tmp_path, names, shallow=False)[0] == names
