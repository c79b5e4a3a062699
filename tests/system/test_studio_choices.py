"""Quality, variants and vetoes in the studio's form."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.protocols import GeneratorInfo, Styles
from tests.api.kit import running
from tests.synthetic_models import InstrumentedGenerator
from tests.system.studio_kit import Browser, copied_body, expect, needs_browser, opened, raced, start, violations


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
        body = copied_body(page)
        page.reload()
        expect(page.get_by_label("Your own variants, one a line")).to_be_visible()
        page.get_by_text("Variants of the prompt", exact=True).click()
        expect(page.get_by_label("Your own variants, one a line")).to_be_hidden()
        page.get_by_text("Variants of the prompt", exact=True).click()
        page.get_by_label("Your own variants, one a line").fill("a forgotten text")
        page.get_by_role("button", name="Edit and run again").click()
        kept = page.get_by_label("Your own variants, one a line").input_value().splitlines()
        copied = house.client.post("/v1/generations", json=body).json()
        _, own, auto = house.client.get("/v1/generations").json()["data"]
        details = [house.client.get(f"/v1/generations/{one['id']}").json() for one in (auto, own)]
    assert [one["n_candidates"] for one in details] == [6, 6]
    assert [one["steps"] for one in details] == [4, 4]
    assert [one["ranking"]["veto"] for one in details] == [["artefact"], ["artefact"]]
    assert [len({c["wording"] for c in one["candidates"]}) for one in details] == [3, 2]
    assert {c["wording"] for c in details[1]["candidates"]} == {"an apple, red", "a crimson apple"}
    assert set(kept) == {"an apple, red", "a crimson apple"}
    for name in ("seed", "wording", "score"):
        assert [c[name] for c in copied["candidates"]] == [c[name] for c in details[1]["candidates"]]


@needs_browser
def test_withheld_images_are_named_and_not_asked_for(browser: Browser, tmp_path: Path) -> None:
    fake: dict[str, Any] = {"safety_classifier": "fake", "safety_threshold": 0.615, "safety": "veto"}
    with running(tmp_path, **fake) as house, opened(browser, house) as page:
        page.get_by_role("textbox", name="Prompt").first.fill("a red apple")
        page.get_by_label("Candidates", exact=True).fill("8")
        page.get_by_label("Prune weak candidates").uncheck()
        page.get_by_text("Sampling", exact=True).click()
        page.get_by_label("Steps", exact=True).fill("4")
        page.get_by_label("Seed", exact=True).fill("7")
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator(".tile")).to_have_count(8)
        (made,) = house.client.get("/v1/generations").json()["data"]
        told = house.client.get(f"/v1/generations/{made['id']}").json()["candidates"]
        count = sum(one["safety"]["flagged"] for one in told)
        assert 0 < count < 8
        expect(page.locator(".tile.rest", has_text="withheld by safety")).to_have_count(count)
        expect(page.locator(".tile.rest img")).to_have_count(0)


class Styled(InstrumentedGenerator):
    """Spreads prompts over two styles."""

    @property
    def info(self) -> GeneratorInfo:
        return replace(super().info, styles=Styles(("old style", "new style"), frozenset({"style"}), spread=True))


@needs_browser
def test_an_edited_prompt_is_drawn_in_the_styles_of_the_server_and_not_as_the_old_one(
    browser: Browser, tmp_path: Path
) -> None:
    with running(tmp_path, Styled()) as house, opened(browser, house) as page:
        assert house.client.get("/v1/models").json()["data"][0]["generator"]["spread_styles"] == [
            "old style",
            "new style",
        ]
        raced(page, "a red apple.", 4)
        expect(page.get_by_text("sampled from “a red apple, ")).to_be_visible()
        assert sorted(page.locator(".tile .style").all_inner_texts()) == ["new style"] * 2 + ["old style"] * 2
        for style in ("old style", "new style"):
            expect(page.get_by_role("button", name=re.compile(f"^Rank .*, {style}"))).to_have_count(2)
        assert violations(page) == []
        page.get_by_role("button", name="Edit and run again").click()
        expect(page.get_by_label("Your own variants, one a line")).to_be_hidden()
        start(page, "a blue boat", 4)
        expect(page.get_by_text("sampled from “a blue boat, ")).to_be_visible()
        made = house.client.get("/v1/generations").json()["data"][0]
        candidates = house.client.get(f"/v1/generations/{made['id']}").json()["candidates"]
    assert {one["wording"] for one in candidates} == {"a blue boat, old style", "a blue boat, new style"}
