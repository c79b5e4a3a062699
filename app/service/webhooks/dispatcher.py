"""Webhook dispatcher: signed notifications of ended generations, with retries.

The outbox is a table, written with the generation; any replica delivers from it. This module owns payload, signature
(Standard Webhooks) and retry schedule. It runs beside the engine; neither waits for the other.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from app.domain import Generation, Status, Webhook
from app.errors import InvalidRequest, StoreUnavailable
from app.service.auth import current_caller
from app.service.links import LinkSigner, batch_path, generation_path, image_path, using_links
from app.service.webhooks.http_client import DeliveryError, WebhookClient
from app.stores.protocols import ApiKeyStore, DeliveryLimits, EndedBatch, PendingDelivery, WebhookOutbox
from models.public_addresses import is_public_address

log = logging.getLogger(__name__)

RETRY_DELAYS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Retry delays of Standard Webhooks; each is extended by up to a fifth."""

OUTBOX_POLL_INTERVAL_S = 1.0
"""Seconds between outbox polls."""

DELIVERY_LEASE_S = 60.0
"""Seconds until another replica repeats an attempt of a dead one."""

DELIVERY_LIMITS = DeliveryLimits(total=64, per_owner=32, per_host=8)
"""Concurrent attempts per process.

A slow receiver, or an owner with many webhooks, leaves the others their share.
"""

PAUSE_S = 0.05
"""Minimum seconds between polls while attempts end and more webhooks are due."""

SECRET_PREFIX = "whsec_"

_HOST = re.compile(
    r"(?=.{1,253}\.?$)\w[\w-]{0,62}(?:\.[\w-]{1,63})*\.?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\w+)?", re.ASCII
)
"""A host name, or an IPv4 or IPv6 address."""


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """`secret` signs webhooks of callers without a key.

    `allow_private` permits private addresses and plain HTTP.
    """

    secret: str = ""
    allow_private: bool = False

    def check(self, webhook: Webhook | None) -> None:
        """Raises InvalidRequest for a webhook that can never be delivered."""
        if webhook is None:
            return
        schemes = {"https", "http"} if self.allow_private else {"https"}
        if (fault := _url_problem(webhook.url, schemes)) is not None:
            raise InvalidRequest(fault, pointer="#/webhook/url")
        if not self.allow_private and _inside(webhook.url):
            raise InvalidRequest("url must point to a public internet address", pointer="#/webhook/url")
        if current_caller() is None and not self.secret:
            raise InvalidRequest(
                "webhooks need a signing secret: use an API key, or set FRONTRUNNER_WEBHOOK_SECRET on the server",
                pointer="#/webhook",
            )


def _url_problem(address: str, schemes: set[str]) -> str | None:
    """Why the URL cannot receive a POST; None if it can."""
    try:
        url = httpx.URL(address)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        return "url is not a valid URL: send an absolute URL"
    if url.scheme not in schemes:
        return f"url has an unsupported scheme: use {' or '.join(sorted(schemes))}"
    if url.userinfo:
        return "url contains a user name or password: remove it"
    if not _HOST.fullmatch(host) or not 0 < (1 if url.port is None else url.port) < 65_536:
        return "url has an invalid host or port: send a host name or IP address and a port from 1 to 65535"
    return None


def _inside(address: str) -> bool:
    """Whether the host is a non-public IP address.

    Names are resolved at delivery only.
    """
    try:
        return not is_public_address(httpx.URL(address).host)
    except ValueError:
        return False


class WebhookDispatcher:
    """Delivers due webhooks while `run` runs.

    `clock` is `GenerationStore.clock`. URLs in payloads begin with `public_url`. `links` signs those of images while
    keys exist.
    """

    def __init__(
        self,
        outbox: WebhookOutbox,
        keys: ApiKeyStore,
        webhook_client: WebhookClient,
        policy: WebhookPolicy,
        clock: Callable[[], float],
        *,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
        links: LinkSigner | None = None,
        public_url: str = "",
    ) -> None:
        self._outbox = outbox
        self._keys = keys
        self._client = webhook_client
        self._policy = policy
        self._retry_delays_s = retry_delays_s
        self._clock = clock
        self._links = links
        self._public_url = public_url
        self._active_deliveries: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._freed = asyncio.Event()
        self._outcomes = {"delivered": 0, "failed": 0, "given_up": 0}
        self.pending = 0

    def outcomes(self) -> Mapping[str, int]:
        """Attempts of this process by outcome.

        Failed ones are retried unless given up.
        """
        return dict(self._outcomes)

    async def run(self) -> None:
        """Poll and deliver until cancelled, at intervals or when an attempt ends."""
        try:
            while True:
                self._freed.clear()
                try:
                    await self._dispatch_due()
                except StoreUnavailable:
                    log.debug("webhooks are delayed: the store is unavailable")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), OUTBOX_POLL_INTERVAL_S)
                    await asyncio.sleep(min(PAUSE_S, OUTBOX_POLL_INTERVAL_S))
        finally:
            for task in self._active_deliveries:
                task.cancel()

    async def _dispatch_due(self) -> None:
        self.pending = await self._outbox.count_pending()
        if self.pending <= len(self._active_deliveries) or len(self._active_deliveries) >= DELIVERY_LIMITS.total:
            return
        due = await self._outbox.lease_due(
            self._clock(), DELIVERY_LEASE_S, DELIVERY_LIMITS, list(self._active_deliveries.values())
        )
        secrets = {key.id: key.secret for key in await self._keys.list_keys()} if due else {}
        signer = self._links if secrets else None
        if signer is not None:
            await signer.load()
        for delivery in due:
            secret = secrets.get(delivery.owner, self._policy.secret)
            task = asyncio.create_task(self._deliver(delivery, secret, signer), name=f"webhook {delivery.id}")
            self._active_deliveries[task] = delivery.lane
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._active_deliveries[task]
        self._freed.set()

    async def _deliver(self, due: PendingDelivery, secret: str, signer: LinkSigner | None = None) -> None:
        hook = due.webhook
        try:
            if hook is None or str(due.status) not in hook.events:
                await self._outbox.remove(due.id)
                return
            with using_links(prefix=self._public_url, signer=signer):
                subject = due.subject
                body = build_payload(subject) if isinstance(subject, Generation) else build_batch_payload(subject)
            try:
                await self._client.post(hook.url, body, self._sign(due.id, body, secret))
            except DeliveryError as error:
                await self._record_failure(due, error)
            else:
                self._outcomes["delivered"] += 1
                await self._outbox.remove(due.id)
        except StoreUnavailable:
            log.warning("webhook outcome not stored: it may be delivered twice", extra={"generation": due.id})

    def _sign(self, generation_id: str, body: bytes, secret: str) -> dict[str, str]:
        try:
            return sign(generation_id, int(self._clock()), body, secret)
        except ValueError:
            raise DeliveryError("no valid signing secret") from None

    async def _record_failure(self, due: PendingDelivery, error: DeliveryError) -> None:
        name = due.id
        if error.final or due.attempts >= len(self._retry_delays_s):
            self._outcomes["given_up"] += 1
            log.warning("webhook given up: %s", error, extra={"generation": name})
            await self._outbox.remove(name)
            return
        delay_s = self._retry_delays_s[due.attempts] * random.uniform(1.0, 1.2)
        log.info("webhook delivery failed: %s", error, extra={"generation": name, "again_s": round(delay_s, 1)})
        await self._outbox.reschedule(name, self._clock() + delay_s, due.attempts + 1)
        self._outcomes["failed"] += 1


def build_payload(generation: Generation) -> bytes:
    """The payload: status and result URLs; each attempt signs image links again."""
    ended = datetime.fromtimestamp(generation.finished or generation.created, UTC)
    data = {
        "id": generation.id,
        "object": "generation",
        "status": str(generation.status),
        "url": generation_path(generation.id),
        "data": [
            {
                "rank": c.rank,
                "index": c.index,
                "seed": c.seed,
                "score": c.score.score if c.score is not None else None,
                "url": image_path(generation.id, c.index, generation.output_format),
            }
            for c in generation.best
        ],
        "error": {"code": generation.failure.code, "detail": generation.failure.detail} if generation.failure else None,
    }
    payload = {"type": f"generation.{generation.status}", "timestamp": ended.isoformat(), "data": data}
    return json.dumps(payload, allow_nan=False).encode()


def build_batch_payload(ended: EndedBatch) -> bytes:
    """The payload of a batch: status, URL and the number of entries by state."""
    batch = ended.batch
    at = datetime.fromtimestamp(batch.finished or batch.created, UTC)
    counts = {name: getattr(ended.counts, name) for name in COUNTED}
    data = {
        "id": batch.id,
        "object": "batch",
        "status": str(batch.status),
        "url": batch_path(batch.id),
        "counts": counts,
    }
    return json.dumps({"type": f"batch.{batch.status}", "timestamp": at.isoformat(), "data": data}).encode()


COUNTED = ("total", "succeeded", "failed", "cancelled", "refused", "deleted")
"""The counts of an ended batch."""


def sign(generation_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Headers of Standard Webhooks.

    The id is identical at every attempt, so receivers can deduplicate.
    """
    name = f"msg_{generation_id}"
    signed_content = f"{name}.{timestamp}.".encode() + body
    mac = base64.b64encode(hmac.digest(decode_secret(secret), signed_content, hashlib.sha256)).decode("ascii")
    return {"webhook-id": name, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{mac}"}


def decode_secret(secret: str) -> bytes:
    """Decode `whsec_` and base64.

    Raises ValueError if malformed or shorter than 24 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) < 24:
        raise ValueError("must be whsec_ and at least 24 random bytes in base64")
    return key


WEBHOOK_EVENTS = tuple(str(status) for status in Status if status.is_final)
"""Events that a webhook can subscribe to."""
