"""Webhooks: a caller's address is told how a generation ended, signed as Standard Webhooks has it, until it has heard.

The outbox is a table, written with the generation itself; any replica takes from it what is due. Owns the message, the
signature and the times of the attempts. Runs beside the engine and never waits for it, nor it for this.
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
from app.errors import Invalid, StoreUnavailable
from app.service.auth import current
from app.service.webhooks.http_client import Poster, Undelivered, public
from app.stores.protocols import Attempts, Due, Hooks, Keys

log = logging.getLogger(__name__)

RETRIES_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Waits between attempts, as Standard Webhooks proposes them; each is stretched by up to a fifth."""

LOOK_S = 1.0
"""How often the outbox is looked at."""

LEASE_S = 60.0
"""After this an attempt of a replica that died is made again by another one."""

ATTEMPTS = Attempts(in_all=64, of_owner=32, to_host=8)
"""Attempts under way in one process: a slow receiver, or an owner of many, leaves the others their share."""

PAUSE_S = 0.05
"""The least time between two looks, while attempts end and more webhooks are due."""

PREFIX = "whsec_"

_HOST = re.compile(
    r"(?=.{1,253}\.?$)\w[\w-]{0,62}(?:\.[\w-]{1,63})*\.?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\w+)?", re.ASCII
)
"""A name, or an address of IPv4 or IPv6."""


@dataclass(frozen=True, slots=True)
class HookPolicy:
    """`secret` signs where the caller has no key of its own; `private` allows addresses inside and plain HTTP."""

    secret: str = ""
    private: bool = False

    def check(self, hook: Webhook | None) -> None:
        """Raises Invalid for a webhook that could never be delivered."""
        if hook is None:
            return
        schemes = {"https", "http"} if self.private else {"https"}
        if (fault := _fault(hook.url, schemes)) is not None:
            raise Invalid(fault, pointer="#/webhook/url")
        if not self.private and _inside(hook.url):
            raise Invalid("the address must belong to the public internet", pointer="#/webhook/url")
        if current() is None and not self.secret:
            raise Invalid(
                "webhooks are signed: use an API key, or set FRONTRUNNER_WEBHOOK_SECRET on the server",
                pointer="#/webhook",
            )


def _fault(address: str, schemes: set[str]) -> str | None:
    """Why nothing can be posted there, None if something can."""
    try:
        url = httpx.URL(address)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, UnicodeError):
        return "the address cannot be read as a URL"
    if url.scheme not in schemes:
        return f"an address is wanted that begins with {' or '.join(sorted(schemes))}"
    if url.userinfo:
        return "an address without a user name is wanted"
    if not _HOST.fullmatch(host) or not 0 < (1 if url.port is None else url.port) < 65_536:
        return "the address has no host or port that can be reached"
    return None


def _inside(address: str) -> bool:
    """Whether the host is an IP address outside the public internet; names are resolved at delivery only."""
    try:
        return not public(httpx.URL(address).host)
    except ValueError:
        return False


class Courier:
    """Delivers what is due, from `run` until it is cancelled. `clock` is `Records.clock`."""

    def __init__(
        self,
        hooks: Hooks,
        keys: Keys,
        poster: Poster,
        policy: HookPolicy,
        clock: Callable[[], float],
        *,
        retries_s: Sequence[float] = RETRIES_S,
    ) -> None:
        self._hooks = hooks
        self._keys = keys
        self._poster = poster
        self._policy = policy
        self._retries_s = retries_s
        self._clock = clock
        self._under_way: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._freed = asyncio.Event()
        self._outcomes = {"delivered": 0, "failed": 0, "given_up": 0}
        self.waiting = 0

    def outcomes(self) -> Mapping[str, int]:
        """Attempts of this process by outcome; one that failed is made again, unless it was given up."""
        return dict(self._outcomes)

    async def run(self) -> None:
        """Look, deliver, look again: after a while, or as soon as an attempt has ended."""
        try:
            while True:
                self._freed.clear()
                try:
                    await self._look()
                except StoreUnavailable:
                    log.debug("no webhook can be seen: the store is out of reach")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), LOOK_S)
                    await asyncio.sleep(min(PAUSE_S, LOOK_S))
        finally:
            for task in self._under_way:
                task.cancel()

    async def _look(self) -> None:
        self.waiting = await self._hooks.waiting()
        if self.waiting <= len(self._under_way) or len(self._under_way) >= ATTEMPTS.in_all:
            return
        due = await self._hooks.take(self._clock(), LEASE_S, ATTEMPTS, list(self._under_way.values()))
        secrets = {key.id: key.secret for key in await self._keys.keys()} if due else {}
        for one in due:
            secret = secrets.get(one.generation.spec.owner, self._policy.secret)
            task = asyncio.create_task(self._deliver(one, secret), name=f"webhook {one.generation.id}")
            self._under_way[task] = one.lane
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._freed.set()

    async def _deliver(self, due: Due, secret: str) -> None:
        generation, hook = due.generation, due.generation.webhook
        try:
            if hook is None or str(generation.status) not in hook.events:
                await self._hooks.done(generation.id)
                return
            body = message(generation)
            try:
                await self._poster.post(hook.url, body, self._signed(generation.id, body, secret))
            except Undelivered as reason:
                await self._failed(due, reason)
            else:
                self._outcomes["delivered"] += 1
                await self._hooks.done(generation.id)
        except StoreUnavailable:
            log.warning("a webhook's outcome was not noted: it may come twice", extra={"generation": generation.id})

    def _signed(self, generation_id: str, body: bytes, secret: str) -> dict[str, str]:
        try:
            return signed(generation_id, int(self._clock()), body, secret)
        except ValueError:
            raise Undelivered("there is no secret to sign it with") from None

    async def _failed(self, due: Due, reason: Undelivered) -> None:
        name = due.generation.id
        if reason.final or due.attempts >= len(self._retries_s):
            self._outcomes["given_up"] += 1
            log.warning("a webhook was given up: %s", reason, extra={"generation": name})
            await self._hooks.done(name)
            return
        pause = self._retries_s[due.attempts] * random.uniform(1.0, 1.2)
        log.info("a webhook was not taken: %s", reason, extra={"generation": name, "again_s": round(pause, 1)})
        await self._hooks.postpone(name, self._clock() + pause, due.attempts + 1)
        self._outcomes["failed"] += 1


def message(generation: Generation) -> bytes:
    """What the receiver gets: how it ended and where the result is, the same at every attempt."""
    ended = datetime.fromtimestamp(generation.finished or generation.created, UTC)
    data = {
        "id": generation.id,
        "object": "generation",
        "status": str(generation.status),
        "url": f"/v1/generations/{generation.id}",
        "data": [
            {
                "rank": c.rank,
                "index": c.index,
                "seed": c.seed,
                "score": c.score.score if c.score is not None else None,
                "url": f"/v1/generations/{generation.id}/images/{c.index}",
            }
            for c in generation.best
        ],
        "error": {"code": generation.failure.code, "detail": generation.failure.detail} if generation.failure else None,
    }
    told = {"type": f"generation.{generation.status}", "timestamp": ended.isoformat(), "data": data}
    return json.dumps(told, allow_nan=False).encode()


def signed(generation_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """Standard Webhooks' headers. The id is the same at every attempt, so that receivers can tell repeats."""
    name = f"msg_{generation_id}"
    told = f"{name}.{timestamp}.".encode() + body
    mac = base64.b64encode(hmac.digest(key_of(secret), told, hashlib.sha256)).decode("ascii")
    return {"webhook-id": name, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{mac}"}


def key_of(secret: str) -> bytes:
    """The bytes of a secret, `whsec_` and base64. Raises ValueError when it is none, or shorter than 24 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or len(key) < 24:
        raise ValueError("must be whsec_ and at least 24 random bytes in base64")
    return key


EVENTS = tuple(str(status) for status in Status if status.final)
"""What a webhook can be told of."""
