"""The Python client's check of webhooks, against the service and the reference library."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from app.service.webhooks import dispatcher
from frontrunner import InvalidSignature, verify_webhook
from tests.api.kit import House, until
from tests.api.test_webhooks import listening
from tests.clients.conftest import SECRET

BODY = '{"type": "generation.succeeded", "data": {"id": "gen_ü"}}'
NOW = 1_800_000_000
OTHER = "whsec_" + base64.b64encode(b"another secret of some bytes").decode()


def _headers(secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), BODY)
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(at), "webhook-signature": f"v1a,AAAA {signature}"}


def test_what_the_reference_library_signs() -> None:
    event = verify_webhook(BODY.encode(), _headers(), SECRET, now=NOW + 299)
    assert event["data"]["id"] == "gen_ü"
    assert verify_webhook(BODY, _headers(), SECRET.removeprefix("whsec_"), now=NOW - 299) == event
    assert verify_webhook(BODY, _headers(OTHER), SECRET, OTHER, now=NOW) == event


@pytest.mark.parametrize(
    ("body", "changed", "now", "why"),
    [
        (BODY + " ", {}, NOW, "no signature matches"),
        (BODY, {"Webhook-Id": "msg_2"}, NOW, "no signature matches"),
        (BODY, {"Webhook-Timestamp": str(NOW + 1)}, NOW, "no signature matches"),
        (BODY, {"webhook-signature": ""}, NOW, "no signature matches"),
        (BODY, {"webhook-signature": "v1,ü"}, NOW, "no signature matches"),
        (BODY, {}, NOW + 301, "too far"),
        (BODY, {}, NOW - 301, "too far"),
        (BODY, {"Webhook-Timestamp": "nan"}, NOW, "not a number"),
        (BODY, {"Webhook-Timestamp": "9" * 5000}, NOW, "not a number"),
    ],
)
def test_what_is_refused(body: str, changed: dict[str, str], now: int, why: str) -> None:
    with pytest.raises(InvalidSignature, match=why):
        verify_webhook(body, _headers() | changed, SECRET, now=now)


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "webhook-signature"])
def test_missing_headers(name: str) -> None:
    headers = _headers()
    del headers[name]
    with pytest.raises(InvalidSignature, match=name.lower()):
        verify_webhook(BODY, headers, SECRET, now=NOW)


def test_other_secrets() -> None:
    with pytest.raises(InvalidSignature):
        verify_webhook(BODY, _headers(), OTHER, now=NOW)
    with pytest.raises(InvalidSignature):
        verify_webhook(BODY, _headers(), now=NOW)
    for secret in ("whsec_?", "whsec_", ""):  # anybody can sign with an empty one
        with pytest.raises(ValueError, match="base64"):
            verify_webhook(BODY, _headers(), secret, now=NOW)


def test_a_delivery_of_the_service(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    with listening() as receiver:
        made = house.made(webhook={"url": receiver.url})
        until(lambda: receiver.got)
    headers, body = receiver.got[0]
    assert verify_webhook(body, headers, SECRET)["data"]["id"] == made["id"]
