"""What the service writes between backticks is code in the studio, and everything else stays text."""

from __future__ import annotations

import json

from playwright.sync_api import Locator, Route

from tests.api.kit import House
from tests.system.studio_kit import Browser, expect, needs_browser, opened_at, raced

WORDS = "`ranking.references` is <b>full</b>"
REFUSAL = json.dumps({"title": "Refused", "detail": WORDS})
REFUSAL_OF_A_FIELD = json.dumps({"title": "Refused", "errors": [{"detail": WORDS, "pointer": "#/n"}]})


def refuse(route: Route) -> None:
    route.fulfill(status=422, body=REFUSAL)


def warn(route: Route) -> None:
    answer = route.fetch()
    told = {**answer.json(), "warnings": [{"code": "told", "detail": WORDS}]}
    route.fulfill(response=answer, json=told)


def has_code(place: Locator) -> None:
    expect(place.locator("code")).to_have_text("ranking.references")
    expect(place).to_contain_text("ranking.references is <b>full</b>")


@needs_browser
def test_what_stands_between_backticks_is_code(browser: Browser, house: House) -> None:
    with opened_at(browser, house.url, failing=True) as page:
        raced(page, candidates=4)
        slider = page.get_by_role("slider", name="Negative weight")
        page.route("**/rerank", warn)
        slider.fill("1")
        has_code(page.locator(".wall > .notices"))
        page.unroute("**/rerank")
        page.route("**/rerank", lambda route: route.fulfill(status=422, body=REFUSAL_OF_A_FIELD))
        slider.fill("2")
        has_code(page.locator(".trouble li"))
        page.unroute("**/rerank")
        page.route("**/rerank", refuse)
        slider.fill("3")
        has_code(page.locator(".trouble p"))

        page.get_by_text("Explanation").click()
        page.route("**/heat*", refuse)
        page.get_by_role("button", name="a red apple", exact=True).click()
        has_code(page.locator(".inspector figcaption"))
        page.route("**/why?*", refuse)
        page.locator(".tile button").nth(1).click()
        has_code(page.locator(".why [role=alert]"))

        page.get_by_text("Audit", exact=True).click()
        page.get_by_label("Texts of which one fits an image").fill("red\nblue")
        page.get_by_label("Ask the scorer that ranks", exact=False).check()
        page.route("**/v1/audits", warn)
        page.get_by_role("button", name="Audit the candidates").click()
        has_code(page.locator(".audit .notices"))
        page.unroute("**/v1/audits")
        page.route("**/v1/audits", refuse)
        page.get_by_role("button", name="Audit the candidates").click()
        has_code(page.locator(".audit [role=alert]"))
        page.route("**/v1/models", lambda route: route.fulfill(status=401, body=REFUSAL))
        page.evaluate("sessionStorage.setItem('frontrunner.key', 'fr_wrong')")
        page.reload()
        has_code(page.locator(".gate [role=alert]"))
