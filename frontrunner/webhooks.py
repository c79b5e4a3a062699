"""Verification of webhooks: the Standard Webhooks signature."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from frontrunner.errors import InvalidSignature

TOLERANCE_S = 300.0
"""Maximum difference between a webhook's time and the clock, in seconds."""

_PREFIX = "whsec_"
_MIN_BYTES = 24
_MAX_DIGITS = 15


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    *secrets: str,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> dict[str, Any]:
    """The event of a webhook that one of `secrets` has signed.

    `body` is the raw request body, `secrets` are those of `frontrunner keys add`: both during a rotation. `now` is the
    time in seconds since 1970, by default the clock. Delivery is at-least-once: deduplicate on the header `webhook-id`.
    Raises InvalidSignature, and ValueError for a secret that is not one.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        name, sent, signatures = (given[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
    except KeyError as missing:
        raise InvalidSignature(f"the header {missing.args[0]} is missing") from None
    if not (sent.isascii() and sent.isdigit() and len(sent) <= _MAX_DIGITS):
        raise InvalidSignature("webhook-timestamp is not a number of seconds")
    if not abs((time.time() if now is None else now) - int(sent)) <= tolerance_s:
        raise InvalidSignature("webhook-timestamp is too far from the clock: check the clock, or ignore the replay")
    raw = body.encode() if isinstance(body, str) else body
    signed = f"{name}.{sent}.".encode() + raw
    expected = [b"v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)) for secret in secrets]
    if not any(hmac.compare_digest(one.encode(), mine) for one in signatures.split() for mine in expected):
        raise InvalidSignature("no signature matches: check the secret, and pass the body as it was received")
    try:
        event: dict[str, Any] = json.loads(raw)
    except ValueError:
        raise InvalidSignature("the body is not JSON") from None
    return event


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _MIN_BYTES:  # an empty one, such as of an unset variable, would verify forgeries
        raise ValueError(f"a secret is {_PREFIX} and base64, as `frontrunner keys add` prints it")
    return key
