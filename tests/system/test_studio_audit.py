"""The audit, the probability and the safety of images in the studio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.protocols import Calibration, MatchCalibration, Models
from models.synthetic.members import RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import running
from tests.synthetic_models import InstrumentedGenerator
from tests.system.studio_kit import AXE, Browser, expect, needs_browser, opened, opened_at, raced, violations

pytestmark = pytest.mark.slow

FAKE: dict[str, Any] = {"safety_classifier": "fake", "safety_threshold": 0.615}
MATCH = MatchCalibration(10.0, -3.0, 0.01, 0.02, 100, ((0.5, 0.5, 1.0),))
CALIBRATION = Calibration("1", "1", "ddim", 8, 2.0, *(((1.0,) * 8,) * 3), (0.0,) * 8, match=MATCH)


@needs_browser
def test_an_audit_is_plotted_and_a_probability_is_a_sentence(browser: Browser, tmp_path: Path) -> None:
    generator, scorer = InstrumentedGenerator(), FakeScorer()
    known = replace(CALIBRATION, generator=generator.info.revision, scorer=scorer.info.revision)

    def load() -> Models:
        return Models(generator, scorer, calibration=known, members=(RandomFeatureScorer(),))

    with running(tmp_path, load=load) as house, opened(browser, house) as page:
        page.get_by_label("Prune weak candidates").uncheck()  # the calibration would prune
        raced(page)
        expect(page.get_by_text("show the prompt rather than another one", exact=False)).to_be_visible()
        expect(page.locator(".summary")).to_contain_text("± 0.014")
        edges = page.evaluate(
            "[['.audit', 'bottom'], ['.tiles', 'top']].map(([q, side]) =>"
            " document.querySelector(q).getBoundingClientRect()[side])"
        )
        assert edges[1] - edges[0] >= 16, "apart from the candidates"
        page.get_by_text("Audit", exact=True).click()
        button = page.get_by_role("button", name="Audit the candidates")
        expect(button).to_be_disabled()
        page.get_by_label("Texts of which one fits an image").fill("red\nblue")
        button.click()
        table = page.locator(".audit table")
        expect(table.get_by_role("rowheader")).to_have_text(["red", "blue", "undetermined"])
        expect(table.locator("circle")).to_have_count(6)
        expect(page.locator(".audit .notices")).to_contain_text("A zero-shot probe decides")
        if AXE.exists():  # from the packages of the studio
            assert violations(page) == []
        page.set_viewport_size({"width": 375, "height": 800})
        boxes = [cell.bounding_box() for cell in table.locator("tbody tr").first.locator("> *").all()]
        assert [box["y"] for box in boxes if box] == sorted({box["y"] for box in boxes if box}), "one below the other"
        assert max(box["x"] + box["width"] for box in boxes if box) <= 375
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        if AXE.exists():
            assert violations(page) == []


@needs_browser
def test_an_audit_without_another_scorer_says_why(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path) as house, opened_at(browser, house.url, failing=True) as page:
        raced(page)
        page.get_by_text("Audit", exact=True).click()
        page.get_by_label("Texts of which one fits an image").fill("red\nblue")
        page.get_by_role("button", name="Audit the candidates").click()
        expect(page.locator(".audit [role=alert]")).to_contain_text("took part in the ranking")
        page.get_by_label("Ask the scorer that ranks", exact=False).check()
        page.get_by_role("button", name="Audit the candidates").click()
        expect(page.locator(".audit table circle")).to_have_count(6)


@needs_browser
def test_flagged_images_have_a_badge_and_a_mode_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, **FAKE) as house, opened(browser, house) as page:
        mode = page.get_by_label("Safety, by fake")
        expect(mode.locator("option").first).to_have_text("server's default: off")
        page.get_by_text("Sampling", exact=True).click()
        page.get_by_label("Seed", exact=True).fill("7")  # some of its images are flagged, some are not
        raced(page)
        expect(page.locator(".unsafe")).to_have_count(0)
        mode.select_option("flag")
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator(".unsafe").first).to_be_visible()
        newest = house.client.get("/v1/generations").json()["data"][0]["id"]
        made = house.client.get(f"/v1/generations/{newest}").json()
        flagged = [one["index"] for one in made["candidates"] if one["safety"]["flagged"]]
        assert made["safety"] == "flag"
        assert 0 < len(flagged) < len(made["candidates"])
        expect(page.locator(".tile .unsafe")).to_have_count(len(flagged))
        page.locator(f".tile[data-index='{flagged[0]}'] button").click()
        expect(page.locator(".account")).to_contain_text("flagged by the safety classifier fake")
        if AXE.exists():  # from the packages of the studio
            assert violations(page) == []


@needs_browser
def test_a_mode_is_not_offered_where_nothing_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    for name, given in (("none", {"safety_classifier": "no-such"}), ("strict", {**FAKE, "safety": "veto"})):
        with running(tmp_path / name, **given) as house, opened(browser, house) as page:
            expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()
            expect(page.get_by_label("Prune weak candidates")).to_be_visible()
            expect(page.get_by_label("Safety, by", exact=False)).to_have_count(0)
