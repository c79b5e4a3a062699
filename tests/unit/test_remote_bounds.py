"""What a remote generator may cost, how far its answers are unpacked, and what it cannot give away."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from models.generators.remote.limits import Budget, Lost
from models.load_options import RemoteLimits
from tests.remotes import Asked, Remote, Reply, base64_of, file_of, generator, made, order


def images(*found: str) -> dict[str, Any]:
    return {"data": [{"b64_json": each} for each in found]}


@pytest.mark.parametrize(("status", "paid"), [(500, True), (504, True), (408, True), (503, False), (429, False)])
def test_only_calls_that_can_have_made_no_image_cost_nothing(status: int, paid: bool) -> None:
    def answer(asked: Asked, number: int) -> Any:
        return Reply(status) if number == 1 else images(base64_of())

    with Remote(answer) as remote, generator(f"openai:{remote.url}/v1#m", price=1, money_per_day=1, attempts=2) as it:
        assert made(it, order(1)).reasons == (["budget_spent"] if paid else [])
        assert len(remote.made) == (1 if paid else 2)


def test_a_refund_belongs_to_the_day_of_its_call() -> None:
    day = [1.0]
    budget = Budget(RemoteLimits(price=1, money_per_day=2), lambda: day[0] * 86400)
    yesterday = budget.spend(1)
    day[0] += 1
    today = budget.spend(2)
    budget.refund(1, yesterday)
    with pytest.raises(Lost, match="no room left"):
        budget.spend(1)
    budget.refund(2, today)
    assert budget.spend(2) == today


def test_nested_and_unknown_compressions_are_not_unpacked() -> None:
    bomb = gzip.compress(gzip.compress(bytes(2**24)))
    links = {"/nested": "gzip, gzip", "/brotli": "br", "/plain": "gzip"}

    def answer(asked: Asked, number: int) -> Any:
        if asked.method == "POST":
            return {"data": [{"url": [*links][len(remote.made) - 1]}]}
        assert asked.headers["accept-encoding"] == "gzip, deflate"
        body = gzip.compress(file_of("lime")) if asked.path == "/plain" else bomb
        return Reply(body=body, headers={"content-encoding": links[asked.path]})

    with Remote(answer) as remote, generator(f"openai:{remote.url}/v1#m", concurrency=1) as it:
        found = made(it, order(3))
        assert [*found.pictures] == [2]
        assert all("gzip or deflate" in loss.detail for loss in found.losses.values())


def test_a_remote_that_repeats_the_header_gives_no_password_away() -> None:
    def answer(asked: Asked, number: int) -> Any:
        return Reply(400, {"detail": f"bad header {asked.headers['authorization']}"})

    with Remote(answer) as remote, generator(f"a1111:{remote.url}", api_key="me:open-sesame") as it:
        details = [loss.detail for loss in made(it, order(1, sampler="default")).losses.values()]
        assert details == ["a1111 answers 400: bad header Basic [...]"]
