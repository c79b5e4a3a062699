"""Sliders of several scorers in the studio: one each, at once, without sampling."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Route

from models.protocols import Models
from models.synthetic.members import RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import running, until
from tests.synthetic_models import InstrumentedGenerator
from tests.system.studio_kit import Browser, copied_body, expect, needs_browser, opened, order, posts, raced


def ensemble() -> Models:
    return Models(
        InstrumentedGenerator(),
        FakeScorer(),
        members=(RandomFeatureScorer(),),
        referee=RandomFeatureScorer(3),
    )


def number(text: str) -> float:
    return float(text.replace("−", "-"))


@needs_browser
def test_sliders_of_scorers_rank_at_once(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, load=ensemble) as house, opened(browser, house) as page:
        raced(page)
        expect(page.get_by_text("The referee fake-3")).to_be_visible()
        before, asked = order(page), posts(page)
        other = page.get_by_role("slider", name="fake-2")
        expect(other).to_have_value("0")
        other.fill("3")
        until(lambda: order(page) != before)
        expect(page.get_by_text("score of all scorers", exact=False).first).to_be_visible()
        expect(page.locator(".judges meter")).to_have_count(2)
        bars = page.locator(".tile[data-index] > .bar .similarity").evaluate_all(
            "all => all.map(b => b.width.baseVal.value)"
        )
        assert bars[0] == 1000
        assert bars == sorted(bars, reverse=True), "longest first"
        expect(page.get_by_text("Agreement of the scorers", exact=False)).to_be_visible()
        main = page.get_by_role("slider", name="fake", exact=False).first
        main.fill("0")
        expect(other).to_have_attribute("min", "0.1")
        other.press("Home")
        expect(other).to_have_value("0.1")
        expect(page.locator(".scorers .slider").nth(1)).to_contain_text("0.1")
        assert {path.rsplit("/", 1)[1] for path in asked} == {"rerank"}
        copied = copied_body(page)["ranking"]
        assert copied["scorers"] == [{"name": "fake", "weight": 1}, {"name": "fake-2", "weight": 0}], (
            "those of the generation"
        )
        assert copied["uncertainty"] == 0.5
        page.get_by_role("button", name="Reset").click()
        until(lambda: order(page) == before)
    with running(tmp_path / "one") as house, opened(browser, house) as page:
        raced(page)
        expect(page.locator(".scorers")).to_have_count(0)


def as_of_another_model(route: Route) -> None:
    """The main scorer that the list names is the default model's, not always that of the generation."""
    answer = route.fetch()
    body = answer.json()
    body["scorers"] = [{**one, "role": "member" if one["role"] == "main" else one["role"]} for one in body["scorers"]]
    route.fulfill(response=answer, json=body)


@needs_browser
def test_parts_add_up_to_the_score_beside_them(browser: Browser, tmp_path: Path) -> None:
    """They are the main scorer's, under its name; the score of all scorers stands apart."""
    with running(tmp_path, load=ensemble) as house, opened(browser, house) as page:
        raced(page)
        page.route("**/v1/models", as_of_another_model)
        page.reload()
        page.get_by_role("button", name="♥ Like").click()
        page.get_by_role("slider", name="fake-2").fill("3")
        page.get_by_role("slider", name="Your taste").fill("1")
        expect(page.locator(".itemised .taste")).to_be_visible()
        expect(page.locator(".combined")).to_contain_text("score of all scorers")
        expect(page.locator(".sum > h3")).to_have_text("fake")
        *parts, total = [number(text) for text in page.locator(".itemised dd").all_inner_texts()]
        assert sum(parts) == pytest.approx(total, abs=0.002)
        assert total == pytest.approx(number(page.locator(".judges dd").first.inner_text()), abs=0.002)
        expect(page.locator(".judges")).to_contain_text("the place of its score between the lowest and the highest")
        taste = page.locator(".sum .bar .taste").evaluate("bar => bar.width.baseVal.value")
        assert taste > 0, "within the bar"
