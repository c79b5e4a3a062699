"""The studio in a real browser, on the fakes: race, weigh anew, like, refine, walk back, reload; wide and narrow."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.api.kit import House, running, until
from tests.servers import PATIENCE_S
from tests.system.replicas import replicas
from tests.system.studio_kit import (
    AXE,
    PHONE,
    STUDIO,
    WIDE,
    Browser,
    expect,
    needs_browser,
    opened,
    opened_at,
    order,
    posts,
    raced,
    slow,
    start,
    violations,
)

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title="stolen"</script> a red apple'

needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make studio")


@needs_browser
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_dialogue(browser: Browser, house: House, size: tuple[int, int]) -> None:
    with opened(browser, house, size) as page:
        page.get_by_role("button", name="Add a negative").click()
        page.get_by_label("Negative 1", exact=True).fill("an orange fish")
        page.get_by_text("Sampling").click()
        page.get_by_label("Seed").fill("7")
        with slow(house):
            start(page)
            expect(page.locator(".runner img").first).to_be_visible()
            expect(page.get_by_role("progressbar")).to_be_attached()
        expect(page.locator(".tile[data-index]")).to_have_count(12)
        parent = page.url

        asked, before = posts(page), order(page)
        page.get_by_role("slider", name="Negative weight").fill("3")
        until(lambda: order(page) != before)
        page.get_by_role("slider", name="Diversity").fill("0.5")
        page.get_by_role("button", name="Reset").click()
        until(lambda: order(page) == before)
        assert {path.rsplit("/", 1)[1] for path in asked} == {"rerank"}

        for place in (0, 1):
            page.locator(".tile button").nth(place).click()
            page.get_by_role("button", name="Like", exact=False).first.click()
            expect(page.get_by_role("button", name="♥ Like")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("slider", name="Your taste").fill("1")
        expect(page.get_by_text("your taste", exact=True)).to_be_visible()

        page.get_by_text("Refine this candidate").click()
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
        dialog.get_by_role("button", name="Prefer this one").first.click()
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
        with slow(house):
            start(page, candidates=32)
            expect(page.locator(".runner img").first).to_be_visible()
            page.reload()
            expect(page.locator(".runner")).to_have_count(32)
        expect(page.locator(".tile")).to_have_count(32)
        assert asked.count("/v1/generations") == 1


@pytest.mark.soak
@needs_browser
def test_the_server_is_restarted_in_mid_race(browser: Browser, tmp_path: Path) -> None:
    with (
        replicas(tmp_path, 1, 0.4, {"DRAIN_S": "0"}) as (server,),
        opened_at(browser, server.url, failing=True) as page,
    ):
        asked = posts(page)
        start(page, candidates=6)
        expect(page.locator(".runner img").first).to_be_visible()
        address = page.url
        server.stop()
        expect(page.locator(".track").get_by_text("Connection lost. Reconnecting…")).to_be_visible()
        server.delay_s = 0.01
        server.start()
        expect(page.locator(".tile[data-index]")).to_have_count(6, timeout=60_000)
        assert page.url == address
        assert asked.count("/v1/generations") == 1
        assert (
            httpx.get(f"{server.url}/v1/generations/{address.split('#')[1]}", timeout=PATIENCE_S).json()["status"]
            == "succeeded"
        )


@pytest.mark.soak
@needs_browser
def test_256_candidates_by_keyboard(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        page.get_by_text("Sampling").click()
        page.get_by_label("Steps").fill("3")
        raced(page, "a red apple, a blue boat", 256)
        page.locator(".tile button[tabindex='0']").focus()
        for key, rank in (("End", 256), ("ArrowLeft", 255), ("Home", 1), ("ArrowRight", 2)):
            page.keyboard.press(key)
            focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
            assert focused.startswith(f"Rank {rank},"), (key, focused)
        assert page.locator(".tile button[tabindex='0']").count() == 1
        asked, before = posts(page), order(page)
        page.get_by_text("Prompt, negatives and references").click()
        page.get_by_label("Compare with", exact=True).fill("a blue boat")
        until(lambda: order(page) != before)
        assert {path.rsplit("/", 1)[1] for path in asked} == {"rerank"}
        drawn = page.locator(".tile img").evaluate_all(
            "all => all.filter(image => image.checkVisibility({contentVisibilityAuto: true})).length"
        )
        assert 0 < drawn < 256


@needs_browser
def test_pictures_join_the_words(browser: Browser, house: House, tmp_path: Path) -> None:
    Image.new("RGBA", (900, 40), (0, 0, 255, 128)).save(tmp_path / "wide.png")
    (tmp_path / "no.png").write_text("no picture")
    with opened(browser, house) as page:
        raced(page)
        before = order(page)
        page.get_by_role("button", name="More like this").click()
        expect(page.get_by_text("like reference 1", exact=True)).to_be_visible()
        page.get_by_text("Prompt, negatives and references").click()
        field = page.get_by_role("region", name="Re-rank")
        chooser = field.get_by_label("Add a reference image")
        chooser.set_input_files([tmp_path / "no.png"])
        expect(page.get_by_role("alert")).to_contain_text("cannot read this file")
        chooser.set_input_files([tmp_path / "wide.png"])
        field.get_by_label("Weight of reference 2").fill("-1.5")
        page.get_by_role("slider", name="Negative weight").fill("3")
        expect(page.locator(".inspector").get_by_text("unlike reference 2", exact=True)).to_be_visible()
        until(lambda: order(page) != before)
        rows = page.locator(".inspector .sum dd").all_inner_texts()
        shown = [float(text.replace("−", "-")) for text in rows]
        assert sum(shown[:-1]) == pytest.approx(shown[-1], abs=0.002)
        page.get_by_role("button", name="Store this ranking").click()
        expect(page.locator(".history ul ul .leaf")).to_have_count(1)
        kept = order(page)
        page.reload()
        expect(page.locator(".tile[data-index]").first).to_have_attribute("data-index", kept[0])
        page.get_by_text("Prompt, negatives and references").click()
        expect(page.get_by_text("Uploads are not stored.")).to_be_visible()


@needs_browser
def test_a_race_begins_from_a_picture_and_is_written_again(browser: Browser, house: House, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    with opened(browser, house) as page:
        page.get_by_label("Start from an image or a sketch").set_input_files(tmp_path / "blue.png")
        page.get_by_label("Add a reference image").set_input_files(tmp_path / "blue.png")
        page.get_by_text("Style presets").click()
        page.get_by_role("textbox", name="Prompt").first.fill("a boat")
        page.get_by_role("button", name="Studio", exact=True).click()
        expect(page.get_by_role("textbox", name="Prompt").first).to_have_value("a boat, soft studio lighting")
        expect(page.get_by_label("Negative prompt")).to_have_value("harsh shadows")
        page.get_by_label("Candidates", exact=True).fill("3")
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator(".tile")).to_have_count(3)
        made = house.client.get(f"/v1/generations/{page.url.split('#')[1]}").json()
        assert made["strength"] == 0.75
        assert [r["weight"] for r in made["ranking"]["references"]] == [0.5]
        page.get_by_role("button", name="Studio", exact=True).click()
        expect(page.get_by_role("textbox", name="Prompt").first).to_have_value("a boat")
        page.get_by_role("button", name="Edit and run again").click()
        expect(page.get_by_role("textbox", name="Prompt").first).to_have_value("a boat, soft studio lighting")


@needs_browser
def test_why_and_where(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        raced(page, "a red apple, close-up", 4)
        page.get_by_text("Explanation").click()
        rows = page.locator(".why tbody tr")
        expect(rows).to_have_count(2)
        assert "composition" in rows.nth(1).inner_text()
        page.get_by_role("button", name="a red apple", exact=True).click()
        expect(page.locator("img.heat")).to_have_js_property("naturalWidth", 64)
        page.locator(".tile button").nth(1).click()
        expect(page.locator(".place")).to_have_text("2nd")
        expect(page.locator("img.heat")).to_have_js_property("naturalWidth", 64)


@needs_browser
def test_a_taste_is_carried_from_profile_to_profile(browser: Browser, house: House, tmp_path: Path) -> None:
    with opened(browser, house) as page:
        raced(page, candidates=4)
        page.locator(".tile button").first.focus()
        page.keyboard.press("l")
        panel = page.locator(".rail .taste")
        expect(panel).to_contain_text("1 vote")
        panel.locator("summary").click()
        expect(panel).to_contain_text("1 liked")
        with page.expect_download() as file:
            panel.get_by_role("button", name="Export").click()
        file.value.save_as(tmp_path / "taste.json")
        panel.get_by_label("Profile").fill("another")
        panel.get_by_label("Profile").blur()
        expect(panel).to_contain_text("no votes yet")
        panel.get_by_label("Import").set_input_files(tmp_path / "taste.json")
        expect(panel).to_contain_text("1 liked")
        panel.get_by_label("Use it in new generations").check()
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator(".runner")).to_have_count(0)
        expect(page.get_by_text("your taste", exact=True)).to_be_visible()
        panel.get_by_role("button", name="Delete").click()
        expect(panel).to_contain_text("no votes yet")


@needs_browser
def test_a_service_with_keys(browser: Browser, tmp_path: Path) -> None:
    """What the browser says of the 401s is let pass."""
    with running(tmp_path) as house:
        command = [sys.executable, "-m", "app.cli", "keys", "add", "--name", "studio"]
        environment = {**os.environ, "FRONTRUNNER_DATA_DIR": str(tmp_path / "data")}
        made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        key = made.split()[1]
        until(lambda: house.client.get("/v1/models").status_code == 401)
        with opened_at(browser, house.url, failing=True) as page:
            expect(page.get_by_role("heading", name="This service requires an API key.")).to_be_visible()
            page.get_by_label("API key").last.fill("fr_wrong")
            page.get_by_role("button", name="Enter").click()
            expect(page.get_by_role("heading", name="The service rejected this key.")).to_be_visible()
            page.get_by_label("API key").last.fill(key)
            page.get_by_role("button", name="Enter").click()
            raced(page, candidates=3)
            until(lambda: page.locator(".tile img").evaluate_all("all => all.every(one => one.naturalWidth > 0)"))
            page.reload()
            expect(page.locator(".tile")).to_have_count(3)
            assert key not in page.evaluate("JSON.stringify(localStorage)")
            page.get_by_role("button", name="Remove it").click()
            expect(page.get_by_role("heading", name="This service requires an API key.")).to_be_visible()


@needs_browser
def test_a_service_that_is_still_loading_is_asked_again(browser: Browser, house: House) -> None:
    told = '{"title": "Loading", "detail": "the models are loading"}'
    with opened_at(browser, house.url, failing=True) as page:
        page.route("**/v1/models", lambda route: route.fulfill(status=503, body=told), times=1)
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("The models are loading.")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.get_by_label("Candidates", exact=True)).to_have_attribute("max", "256")


@needs_browser
def test_errors_in_words(browser: Browser, house: House) -> None:
    """The browser logs each refusal by itself, so this one listens to the page only."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(house.url)
    page.get_by_label("Negative prompt").fill("blurry")
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
        found = violations(page)
        with slow(house):
            start(page)
            expect(page.locator(".runner img").first).to_be_visible()
            found += violations(page)
        expect(page.locator(".tile")).to_have_count(12)
        page.get_by_text("Prompt, negatives and references").click()
        page.get_by_text("Refine this candidate").click()
        page.get_by_role("button", name="More like this").click()
        page.get_by_text("Style presets").click()
        page.get_by_text("Explanation").click()
        page.get_by_role("button", name="a red apple", exact=True).click()
        expect(page.locator("img.heat")).to_be_visible()
        page.locator(".rail .taste summary").click()
        expect(page.get_by_role("button", name="Studio", exact=True)).to_be_visible()
        found += violations(page)
        assert found == []


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
