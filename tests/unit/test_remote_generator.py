"""A remote generator against a real HTTP server: orders, limits, budgets, and every way to fail."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from typing import Any

import numpy as np
import pytest

from models import registry
from models.errors import ModelNotFound, ModelUnsupported
from models.generators.remote import calls
from models.generators.remote.limits import LONGEST_SHARED_PAUSE_S, Lost, Pace, Turns
from models.load_options import LoadOptions, RemoteLimits
from models.protocols.narrow import makes_whole_images
from tests.remotes import (
    KEY,
    Answer,
    Asked,
    Delivered,
    PlainDecoder,
    Remote,
    Reply,
    base64_of,
    file_of,
    generator,
    made,
    order,
)
from tests.servers import until


def images(*found: str) -> dict[str, Any]:
    return {"created": 1, "data": [{"b64_json": each} for each in found]}


def always(reply: Any) -> Answer:
    return lambda asked, number: reply


def test_candidates_are_made_by_parallel_calls_within_the_limit() -> None:
    gate = threading.Barrier(3)

    def answer(asked: Asked, number: int) -> Any:
        gate.wait()
        return images(base64_of("blue"))

    with Remote(answer) as remote, generator(f"openai:{remote.url}/v1#painter", concurrency=3) as it:
        found = made(it, order(6))
        assert (len(found.pictures), remote.most) == (6, 3)
        assert found.pictures[5].latent.pixels[0, 0].tolist() == [0, 0, 255]
        first = remote.asked[0]
        assert first.path == "/v1/images/generations"
        assert first.headers["authorization"] == f"Bearer {KEY}"
        assert first.body == {
            "model": "painter", "prompt": "a red apple", "n": 1, "size": "64x64", "response_format": "b64_json",
        }  # fmt: skip
        assert (it.info.id, it.info.device, it.info.width) == ("openai:painter", "remote", 64)
        assert it.info.whole_images is not None
        assert not it.info.whole_images.seeds
        (array,) = it.dump([found.pictures[0].latent])
        (again,) = it.load(array[None])
        np.testing.assert_array_equal(it.decode([again])[0], found.pictures[0].latent.pixels)


def test_several_images_of_a_call_have_one_prompt_and_consecutive_seeds() -> None:
    with (
        Remote(lambda asked, _: images(*[base64_of()] * asked.body["n"])) as remote,
        generator(f"openai:{remote.url}/v1#painter", images_per_call=3, parameters={"quality": "low"}) as it,
    ):
        made(it, order(7, prompts=("a", "a", "a", "a", "b", "b", "b"), seeds=(1, 2, 3, 4, 5, 6, 9)))
        counts = sorted((each.body["prompt"], each.body["n"]) for each in remote.made)
        assert counts == [("a", 1), ("a", 3), ("b", 1), ("b", 2)]
        assert {each.body["quality"] for each in remote.made} == {"low"}


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("dall-e-3", (640, 360), "1792x1024"),
        ("dall-e-2", (64, 64), "256x256"),
        ("gpt-image-1.5", (64, 96), "1024x1536"),
    ],
)
def test_models_with_own_sizes_are_asked_for_the_nearest(model: str, asked: tuple[int, int], sent: str) -> None:
    with (
        Remote(lambda asked, _: images(base64_of("red", (96, 64)))) as remote,
        generator(f"openai:{remote.url}/v1#{model}") as it,
    ):
        found = made(it, order(1, width=asked[0], height=asked[1]))
        assert remote.asked[0].body["size"] == sent
        assert ("response_format" in remote.asked[0].body) == model.startswith("dall-e")
        assert found.pictures[0].latent.pixels.shape == (asked[1], asked[0], 3)
        assert found.pictures[0].sent == (96, 64)


HUGE = Reply(body=b'{"data": [{"b64_json": "' + b"A" * 3_000_000)


@pytest.mark.parametrize(
    ("reply", "reason", "calls_made"),
    [
        (Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}), "unauthorized", 1),
        (Reply(400, {"error": {"code": "content_policy_violation", "message": "no apples"}}), "refused", 1),
        (Reply(400, {"error": {"code": "moderation_blocked", "message": "no apples"}}), "refused", 1),
        (Reply(400, {"error": {"message": "bad size at http://10.0.0.7:8080/x"}}), "rejected", 1),
        (Reply(404, {"detail": "Not Found"}), "rejected", 1),
        (Reply(422, {"detail": [{"loc": ["body"]}]}), "rejected", 1),
        (Reply(429, {"error": {"code": "insufficient_quota", "message": "pay"}}), "rate_limited", 1),
        (Reply(429, headers={"retry-after": "3600"}), "rate_limited", 1),
        (Reply(429, headers={"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}), "rate_limited", 1),
        (Reply(429, headers={"retry-after": "0"}), "rate_limited", 3),
        (Reply(500, b"<html>"), "unreachable", 3),
        (Reply(500, headers={"x-should-retry": "false"}), "unreachable", 1),
        (Reply(503, headers={"retry-after": "0"}), "unreachable", 3),
        (Reply(302, headers={"location": "http://169.254.169.254/"}), "rejected", 1),
        (Reply(200, b"<html>hello</html>", {"content-type": "text/html"}), "unreadable", 1),
        (Reply(200, b"[" * 100_000), "unreadable", 1),
        (Reply(200, {"data": "none"}), "unreadable", 1),
        (Reply(200, ["data"]), "unreadable", 1),
        (Reply(200, {"data": []}), "missing", 1),
        (Reply(200, {"data": [7]}), "missing", 1),
        (Reply(200, {"data": [{"b64_json": 7}]}), "missing", 1),
        (Reply(200, images("***")), "unreadable", 1),
        (Reply(200, images(base64_of()[:60])), "unreadable", 1),
        (Reply(200, images("PGh0bWw+")), "unreadable", 1),
        (Reply(200, images(base64_of()), {"content-encoding": "gzip"}), "unreadable", 1),
        (Reply(200, images(base64_of()), cut=20), "unreachable", 3),
        (HUGE, "unreadable", 1),
    ],
)  # fmt: skip
def test_a_call_without_an_image_is_a_typed_loss(
    reply: Reply, reason: str, calls_made: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calls, "MAX_PICTURE_BYTES", 2**20)
    caplog.set_level(logging.DEBUG)
    with Remote(always(reply)) as remote, generator(f"openai:{remote.url}/v1#painter") as it:
        found = made(it, order(1))
        assert (found.reasons, len(remote.made)) == ([reason], calls_made)
        detail = found.losses[0].detail
        assert detail.startswith("openai:painter ")
        for secret in (KEY, "127.0.0.1", "10.0.0.7", "169.254"):
            assert secret not in detail
        assert KEY not in caplog.text
        assert KEY not in repr(it) + repr(it.info) + repr(RemoteLimits(api_key=KEY))


def test_what_was_refused_once_is_not_lost_with_the_rest() -> None:
    def answer(asked: Asked, number: int) -> Any:
        if number == 2:
            return Reply(400, {"error": {"code": "content_policy_violation", "message": "not this one"}})
        return Reply(503, headers={"retry-after": "0"}) if number == 3 else images(base64_of())

    with Remote(answer) as remote, generator(f"openai:{remote.url}/v1#painter", concurrency=1) as it:
        found = made(it, order(4))
        assert (found.reasons, len(found.pictures), len(remote.made)) == (["refused"], 3, 5)
        assert next(iter(found.losses.values())).detail == "openai:painter refuses the prompt: not this one"
        assert it.calls().counts == {"answered": 3, "refused": 1, "unreachable": 1}, "a repeated call counts again"
        assert set(it.calls().seconds) == set(it.calls().counts)


def test_fewer_images_than_asked_for() -> None:
    with (
        Remote(always(images(base64_of(), base64_of()))) as remote,
        generator(f"openai:{remote.url}/v1#painter", images_per_call=5) as it,
    ):
        found = made(it, order(5))
        assert (sorted(found.pictures), found.reasons) == ([0, 1], ["missing"] * 3)
        assert found.losses[4].detail == "openai:painter sends 2 of 5 images"


@pytest.mark.parametrize("part", ["answer", "body"])
def test_a_remote_that_stalls_is_given_up(part: str) -> None:
    hold = threading.Event()

    def answer(asked: Asked, number: int) -> Any:
        if part == "answer":
            hold.wait(20)
        return Reply(body=images(base64_of()), stall=hold)

    with Remote(answer) as remote:
        with generator(f"openai:{remote.url}/v1#painter", timeout_s=0.2) as it:
            assert made(it, order(2)).reasons == ["timeout"] * 2
        with generator(f"openai:{remote.url}/v1#painter", deadline_s=0.2, concurrency=1) as it:
            assert made(it, order(3)).reasons == ["timeout"] * 3
            assert len(remote.made) == 3, "those that waited for a turn were never asked for"
        hold.set()


def test_nobody_listens() -> None:
    with Remote(always(b"")) as remote:
        url = remote.url
    with generator(f"openai:{url}/v1#painter", money_per_day=1, price=1) as it:
        assert made(it, order(1)).reasons == ["unreachable"]
        assert made(it, order(1)).reasons == ["unreachable"], "a call that was never sent costs nothing"


def test_budgets_hold() -> None:
    days = [10.2]
    with Remote(always(images(base64_of()))) as remote:
        url = f"openai:{remote.url}/v1#painter"
        with generator(url, calls_per_day=3, clock=lambda: days[0] * 86400) as it:
            found = made(it, order(5))
            assert (len(found.pictures), found.reasons) == (3, ["budget_spent"] * 2)
            assert made(it, order(1)).reasons == ["budget_spent"]
            assert len(remote.made) == 3
            days[0] += 1
            assert len(made(it, order(1)).pictures) == 1
        remote.asked.clear()
        with generator(url, price=0.04, money_per_day=0.1) as it:
            found = made(it, order(4))
            assert (len(found.pictures), found.reasons) == (2, ["budget_spent"] * 2)
            assert "0.1 of today, at 0.04 an image" in found.losses[max(found.losses)].detail
        remote.asked.clear()
        remote.answer = lambda asked, number: (
            Reply(400, {"error": {"message": "no"}}) if number < 4 else images(base64_of())
        )
        with generator(url, price=1, money_per_day=1, concurrency=1) as it:
            assert made(it, order(4)).reasons == ["rejected"] * 3, "what the remote refused is not paid for"


def test_a_cancelled_order_closes_its_calls_and_makes_no_others() -> None:
    hold = threading.Event()

    def answer(asked: Asked, number: int) -> Any:
        hold.wait(20)
        return images(base64_of())

    with Remote(answer) as remote, generator(f"openai:{remote.url}/v1#painter", concurrency=2) as it:
        found = Delivered(it, order(6))
        until(lambda: remote.open == 2)
        found.cancel()
        small = Delivered(it, order(1))
        until(lambda: len(remote.made) == 3)
        hold.set()
        small.wait()
        assert (len(remote.made), found.all) == (3, [])
        assert it.calls().counts == {"cancelled": 2, "answered": 1}


def test_an_unexpected_error_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("boom")

    with Remote(always(images(base64_of()))) as remote, generator(f"openai:{remote.url}/v1#painter") as it:
        monkeypatch.setattr(calls, "_exchange", broken)
        found = made(it, order(2))
        assert len(found.losses) == 2
        assert it.calls().counts == {"failed": 2}


def test_calls_of_a_minute_and_pauses_hold_for_all_orders() -> None:
    async def run() -> list[str]:
        said = list[str]()
        for pace in (Pace(2), paused := Pace(0)):
            if pace is paused:
                pace.pause(3600)
            try:
                for _ in range(3):
                    await pace.wait(time.monotonic() + 5)
                    said.append("made")
            except Lost as lost:
                said.append(lost.reason)
        assert paused._next() - time.monotonic() <= LONGEST_SHARED_PAUSE_S, "one answer cannot stop all for an hour"
        return said

    assert asyncio.run(run()) == ["made", "made", "rate_limited", "rate_limited"]


def test_a_model_of_several_has_its_own_name() -> None:
    options = LoadOptions(remote=RemoteLimits(decoder=PlainDecoder))
    loaded = registry.load_models("openai:https://host.example/v1#m", "fake", options=options, called="painter")
    assert (loaded.generator.info.id, loaded.generator.info.device) == ("painter", "remote")
    assert makes_whole_images(loaded.generator)
    loaded.generator.close()


def test_orders_take_turns() -> None:
    async def run() -> list[str]:
        turns, done = Turns(1), list[str]()

        async def call(name: str) -> None:
            async with turns.turn(name):
                await asyncio.sleep(0)
                done.append(name)

        tasks = [asyncio.create_task(call(name)) for name in ("large",) * 4 + ("small", "other")]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with turns.turn("last"):
            return done

    assert asyncio.run(run()) == ["large", "large", "small", "other", "large"]


def test_links_are_followed_to_the_same_server_and_to_public_addresses_only() -> None:
    asked_hosts = list[str]()

    async def resolver(host: str, port: int) -> list[str]:
        asked_hosts.append(host)
        return {"cdn.example": ["10.1.2.3"], "mixed.example": ["203.0.112.1", "127.0.0.1"]}[host]

    links = {
        1: "/file", 2: "/hop", 3: "http://cdn.example/a.png", 4: "http://mixed.example/a.png",
        5: "http://169.254.169.254/latest", 6: "/away", 7: "file:///etc/passwd", 8: "http://user:pw@cdn.example/a",
        9: "/loop", 10: "/missing", 11: "http://[::1]/", 12: "/huge",
    }  # fmt: skip

    def answer(asked: Asked, number: int) -> Any:
        if asked.method == "POST":
            place = len(remote.made)
            link = links[place]
            return {"data": [{"url": remote.url + link if place == 1 else link}]}
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        away = Reply(302, headers={"location": "http://169.254.169.254/"})
        hop, loop = (Reply(307, headers={"location": path}) for path in ("/file", "/loop"))
        known = {"/file": Reply(body=file_of("lime")), "/hop": hop, "/away": away, "/loop": loop}
        return known.get(asked.path) or (Reply(404) if asked.path == "/missing" else Reply(body=b"x" * 34_000_000))

    async def literal(host: str, port: int) -> list[str]:
        return [host] if host[0].isdigit() or ":" in host else await resolver(host, port)

    with Remote(answer) as remote, generator(f"openai:{remote.url}/v1#painter", concurrency=1, resolver=literal) as it:
        found = made(it, order(len(links)))
        assert sorted(found.pictures) == [0, 1]
        assert found.pictures[1].latent.pixels[0, 0].tolist() == [0, 255, 0]
        details = {place: loss.detail for place, loss in found.losses.items()}
        assert {place for place, detail in details.items() if "not public" in detail} == {2, 3, 4, 5, 10}
        assert "redirects" in details[8]
        assert "answers 404" in details[9]
        assert "more than 32 MiB" in details[11]
        assert asked_hosts == ["cdn.example", "mixed.example"]


@pytest.mark.parametrize(
    "name",
    [
        "openai:https://host/v1", "openai:https://host/v1#", "openai:ftp://host/v1#m", "openai:https:///v1#m",
        "openai:https://user:pass@host/v1#m", "openai:https://host/v1?key=pass#m", "openai:https://ho st/v1#m",
        "openai:https://host:99999999/v1#m", "openai:file:///pass#m", "frontrunner:", "frontrunner:host",
        "frontrunner:https://user:pass@host", "a1111:gopher://pass", "openai:javascript:pass#m",
    ],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(name: str) -> None:
    said = list[str]()
    options = LoadOptions(remote=RemoteLimits(decoder=PlainDecoder))
    with pytest.raises(ModelUnsupported, match="openai:https://HOST/v1#MODEL") as caught:
        registry.load_models(name, "fake", options=options, report=said.append)
    assert "pass" not in str([*said, caught.value]).replace("password", "")


def test_a_frontrunner_that_does_not_answer_stops_the_start() -> None:
    options = LoadOptions(remote=RemoteLimits(decoder=PlainDecoder, backoff_s=0.01, api_key=KEY))
    with Remote(always(Reply(503, json.dumps({"error": {"message": f"loading {KEY}"}}).encode()))) as remote:
        with pytest.raises(ModelNotFound, match=r"^frontrunner answers 503: loading \[\.\.\.\]$"):
            registry.load_models(f"frontrunner:{remote.url}", "fake", options=options)
        assert len(remote.asked) == 3, "one that is just starting is asked again"
        remote.answer = always({"data": [{"id": "other", "generator": {}}]})
        with pytest.raises(ModelNotFound, match="has no model 'one'; it has other"):
            registry.load_models(f"frontrunner:{remote.url}#one", "fake", options=options)
        with pytest.raises(ModelNotFound, match="does not describe its model"):
            registry.load_models(f"frontrunner:{remote.url}", "fake", options=options)
