"""/v1/batches over HTTP: submit, follow, cancel, delete, what is refused, and who is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from app.service.variants import VariantMaker, Wordings
from app.service.webhooks import dispatcher
from tests.api.keys_kit import add_key
from tests.api.kit import House, events, is_problem, running, until
from tests.api.test_webhooks import SECRET, listening

pytestmark = pytest.mark.slow

ENTRY = {"prompt": "a red apple", "n_candidates": 2, "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("batches"), webhook_secret=SECRET, webhook_private=True) as house:
        yield house


def submitted(house: House, *entries: dict[str, Any], **asked: Any) -> dict[str, Any]:
    answer = house.post("/v1/batches", json={"requests": list(entries), **asked})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/batches/{answer.json()['id']}"
    found: dict[str, Any] = answer.json()
    return found


def ended(house: House, batch: dict[str, Any]) -> dict[str, Any]:
    where = f"/v1/batches/{batch['id']}"
    until(lambda: house.client.get(where).json()["finished"] is not None)
    found: dict[str, Any] = house.client.get(where).json()
    return found


def test_a_batch_from_submission_to_deletion(quick: House) -> None:
    batch = submitted(quick, ENTRY, {**ENTRY, "seed": 8, "n": 2})
    assert (batch["object"], batch["counts"]["total"]) == ("batch", 2)
    names = [entry["id"] for entry in batch["entries"]]
    assert quick.client.get(f"/v1/generations/{names[0]}").json()["prompt"] == "a red apple"
    done = ended(quick, batch)
    assert (done["status"], done["progress"]) == ("succeeded", 1.0)
    assert [entry["id"] for entry in done["entries"]] == names
    assert {entry["status"] for entry in done["entries"]} == {"succeeded"}
    result = quick.client.get(f"/v1/generations/{names[1]}").json()
    assert len(result["data"]) == 2
    assert quick.client.get(result["data"][0]["url"]).status_code == 200
    listed = quick.client.get("/v1/generations", params={"batch": batch["id"]}).json()["data"]
    assert {one["id"] for one in listed} == set(names)
    page = quick.client.get("/v1/batches", params={"limit": 1}).json()
    assert page["data"][0] == {k: v for k, v in done.items() if k != "entries"}
    where = f"/v1/batches/{batch['id']}"
    assert quick.client.head(where).status_code == 200
    assert quick.client.delete(where).status_code == 204
    is_problem(quick.client.get(where), 404, "not_found")
    is_problem(quick.client.get(f"/v1/generations/{names[0]}"), 404, "not_found")


def test_a_bad_entry_is_named_and_nothing_is_made(quick: House) -> None:
    before = quick.client.get("/v1/batches").json()["data"]
    entries = [ENTRY, {**ENTRY, "previews": 11}, ENTRY, {"n": 1}, {**ENTRY, "colour": 1}]
    body = is_problem(
        quick.post("/v1/batches", json={"requests": entries}), 422, "invalid_request", "#/requests/1/previews"
    )
    assert {e["pointer"] for e in body["errors"]} == {
        "#/requests/1/previews", "#/requests/3/prompt", "#/requests/4/colour",
    }  # fmt: skip
    deep = [{**ENTRY, "sampler": "nothing"}, ENTRY, {**ENTRY, "n": 0}, {**ENTRY, "size": "9992x8"}]
    body = is_problem(quick.post("/v1/batches", json={"requests": deep}), 422, "invalid_request")
    assert [e["pointer"] for e in body["errors"]] == [
        "#/requests/0/sampler", "#/requests/2/n", "#/requests/3/size",
    ]  # fmt: skip
    assert "on_error" in body["detail"]
    assert "requests.2.n: 0 is out of range; send a value between 1 and 2" in body["detail"]
    image = [{**ENTRY, "image": "data:image/png;base64,AAAA"}]
    is_problem(quick.post("/v1/batches", json={"requests": image}), 422, "invalid_request", "#/requests/0/image")
    assert quick.client.get("/v1/batches").json()["data"] == before


def test_previews_of_an_entry_are_in_its_events(quick: House) -> None:
    batch = submitted(quick, {**ENTRY, "steps": 6, "previews": 2}, {**ENTRY, "steps": 6, "pruning": "off"})
    ended(quick, batch)
    shown = [events(quick.client.get(f"/v1/generations/{entry['id']}/events").text) for entry in batch["entries"]]
    previews = [[data for kind, _, data in log if kind == "preview"] for log in shown]
    assert len({one["step"] for one in previews[0]}) == 2
    assert all(one["image"].startswith("data:image/webp") for one in previews[0])
    assert previews[1] == []


def test_what_a_batch_cannot_give_is_refused(quick: House) -> None:
    inline = {**ENTRY, "response_format": "b64_json"}
    told = quick.post("/v1/batches", json={"requests": [ENTRY, inline]})
    body = is_problem(told, 422, "invalid_request", "#/requests/1/response_format")
    assert "read later" in body["errors"][0]["detail"]
    done = ended(quick, submitted(quick, {**ENTRY, "response_format": "url"}, inline, on_error="skip"))
    assert [entry["status"] for entry in done["entries"]] == ["succeeded", "refused"]


def test_bad_entries_are_skipped_where_asked(quick: House) -> None:
    entries = [{**ENTRY, "steps": 0}, ENTRY, {**ENTRY, "model": "another"}, {"prompt": 3, "n": "x"}]
    done = ended(quick, submitted(quick, *entries, on_error="skip"))
    assert [entry["status"] for entry in done["entries"]] == ["refused", "succeeded", "refused", "refused"]
    assert done["status"] == "succeeded"
    assert done["counts"] == {
        "total": 4, "queued": 0, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0, "refused": 3, "deleted": 0,
    }  # fmt: skip
    errors = [entry["error"] for entry in done["entries"] if entry["error"]]
    assert [error["code"] for error in errors] == ["invalid_request", "not_found", "invalid_request"]
    assert [error["pointer"] for error in errors][:2] == ["#/requests/0/steps", "#/requests/2/model"]
    assert errors[2]["pointer"].startswith("#/requests/3/")
    every = quick.post("/v1/batches", json={"requests": [{**ENTRY, "steps": 0}], "on_error": "skip"})
    is_problem(every, 422, "invalid_request", "#/requests/0/steps")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/requests"),
        ({"requests": []}, "#/requests"),
        ({"requests": [ENTRY] * 1001}, "#/requests"),
        ({"requests": ENTRY}, "#/requests"),
        ({"requests": [ENTRY], "on_error": "ignore"}, "#/on_error"),
        ({"requests": [ENTRY], "prompt": "x"}, "#/prompt"),
        ({"requests": [ENTRY], "webhook": {"url": "ftp://x"}}, "#/webhook/url"),
    ],
)
def test_bad_batches(quick: House, body: dict[str, Any], pointer: str) -> None:
    is_problem(quick.post("/v1/batches", json=body), 422, "invalid_request", pointer)


def test_a_thousand_entries_are_taken_and_cancelled(quick: House) -> None:
    batch = submitted(quick, *[{**ENTRY, "seed": seed, "n_candidates": 4} for seed in range(1000)])
    assert batch["counts"]["total"] == 1000
    assert quick.made(n_candidates=1)["status"] == "succeeded"
    held = quick.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert held.status_code == 200
    found = ended(quick, batch)
    assert found["status"] == "cancelled"
    assert found["counts"]["succeeded"] + found["counts"]["cancelled"] == 1000
    assert found["counts"]["cancelled"] > 0
    assert quick.client.delete(f"/v1/batches/{batch['id']}").status_code == 204


def test_unknown_batches(quick: House) -> None:
    for name in ("batch_01M8KEAKT88E4HDP00KRY0DYGH", "gen_01M8KEAKT88E4HDP00KRY0DYGH", "x"):
        is_problem(quick.client.get(f"/v1/batches/{name}"), 404, "not_found")
        is_problem(quick.client.post(f"/v1/batches/{name}/cancel"), 404, "not_found")
        is_problem(quick.client.delete(f"/v1/batches/{name}"), 404, "not_found")


def test_a_repeat_with_the_same_key_returns_the_first_batch(quick: House) -> None:
    def sent(*entries: dict[str, Any], **more: Any) -> Any:
        body = {"requests": list(entries), **more}
        return quick.post("/v1/batches", json=body, headers={"idempotency-key": "batch-1"})

    first = sent(ENTRY)
    assert sent(ENTRY).json()["id"] == first.json()["id"]
    is_problem(sent(ENTRY, ENTRY), 422, "idempotency_key_reused")
    is_problem(sent({**ENTRY, "steps": 0}, on_error="skip"), 422, "idempotency_key_reused")
    other = quick.post(json=ENTRY, headers={"idempotency-key": "batch-1"})
    is_problem(other, 422, "idempotency_key_reused")
    assert quick.post(json=ENTRY, headers={"idempotency-key": "single"}).status_code == 200
    single = quick.post("/v1/batches", json={"requests": [ENTRY]}, headers={"idempotency-key": "single"})
    is_problem(single, 422, "idempotency_key_reused")


def test_a_key_outlives_the_entry_that_holds_it(quick: House) -> None:
    def sent() -> Any:
        body = {"requests": [ENTRY, ENTRY, ENTRY]}
        return quick.post("/v1/batches", json=body, headers={"idempotency-key": "batch-2"}).json()

    first = sent()
    for entry in first["entries"][:2]:
        assert quick.client.delete(f"/v1/generations/{entry['id']}").status_code == 204
        assert sent()["id"] == first["id"]
    assert quick.client.delete(f"/v1/batches/{first['id']}").status_code == 204
    assert sent()["id"] != first["id"]


def test_the_end_is_announced_once_and_signed(quick: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    with listening(500, 204) as batches, listening() as entries:
        monkeypatch.setattr(dispatcher, "RETRY_DELAYS_S", (0.01,))
        one = {**ENTRY, "webhook": {"url": entries.url}}
        batch = submitted(quick, one, ENTRY, {**ENTRY, "steps": 0}, on_error="skip", webhook={"url": batches.url})
        until(lambda: len(batches.got) >= 1)
        headers, body = batches.got[0]
        Verifier(SECRET).verify(body.decode(), headers)
        told = json.loads(body)
        assert (told["type"], headers["webhook-id"]) == ("batch.succeeded", f"msg_{batch['id']}")
        assert told["data"] == {
            "id": batch["id"], "object": "batch", "status": "succeeded", "url": f"/v1/batches/{batch['id']}",
            "counts": {"total": 3, "succeeded": 2, "failed": 0, "cancelled": 0, "refused": 1, "deleted": 0},
        }  # fmt: skip
        until(lambda: len(entries.got) == 1)


def test_a_batch_outlives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        house.generator.delay_s = 0.05
        batch = submitted(house, *[{**ENTRY, "steps": 10}] * 6)
        until(lambda: house.client.get(f"/v1/batches/{batch['id']}").json()["counts"]["succeeded"] >= 1)
    with running(tmp_path) as house:
        assert ended(house, batch)["counts"]["succeeded"] == 6


def test_batches_belong_to_their_key(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        folder = tmp_path / "data"
        mine, theirs = add_key(folder, quota=8)[1], add_key(folder)[1]
        answer = house.post("/v1/batches", json={"requests": [ENTRY, ENTRY]}, headers=mine)
        where = answer.headers["location"]
        assert "r=4" in answer.headers["ratelimit"]
        is_problem(house.client.get(where, headers=theirs), 404, "not_found")
        is_problem(house.client.post(f"{where}/cancel", headers=theirs), 404, "not_found")
        is_problem(house.client.delete(where, headers=theirs), 404, "not_found")
        assert house.client.get("/v1/batches", headers=theirs).json()["data"] == []
        assert house.client.get(where, headers=mine).status_code == 200
        many = house.post("/v1/batches", json={"requests": [ENTRY] * 3}, headers=mine)
        is_problem(many, 429, "quota_exceeded")
        whole = house.post("/v1/batches", json={"requests": [ENTRY] * 5}, headers=mine)
        is_problem(whole, 422, "invalid_request", "#/requests")


def test_wordings_are_made_once_all_entries_are_checked(quick: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make_all = list[set[int]](), VariantMaker.make_all

    async def noted(maker: VariantMaker, asked: Mapping[int, tuple[str, int]]) -> dict[int, Wordings]:
        made.append(set(asked))
        return await make_all(maker, asked)

    monkeypatch.setattr(VariantMaker, "make_all", noted)
    worded = {**ENTRY, "n_candidates": 4, "variants": {"auto": 3}}
    entries = [worded, {**ENTRY, "model": "none"}, {**worded, "sampler": "none"}, ENTRY, {**worded, "seed": 9}]
    refused = is_problem(quick.post("/v1/batches", json={"requests": entries}), 422, "invalid_request")
    assert len(refused["errors"]) == 2
    assert made == []
    done = ended(quick, submitted(quick, *entries, on_error="skip"))
    assert made == [{0, 4}]
    assert [one["status"] for one in done["entries"]] == ["succeeded", "refused", "refused", "succeeded", "succeeded"]
    names = [done["entries"][index]["id"] for index in (0, 3, 4)]
    found = [quick.client.get(f"/v1/generations/{name}").json()["candidates"] for name in names]
    assert [len({candidate["wording"] for candidate in each}) for each in found] == [3, 1, 3]
