"""API keys over HTTP: who gets in, what each may do and see, and what is left of its quota."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.api.middleware import auth as auth_middleware
from app.cli import app as commands
from app.errors import StoreUnavailable
from app.service import ApiKey, Permission, auth
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import IdempotencyMatch, KeyRecord, QuotaCharge, QuotaUsage
from tests.api.keys_kit import ALL, add_key, with_store
from tests.api.kit import PROMPT, House, events, hang_up, is_problem, running, until
from tests.servers import PostgreSQL
from tests.unit.store_kit import generation

pytestmark = pytest.mark.slow


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, Path]]:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path) as house:
        yield house, tmp_path / "data"


def test_without_keys_everybody_may_do_everything(house: House) -> None:
    answer = house.post(json=PROMPT)
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


def test_the_first_key_closes_the_door(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    key, bearer = add_key(folder)
    refused = house.post(json=PROMPT)
    is_problem(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    told = bearer["authorization"].removeprefix("Bearer ")
    for wrong in ("", "x", told[:-1], f"{told}x", told[:15] + "0" * 43, "fr_000000000000_x", "é"):
        is_problem(house.client.get("/v1/models", headers={b"x-api-key": wrong.encode()}), 401, "unauthorized")
    assert house.post(json=PROMPT, headers=bearer).status_code == 200
    assert house.client.get("/v1/models", headers={"x-api-key": told}).status_code == 200
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert house.client.get(path).status_code == 200
    with_store(f"sqlite:///{folder}/frontrunner.db", lambda store: store.revoke(key.id, 1.0))
    is_problem(house.client.get("/v1/models", headers=bearer), 401, "unauthorized")


def test_a_key_does_what_it_has_the_right_to(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, reader = add_key(folder, Permission.READ)
    _, ranker = add_key(folder, Permission.RANK)
    assert house.client.get("/v1/models", headers=reader).status_code == 200
    is_problem(house.post(json=PROMPT, headers=reader), 403, "forbidden")
    is_problem(house.post("/v1/images/generations", json=PROMPT, headers=reader), 403, "forbidden")
    is_problem(house.post("/v1/rank", json={}, headers=reader), 403, "forbidden")
    is_problem(house.client.get("/v1/models", headers=ranker), 403, "forbidden")
    for path in ("/v1/rank", "/v1/rerank", "/v1/embeddings"):
        is_problem(house.post(path, json={}, headers=ranker), 422, "invalid_request")
        is_problem(house.post(path, json={}, headers=reader), 403, "forbidden")
    for path in ("/v1/images/edits", "/v1/images/variations"):
        is_problem(house.post(path, headers=ranker), 403, "forbidden")
    _, admin = add_key(folder, Permission.ADMIN)
    assert house.post(json=PROMPT, headers=admin).status_code == 200


def _revoke(folder: Path, key: ApiKey) -> None:
    with_store(f"sqlite:///{folder}/frontrunner.db", lambda store: store.revoke(key.id, 1.0))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/generations", {}),
        ("/v1/images/generations", {"stream": True, "partial_images": 1}),
        ("{made}/events", None),
    ],
)
def test_a_stream_ends_with_its_key(
    guarded: tuple[House, Path], monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, object] | None
) -> None:
    monkeypatch.setattr(auth_middleware, "RECHECK_S", 0.05)
    house, folder = guarded
    house.generator.delay_s = 0.05
    key, bearer = add_key(folder)
    headers = {**bearer, "accept": "text/event-stream"}
    asked = {**PROMPT, "steps": 150}
    queued = house.post(json=asked, headers={**bearer, "prefer": "respond-async"}).json()["id"] if body is None else ""
    path, method = path.format(made=f"/v1/generations/{queued}"), "GET" if body is None else "POST"
    sent = {**asked, **body} if body is not None else None
    with house.client.stream(method, path, json=sent, headers=headers) as answer:
        assert answer.status_code == 200
        _revoke(folder, key)
        told = events("".join(answer.iter_text()))
    assert told[-1][0] == "error"
    assert told[-1][2]["error"]["code"] == "unauthorized"
    assert not any(kind in {"succeeded", "image_generation.completed"} for kind, *_ in told)
    if body:  # the native stream has its grace period, as after any broken connection
        until(lambda: house.live == 0)


def test_a_request_that_waits_ends_with_its_key(guarded: tuple[House, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_middleware, "RECHECK_S", 0.05)
    house, folder = guarded
    house.generator.delay_s = 0.05
    key, bearer = add_key(folder)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(house.post, json={**PROMPT, "steps": 150}, headers=bearer)
        until(lambda: house.live > 0)
        _revoke(folder, key)
        is_problem(waiting.result(), 401, "unauthorized")
    until(lambda: house.live == 0)


def test_a_key_that_stays_good_is_looked_at_and_nothing_changes(
    guarded: tuple[House, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_middleware, "RECHECK_S", 0.01)
    house, folder = guarded
    house.generator.delay_s = 0.02
    _, bearer = add_key(folder)
    answer = house.post(json={**PROMPT, "steps": 20}, headers={**bearer, "accept": "text/event-stream"})
    assert events(answer.text)[-1][0] == "succeeded"


def test_keys_see_only_their_own(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    (_, mine), (_, theirs), (_, admin) = add_key(folder), add_key(folder), add_key(folder, Permission.ADMIN)
    made = house.post(json=PROMPT, headers={**mine, "idempotency-key": "once"}).json()
    path = f"/v1/generations/{made['id']}"
    for method, where, body in (
        ("GET", "", None),
        ("GET", "/events", None),
        ("GET", "/images/0", None),
        ("GET", "/lineage", None),
        ("GET", "/candidates/0/why", None),
        ("GET", "/candidates/0/heat?text=apple", None),
        ("POST", "/rerank", {"ranking": {"prompt": "a tree"}}),
        ("POST", "/refine", {"index": 0}),
        ("DELETE", "", None),
    ):
        is_problem(house.client.request(method, path + where, headers=theirs, json=body), 404, "not_found")
    vote = {"generation": made["id"], "liked": [0]}
    is_problem(house.post("/v1/taste/own/votes", json=vote, headers=theirs), 404, "not_found", "#/generation")
    assert house.post("/v1/taste/own/votes", json=vote, headers=mine).status_code == 200
    for method, where in (("GET", ""), ("GET", "/export"), ("DELETE", "")):
        is_problem(house.client.request(method, f"/v1/taste/own{where}", headers=theirs), 404, "not_found")
    reference = {"ranking": {"references": [{"generation": made["id"], "index": 0}]}}
    is_problem(house.post(json={**PROMPT, **reference}, headers=theirs), 404, "not_found")
    assert house.client.get(path, headers=mine).json()["id"] == made["id"]
    assert events(house.client.get(f"{path}/events", headers=mine).text)[-1][0] == "succeeded"
    assert house.client.get(path, headers=admin).status_code == 200
    again = house.post(json=PROMPT, headers={**theirs, "idempotency-key": "once"}).json()
    assert again["id"] != made["id"]
    assert house.client.delete(path, headers=admin).status_code == 204


def test_a_key_lists_its_own_generations_only(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    keys = [add_key(folder)[1], add_key(folder)[1], add_key(folder, Permission.ADMIN)[1]]
    made = [house.post(json=PROMPT, headers=key).json()["id"] for key in keys]
    for key, own in zip(keys, made, strict=True):
        page = house.client.get("/v1/generations", headers=key).json()
        assert [one["id"] for one in page["data"]] == [own]
    assert house.client.get("/v1/generations").status_code == 401
    assert house.client.get("/v1/generations", headers=add_key(folder, Permission.RANK)[1]).status_code == 403


def test_a_quota_counts_candidates(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, bearer = add_key(folder, quota=8)
    first = house.post(json=PROMPT, headers={**bearer, "idempotency-key": "a"})
    assert re.fullmatch(r'"candidates";q=8;qu="candidates";w=3600', first.headers["ratelimit-policy"])
    assert re.match(r'"candidates";r=5;t=\d+$', first.headers["ratelimit"])
    assert house.post(json=PROMPT, headers={**bearer, "idempotency-key": "a"}).status_code == 200
    assert house.post(json=PROMPT, headers=bearer).status_code == 200
    refused = house.post(json=PROMPT, headers=bearer)
    is_problem(refused, 429, "quota_exceeded")
    assert refused.headers["ratelimit"].startswith('"candidates";r=2;t=')
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    until(lambda: house.live == 0)
    assert house.post(json={**PROMPT, "n_candidates": 2}, headers=bearer).status_code == 200
    is_problem(house.post(json={**PROMPT, "n_candidates": 9}, headers=bearer), 422, "invalid_request", "#/n_candidates")


def test_a_client_that_times_out_and_tries_again_pays_for_what_was_made(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, bearer = add_key(folder, quota=100)
    house.generator.delay_s = 0.05
    more = {"prompt": "a red apple", "n_candidates": 16, "steps": 150}
    for _ in range(3):
        hang_up(house, "/v1/images/generations", more, lambda: house.live > 0, **bearer)
        until(lambda: house.live == 0)
    house.generator.delay_s = 0.0
    until(lambda: house.client.get("/metrics").text.count('outcome="cancelled"} 3.0') == 1)
    made = house.post(json=PROMPT, headers=bearer)
    assert made.headers["ratelimit"].startswith('"candidates";r=97;t=')


def test_what_fails_is_given_back(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, bearer = add_key(folder, quota=8)
    for _ in range(3):
        house.generator.fail_on_call = len(house.generator.calls)
        failed = house.post(json=PROMPT, headers=bearer)
        is_problem(failed, 500, "engine_failed")
        assert failed.headers["ratelimit"].startswith('"candidates";r=8;t=')


def test_auto_keeps_to_the_quota(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, bearer = add_key(folder, quota=20)
    answer = house.post(json={**PROMPT, "n_candidates": "auto"}, headers=bearer)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["n_candidates"] <= 20
    assert "limited_by_quota" in [warning["code"] for warning in body["warnings"]]
    left = 20 - len(body["candidates"])
    assert answer.headers["ratelimit"].startswith(f'"candidates";r={left};t=')


def test_a_ranking_that_is_stored_counts_as_its_candidates(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, bearer = add_key(folder, quota=8)
    made = house.post(json=PROMPT, headers=bearer).json()
    path, body = f"/v1/generations/{made['id']}/rerank", {"ranking": {"prompt": "a dog"}}
    for _ in range(3):
        assert house.post(path, json=body, headers=bearer).status_code == 200
    kept = house.post(path, json={**body, "store": True}, headers=bearer)
    assert kept.status_code == 201
    assert kept.headers["ratelimit"].startswith(f'"candidates";r={8 - 2 * made["n_candidates"]};t=')
    files = len(list(folder.rglob("*.npz")))
    is_problem(house.post(path, json={**body, "store": True}, headers=bearer), 429, "quota_exceeded")
    assert len(list(folder.rglob("*.npz"))) == files > 0


def test_a_ranking_that_is_stored_again_with_its_key_is_stored_and_charged_once(guarded: tuple[House, Path]) -> None:
    house, folder = guarded
    _, bearer = add_key(folder, quota=100)
    made = house.post(json=PROMPT, headers=bearer).json()
    path, body = f"/v1/generations/{made['id']}/rerank", {"ranking": {"prompt": "a dog"}, "store": True}
    once = {**bearer, "idempotency-key": "stored"}
    answers = [house.post(path, json=body, headers=once) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert [answer.json() for answer in answers] == [answers[0].json()] * 3
    assert len(list(folder.rglob("*.npz"))) == 2
    is_problem(house.post(path, json={**body, "n": 2}, headers=once), 422, "idempotency_key_reused")
    is_problem(house.post(json=PROMPT, headers=once), 422, "idempotency_key_reused")
    assert house.post(json=PROMPT, headers=bearer).headers["ratelimit"].startswith('"candidates";r=91;t=')
    assert house.client.delete(f"/v1/generations/{made['id']}", headers=bearer).status_code == 204
    assert house.post(path, json=body, headers=once).json() == answers[0].json(), "its source may have gone"


def test_replicas_share_a_quota_that_counts_what_was_entered(tmp_path: Path, postgresql: PostgreSQL) -> None:
    key, _ = auth.create_api_key("both", ALL, 50, 3600)

    async def race(url: str) -> int:
        one, two = replicas = [await SqlGenerationStore.open(url) for _ in range(2)]
        await SqlApiKeyStore(one.connections).add(key)

        async def enter(
            store: SqlGenerationStore, name: str, window: int = 7, once: str = ""
        ) -> QuotaUsage | IdempotencyMatch | None:
            mine = KeyRecord(key.id, once, "print") if once else None
            bill = QuotaCharge(key.id, window, 2, 50)
            return await store.create(generation(name), [], None, mine, charge=bill)

        entries = [enter(replicas[i % 2], f"gen_{i}", once=str(i % 40)) for i in range(80)]
        answers = await asyncio.gather(*entries)
        granted = [a for a in answers if isinstance(a, QuotaUsage) and a.granted]
        refused = [a for a in answers if a == QuotaUsage(False, 50)]
        assert len(granted) + len(refused) + sum(isinstance(a, IdempotencyMatch) for a in answers) == 80
        assert [await one.get(f"gen_{i}") is not None for i in range(80)].count(True) == len(granted)
        assert await enter(two, "gen_next", 8) == QuotaUsage(True, 2)
        assert await enter(one, "gen_behind", 7) == QuotaUsage(True, 4), "a clock that is behind opens no older window"
        for replica in replicas:
            await replica.close()
        return len(granted)

    for url in (f"sqlite:///{tmp_path}/f.db", postgresql.database()):
        assert asyncio.run(race(url)) == 25


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"FRONTRUNNER_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"}

    def told(*arguments: str, code: int = 0) -> str:
        found = CliRunner().invoke(commands, ["keys", *arguments], env=environment)
        assert found.exit_code == code, found.output
        return found.output

    made = told("add", "--name", "cms", "--right", "read", "--quota", "5", "--per", "60")
    key = re.search(r"fr_[0-9a-f]{12}_[\w-]{43}", made)
    assert key is not None
    assert "whsec_" in made
    listed = told("list")
    assert key[0][:15] in listed
    assert key[0] not in listed
    assert "5 in 60 s" in listed
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("frontrunner.db*"))
    assert key[0].encode() not in stored, "only the hash is kept"
    told("add", "--name", "ops [/team]")
    assert "ops [/team]" in told("list")
    monkeypatch.setitem(environment, "COLUMNS", "60")
    assert key[0][:15] in told("list"), "`revoke` wants all of it"
    told("revoke", key[0][:15])
    assert "no active key" in told("revoke", key[0][:15], code=1)


@pytest.mark.timeout(1200)
@pytest.mark.soak
def test_schemathesis_finds_nothing_with_keys_on(tmp_path: Path) -> None:
    with running(tmp_path, max_candidates=16, max_steps=20, max_body_mib=2) as house:
        _, bearer = add_key(tmp_path / "data", *Permission)
        found = subprocess.run(
            [
                Path(sys.executable).parent / "st", "run", f"{house.url}/openapi.json", "-n", "4",
                "--generation-deterministic", "--exclude-checks", "positive_data_acceptance",
                "-H", f"Authorization: {bearer['authorization']}", "--request-timeout", "120", "--no-color",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1100,
        )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:]


def test_those_who_wait_for_keys_that_cannot_be_read_share_one_failure() -> None:
    class Away:
        asked = 0

        async def list_keys(self) -> list[ApiKey]:
            self.asked += 1
            await asyncio.sleep(0.02)
            raise StoreUnavailable("gone")

    store = Away()

    async def crowd() -> None:
        ring = auth.ApiKeyAuthenticator(store, time.time)  # type: ignore[arg-type]
        told = await asyncio.gather(
            *(ring.authenticate(None, Permission.READ) for _ in range(20)), return_exceptions=True
        )
        assert {type(error) for error in told} == {StoreUnavailable}

    asyncio.run(crowd())
    assert store.asked == 1
