"""Coming and going in the studio: two tabs, late answers, races that are left, addresses that are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.api.kit import House
from tests.system.studio_kit import Browser, expect, needs_browser, opened, raced, slow, start

pytestmark = needs_browser


def leaves(page: Any) -> Any:
    return page.locator(".history .leaf")


@contextmanager
def unanswered(page: Any) -> Iterator[None]:
    """The first race that is asked for gets no answer."""
    held: list[Any] = []
    page.route("**/v1/generations", lambda route: route.continue_() if held else held.append(route))
    yield
    for route in held:
        route.abort()
    page.unroute_all(behavior="wait")


def test_two_tabs_keep_one_history(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        other = page.context.new_page()
        other.goto(house.url)
        raced(page, "a red apple", 2)
        expect(leaves(other)).to_have_count(1)
        raced(other, "a blue car", 2)
        expect(leaves(page)).to_have_count(2)
        page.reload()
        expect(leaves(page)).to_have_count(2)


def test_the_address_that_was_asked_for_last_wins(browser: Browser, house: House) -> None:
    late, last = (house.made(prompt=prompt, n_candidates=2, n=2)["id"] for prompt in ("a late dog", "a cat"))
    with opened(browser, house) as page:
        held: list[Any] = []
        page.route(f"**/v1/generations/{late}", lambda route: held.append(route))
        with page.expect_request(f"**/v1/generations/{late}"):
            page.goto(f"{house.url}/#{late}")
        page.goto(f"{house.url}/#{last}")
        expect(page.get_by_role("heading", level=1)).to_have_text("a cat")
        assert held
        with page.expect_response(f"**/v1/generations/{late}"):
            for route in held:
                route.continue_()
        page.wait_for_timeout(200)
        expect(page.get_by_role("heading", level=1)).to_have_text("a cat")
        assert page.url.endswith(last)


def test_new_leaves_a_race(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        raced(page, "a blue car", 2)
        with slow(house):
            start(page, "a red apple", 8)
            expect(page.locator(".runner img").first).to_be_visible()
            page.get_by_role("link", name="New").click()
            expect(page.locator(".runner")).to_have_count(0)
            expect(leaves(page)).to_have_count(2)
        page.wait_for_timeout(500)
        expect(page.locator(".tile")).to_have_count(0)
        leaves(page).get_by_role("link", name="a red apple").click()
        expect(page.locator(".tile[data-index]")).to_have_count(8, timeout=60_000)


def test_a_race_is_called_off_before_it_has_answered(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        with unanswered(page):
            with page.expect_request("**/v1/generations"):
                start(page, "a called off apple", 4)
            with page.expect_response(lambda answer: answer.request.method == "DELETE") as told:
                page.get_by_role("button", name="Cancel").click()
        assert told.value.status == 204
        assert house.client.get(told.value.url.removeprefix(house.url)).status_code == 404


def test_a_race_that_is_left_before_it_has_answered_is_in_the_history(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        raced(page, "a blue car", 2)
        with unanswered(page):
            with page.expect_request("**/v1/generations"):
                start(page, "a left apple", 2)
            page.get_by_role("link", name="New").click()
            expect(leaves(page)).to_have_count(2)
        leaves(page).get_by_role("link", name="a left apple").click()
        expect(page.locator(".tile[data-index]")).to_have_count(2)


def test_going_back_wins_over_a_slow_answer(browser: Browser, house: House) -> None:
    here, there = (house.made(prompt=prompt, n_candidates=2, n=2)["id"] for prompt in ("a near dog", "a far cat"))
    with opened(browser, house) as page:
        page.goto(f"{house.url}/#{here}")
        expect(page.get_by_role("heading", level=1)).to_have_text("a near dog")
        held: list[Any] = []
        page.route(f"**/v1/generations/{there}", lambda route: held.append(route))
        with page.expect_request(f"**/v1/generations/{there}"):
            page.goto(f"{house.url}/#{there}")
        page.go_back()
        for route in held:
            route.continue_()
        page.wait_for_timeout(300)
        expect(page.get_by_role("heading", level=1)).to_have_text("a near dog")
        assert page.url.endswith(here)


def test_an_address_is_opened_although_a_race_is_remembered(browser: Browser, house: House) -> None:
    done = house.made(prompt="a done boat", n_candidates=2, n=2)["id"]
    with opened(browser, house) as page, slow(house):
        start(page, "a red apple", 16)
        expect(page.locator(".runner img").first).to_be_visible()
        page.evaluate(f"history.replaceState(null, '', '#{done}'); location.reload()")
        expect(page.get_by_role("heading", level=1)).to_have_text("a done boat")


def test_the_pruned_on_the_wall_are_no_warning(browser: Browser, house: House) -> None:
    made = house.made(n_candidates=4, n=1, steps=8, pruning=[{"at": 2, "keep": 1}])["id"]
    told = house.post(f"/v1/generations/{made}/rerank", json={"n": 4}).json()["warnings"]
    assert [w["code"] for w in told] == ["fewer_returned"]
    with opened(browser, house) as page:
        with page.expect_response("**/rerank"):
            page.goto(f"{house.url}/#{made}")
        expect(page.locator(".tile[data-index]").first).to_be_visible()
        page.wait_for_timeout(200)
        expect(page.get_by_text("of the requested images")).to_have_count(0)


def test_a_number_that_is_typed_before_the_service_answers_stays(browser: Browser, house: House) -> None:
    with opened(browser, house) as page:
        held: list[Any] = []
        page.route("**/v1/models", lambda route: held.append(route))
        page.reload()
        page.get_by_label("Candidates", exact=True).fill("5")
        page.wait_for_timeout(100)
        for route in held:
            route.continue_()
        page.get_by_text("Sampling").click()
        expect(page.get_by_label("Steps")).to_have_attribute("placeholder", "8")
        expect(page.get_by_label("Candidates", exact=True)).to_have_value("5")


def test_files_contain_what_the_page_says(browser: Browser, house: House) -> None:
    for choice, used in (("prompt and settings", "metadata"), ("none", "none"), ("server's default", "none")):
        with opened(browser, house) as page:
            page.get_by_text("Sampling").click()
            page.get_by_label("Metadata in files").select_option(label=choice)
            raced(page, candidates=4)
            made = page.url.partition("#")[2]
            assert house.client.get(f"/v1/generations/{made}").json()["provenance"] == used
