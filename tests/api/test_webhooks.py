"""Webhooks: signed for others to check, tried until they are taken, and never a way into the server's own network."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from standardwebhooks import Webhook as Verifier

from app.domain import Status, Webhook
from app.errors import InvalidRequest
from app.service import WebhookClient, WebhookDispatcher, WebhookPolicy
from app.service.webhooks import dispatcher
from app.service.webhooks.http_client import DeliveryError
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore
from app.stores.webhooks import SqlWebhookOutbox
from tests.api.kit import House, is_problem, running, until
from tests.servers import PATIENCE_S, PostgreSQL, free_port
from tests.unit.store_kit import MINE, generation

pytestmark = pytest.mark.slow

SECRET = "whsec_" + "c2VjcmV0LW9mLXR3ZW50eS1mb3VyLWJ5dGVz"


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets. Answers with `statuses` in turn, the last one again and again, after `delay_s`."""

    daemon_threads = True

    def __init__(self, *statuses: int, delay_s: float = 0.0, location: str = "", port: int = 0) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses = list(statuses or (204,))
        self.delay_s = delay_s
        self.location = location
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?a=b"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
        time.sleep(self.server.delay_s)
        status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        self.send_response(status)
        if self.server.location:
            self.send_header("location", self.server.location)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(*statuses: int, delay_s: float = 0.0, location: str = "", port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(*statuses, delay_s=delay_s, location=location, port=port)
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    with running(tmp_path, webhook_secret=SECRET, webhook_private=True) as house:
        yield house


def test_a_stranger_can_check_the_signature(hooked: House) -> None:
    with listening() as receiver:
        made = hooked.made(webhook={"url": receiver.url}, n=2)
        until(lambda: receiver.got)
        until(lambda: 'frontrunner_webhooks_total{outcome="delivered"} 1.0' in hooked.client.get("/metrics").text)
    headers, body = receiver.got[0]
    told = Verifier(SECRET).verify(body, headers)
    assert told["type"] == "generation.succeeded"
    assert told["data"]["id"] == made["id"]
    assert [d["url"] for d in told["data"]["data"]] == [d["url"] for d in made["data"]]
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{receiver.server_port}"
    assert b"red apple" not in body


def test_only_of_the_ends_that_were_asked_for(hooked: House) -> None:
    with listening() as receiver:
        hooked.made(webhook={"url": receiver.url, "events": ["failed"]})
        last = hooked.made(webhook={"url": receiver.url})
        until(lambda: receiver.got)
    assert [json.loads(body)["data"]["id"] for _, body in receiver.got] == [last["id"]]


def test_of_a_refinement_too(hooked: House) -> None:
    made = hooked.made()
    with listening() as receiver:
        asked = {"index": 0, "strength": 0.5, "n_candidates": 2, "webhook": {"url": receiver.url}}
        refined = hooked.post(f"/v1/generations/{made['id']}/refine", json=asked).json()
        until(lambda: receiver.got)
    assert json.loads(receiver.got[0][1])["data"]["id"] == refined["id"]


def test_a_slow_receiver_holds_up_nobody(hooked: House) -> None:
    with listening(delay_s=3.0) as slow, listening() as quick:
        hooked.made(webhook={"url": slow.url})
        until(lambda: slow.got)
        assert "frontrunner_webhooks_waiting 1.0" in hooked.client.get("/metrics").text
        for _ in range(3):
            hooked.made(webhook={"url": quick.url})
        until(lambda: len(quick.got) == 3)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://x.org", "use http or https"),
        ("nonsense", "use http or https"),
        ("", "use http or https"),
        ("https://u:p@x.org/", "contains a user name"),
        ("http://", "invalid host or port"),
        ("https:// /", "invalid host or port"),
        ("https://x y.org/", "invalid host or port"),
        ("https://x.org:0/", "invalid host or port"),
        ("https://x.org:65536/", "invalid host or port"),
        ("https://ab cd/", "invalid host or port"),
        ("https://x..org/", "invalid host or port"),
        ("https://./", "invalid host or port"),
        (f"https://{'x' * 64}.org/", "invalid host or port"),
        ("https://[fe80::1%ü]/", "not a valid URL"),
        ("https://x.org/\r\nX: y", "not a valid URL"),
        ("https://x.org:port/", "not a valid URL"),
    ],
)
def test_addresses_that_are_none(hooked: House, url: str, why: str) -> None:
    answer = hooked.post(json={"prompt": "a tree", "webhook": {"url": url}})
    is_problem(answer, 422, "invalid_request", "#/webhook/url")
    assert why in answer.json()["detail"]


def test_without_a_secret_or_with_plain_http(house: House) -> None:
    answer = house.post(json={"prompt": "a tree", "webhook": {"url": "https://example.org/hook"}})
    is_problem(answer, 422, "invalid_request", "#/webhook")
    answer = house.post(json={"prompt": "a tree", "webhook": {"url": "http://example.org/hook"}})
    is_problem(answer, 422, "invalid_request", "#/webhook/url")


@pytest.mark.parametrize("host", ["[fec0::1]", "168.63.129.16", "127.0.0.1", "[::ffff:10.0.0.1]"])
def test_literal_addresses_inside_are_refused_at_once(host: str) -> None:
    hook = Webhook(f"https://{host}/", dispatcher.WEBHOOK_EVENTS)
    with pytest.raises(InvalidRequest, match="public internet"):
        WebhookPolicy(SECRET).check(hook)
    WebhookPolicy(SECRET, allow_private=True).check(hook)


def _posted(webhook_client: WebhookClient, url: str) -> str:
    """Why it was not taken; "" when it was."""

    async def post() -> str:
        try:
            await webhook_client.post(url, b"{}", {})
        except DeliveryError as reason:
            return str(reason)
        finally:
            await webhook_client.close()
        return ""

    return asyncio.run(post())


def test_names_that_lead_inside_are_not_followed() -> None:
    asked = []

    async def lying(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["8.8.8.8", "127.0.0.1"] if len(asked) == 1 else ["127.0.0.1"]

    with listening() as receiver:
        for _ in range(2):
            told = _posted(WebhookClient(resolver=lying), f"http://innocent.example:{receiver.server_port}/")
            assert "address is not public" in told
        assert "not public" in _posted(WebhookClient(), f"http://localhost:{receiver.server_port}/")
        assert "not public" in _posted(WebhookClient(), f"http://[::ffff:127.0.0.1]:{receiver.server_port}/")
        assert "not public" in _posted(WebhookClient(), f"http://2130706433:{receiver.server_port}/")
    assert receiver.got == []


def test_the_checked_address_is_the_one_that_is_connected_to() -> None:
    async def once(host: str, port: int) -> list[str]:
        assert host == "innocent.example"
        return ["127.0.0.1"]

    with listening() as receiver:
        url = f"http://innocent.example:{receiver.server_port}/hook"
        assert _posted(WebhookClient(allow_private=True, resolver=once), url) == ""
    assert receiver.got[0][0]["host"] == f"innocent.example:{receiver.server_port}"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """One that the service trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def _posted_securely(receiver: Receiver, by: trustme.CA, certified: str, host: str) -> tuple[str, list[str | None]]:
    """Why it was not taken, and the names that were asked for, by a receiver that shows a certificate."""
    context, greeted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), list[str | None]()
    by.issue_cert(certified).configure_cert(context)
    context.sni_callback = lambda _, name, __: greeted.append(name)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)

    async def here(*_: object) -> list[str]:
        return ["127.0.0.1"]

    told = _posted(WebhookClient(allow_private=True, resolver=here), f"https://{host}:{receiver.server_port}/hook")
    return told, greeted


def test_tls_is_with_the_name_though_the_connection_goes_to_the_address(authority: trustme.CA) -> None:
    with listening() as receiver:
        assert _posted_securely(receiver, authority, "innocent.example", "innocent.example") == (
            "",
            ["innocent.example"],
        )
    assert receiver.got[0][0]["host"] == f"innocent.example:{receiver.server_port}"
    with listening() as receiver:
        assert _posted_securely(receiver, authority, "127.0.0.1", "127.0.0.1")[0] == ""


@pytest.mark.parametrize("certified", ["other.example", "127.0.0.1"])
def test_a_certificate_of_another_name_is_not_taken(authority: trustme.CA, certified: str) -> None:
    with listening() as receiver:
        told, _ = _posted_securely(receiver, authority, certified, "innocent.example")
    assert "cannot be reached" in told
    assert receiver.got == []


def test_a_certificate_of_an_unknown_authority_is_not_taken(authority: trustme.CA) -> None:
    with listening() as receiver:
        told, _ = _posted_securely(receiver, trustme.CA(), "innocent.example", "innocent.example")
    assert "cannot be reached" in told
    assert receiver.got == []


def test_redirects_are_not_followed() -> None:
    with listening() as inner, listening(302, location=inner.url) as outer:
        assert _posted(WebhookClient(allow_private=True), outer.url) == "the receiver answered 302"
    assert inner.got == []


def test_a_receiver_that_never_answers_is_left() -> None:
    with listening(delay_s=1.0) as receiver:
        assert "no response within" in _posted(WebhookClient(allow_private=True, timeout_s=0.2), receiver.url)


@asynccontextmanager
async def _working(
    url: str, retries_s: tuple[float, ...] = (0.05,) * 4
) -> AsyncGenerator[tuple[SqlGenerationStore, WebhookDispatcher]]:
    database = await SqlGenerationStore.open(url)
    webhook_client = WebhookClient(allow_private=True)
    sender = WebhookDispatcher(
        SqlWebhookOutbox(database.connections),
        SqlApiKeyStore(database.connections),
        webhook_client,
        WebhookPolicy(SECRET, allow_private=True),
        database.clock,
        retry_delays_s=retries_s,
    )
    task = asyncio.create_task(sender.run())
    try:
        yield database, sender
    finally:
        task.cancel()
        await asyncio.wait([task])
        await webhook_client.close()
        await database.close()


async def _end(database: SqlGenerationStore, url: str, name: str) -> None:
    asked = replace(generation(name), webhook=Webhook(url, dispatcher.WEBHOOK_EVENTS))
    await database.create(asked, [], MINE)
    await database.save(replace(asked, status=Status.FAILED), [], MINE)


async def _until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_tried_again_until_it_is_taken_also_after_a_restart(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.02)
    postgresql: PostgreSQL | None = request.getfixturevalue("postgresql") if where == "postgresql" else None
    database_url = postgresql.database() if postgresql else f"sqlite:///{tmp_path}/f.db"
    port = free_port()

    async def down() -> None:
        async with _working(database_url) as (database, sender):
            await _end(database, f"http://127.0.0.1:{port}/", "gen_a")
            await _until(lambda: sender.outcomes()["failed"] >= 1)

    async def up() -> None:
        async with _working(database_url) as (_, first), _working(database_url) as (_, second):
            await _until(lambda: first.outcomes()["delivered"] + second.outcomes()["delivered"] == 1)
            await _until(lambda: first.pending == 0)

    asyncio.run(down())
    with listening(500, 204, port=port) as receiver:
        asyncio.run(up())
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1
    assert len(receiver.got) == 2, "two replicas share the outbox and tell once"


def test_given_up_in_the_end_and_at_once_when_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.02)

    async def run(url: str, name: str) -> dict[str, int]:
        async with _working(f"sqlite:///{tmp_path}/f.db", (0.01, 0.01)) as (database, sender):
            await _end(database, url, name)
            await _until(lambda: sender.outcomes()["given_up"] == 1)
            await _until(lambda: sender.pending == 0)
            return dict(sender.outcomes())

    with listening(500) as broken, listening(410) as gone:
        assert asyncio.run(run(broken.url, "gen_a")) == {"delivered": 0, "failed": 2, "given_up": 1}
        assert asyncio.run(run(gone.url, "gen_b")) == {"delivered": 0, "failed": 0, "given_up": 1}
    assert len(gone.got) == 1


@pytest.mark.anyio
async def test_without_a_secret_an_attempt_fails_and_is_counted(tmp_path: Path) -> None:
    with listening() as receiver:
        database = await SqlGenerationStore.open(f"sqlite:///{tmp_path}/hooks.db")
        store, keys = SqlWebhookOutbox(database.connections), SqlApiKeyStore(database.connections)
        sender = WebhookDispatcher(
            store,
            keys,
            WebhookClient(allow_private=True),
            WebhookPolicy("", allow_private=True),
            database.clock,
            retry_delays_s=(60.0,),
        )
        await _end(database, receiver.url, "gen_a")
        task = asyncio.create_task(sender.run())
        await _until(lambda: sender.outcomes()["failed"] == 1)
        task.cancel()
        await asyncio.wait([task])
        await database.close()
    assert receiver.got == []
