"""Quality, variants and vetoes in the studio's form."""

from __future__ import annotations

import json
from pathlib import Path

from tests.api.kit import running
from tests.system.studio_kit import Browser, expect, needs_browser, opened


@needs_browser
def test_quality_variants_and_vetoes_are_asked_for(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, default_candidates=8) as house, opened(browser, house) as page:
        page.evaluate('localStorage.setItem(\'frontrunner.draft\', \'{"prompt": "a red apple", "avoided": ""}\')')
        page.reload()  # the form of an older page has no such fields
        expect(page.get_by_label("Candidates", exact=True)).to_have_value("8")
        page.get_by_role("combobox", name="Quality").select_option("best")
        expect(page.get_by_label("Candidates", exact=True)).to_have_value("32")
        page.get_by_role("combobox", name="Quality").select_option("draft")
        expect(page.get_by_label("Candidates", exact=True)).to_have_value("2")
        page.get_by_text("Sampling", exact=True).click()
        expect(page.get_by_label("Steps", exact=True)).to_have_attribute("placeholder", "4")
        page.get_by_label("Candidates", exact=True).fill("6")
        page.get_by_text("Variants of the prompt", exact=True).click()
        page.get_by_label("Wordings that the server makes").select_option("3")
        page.get_by_label("Exclude images with artefacts").check()
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator(".tile[data-index]")).to_have_count(6)
        page.get_by_label("Your own variants, one a line").fill("an apple, red\n\n  a crimson apple ")
        expect(page.get_by_label("Wordings that the server makes")).to_be_disabled()
        with page.expect_response(lambda r: r.request.method == "POST"):
            page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator(".tile[data-index]")).to_have_count(6)
        page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        body = page.evaluate("window.copied").partition(" -d '")[2].rpartition("'")[0].replace("'\\''", "'")
        copied = house.client.post("/v1/generations", json=json.loads(body)).json()
        _, own, auto = house.client.get("/v1/generations").json()["data"]
        details = [house.client.get(f"/v1/generations/{one['id']}").json() for one in (auto, own)]
    assert [one["n_candidates"] for one in details] == [6, 6]
    assert [one["steps"] for one in details] == [4, 4]
    assert [one["ranking"]["veto"] for one in details] == [["artefact"], ["artefact"]]
    assert [len({c["wording"] for c in one["candidates"]}) for one in details] == [3, 2]
    assert {c["wording"] for c in details[1]["candidates"]} == {"an apple, red", "a crimson apple"}
    for name in ("seed", "wording", "score"):
        assert [c[name] for c in copied["candidates"]] == [c[name] for c in details[1]["candidates"]]
