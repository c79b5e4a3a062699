"""What a remote's refusals mean, and which of their words may be shown. Pure."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from models.generators.remote.limits import Lost

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which a call is made again."""

_POLICY = ("content_policy", "moderation", "safety", "contentfilter", "content_filter", "remote_refused")
"""Parts of the codes of services whose content policy forbids a prompt."""

_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a remote whose own account has no credit: waiting does not help."""

_MAX_WORDS = 200
_ADDRESS = re.compile(
    r"\w+://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[?\b(?:[0-9a-f]{0,4}:){2,}[0-9a-f]{0,4}\b\]?", re.IGNORECASE
)
_KEY = re.compile(r"\b(?:sk|fr|key|pk|r8)[-_][\w.*-]{4,}|\bbearer\s+\S+", re.IGNORECASE)
_WHITE = re.compile(r"[\s\x00-\x1f\x7f]+")


class Busy(Exception):
    """A call failed and may be made again.

    `lost` is what the failure means if it is not, `after_s` the pause that the remote asks for.
    """

    def __init__(self, lost: Lost, after_s: float | None = None) -> None:
        super().__init__(lost.detail)
        self.lost = lost
        self.after_s = after_s


def check_status(status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]) -> None:
    """Return for a 2xx answer. Raises Lost, and Busy where another call may succeed.

    `secrets` are never shown. A remote's words are, without addresses and keys.
    """
    if 200 <= status < 300:
        return
    code, words = _told(body)
    said = _clean(words, secrets)
    because = f": {said}" if said else ""
    if 300 <= status < 400:
        raise Lost("rejected", f"answers {status} with a redirect; name its final address")
    if any(part in code.lower() for part in _POLICY):
        raise Lost("refused", f"refuses the prompt{because}")
    if status in (401, 403):
        raise Lost(
            "unauthorized",
            "rejects the key; set FRONTRUNNER_REMOTE_API_KEY, or what FRONTRUNNER_REMOTE_KEY_VARIABLE names",
        )
    if code in _SPENT:
        raise Lost("rate_limited", f"has no credit left{because}")
    reason = Lost("rate_limited" if status == 429 else "unreachable", f"answers {status}{because}")
    if status in _AGAIN and headers.get("x-should-retry", "").lower() != "false":
        raise Busy(reason, _retry_after(headers.get("retry-after", "")))
    raise reason if status >= 500 or status == 429 else Lost("rejected", f"answers {status}{because}")


def read_json(body: bytes) -> Any:
    """The JSON of an answer. Raises Lost."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Lost("unreadable", "does not answer with JSON; check its address") from None


def _told(body: bytes) -> tuple[str, str]:
    """Code and message of an error; empty if there is none.

    In the shapes of OpenAI, Frontrunner and FastAPI.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(found, Mapping):
        return "", ""
    error = found.get("error")
    if isinstance(error, Mapping):
        code, words = error.get("code") or error.get("type"), error.get("message")
    else:
        code, words = error, found.get("detail") or found.get("errors") or error
    return code if isinstance(code, str) else "", words if isinstance(words, str) else ""


def _clean(words: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        words = words.replace(secret, "[...]")
    words = _KEY.sub("[...]", _ADDRESS.sub("[...]", words))
    words = _WHITE.sub(" ", words).strip()
    return words if len(words) <= _MAX_WORDS else words[: _MAX_WORDS - 1] + "…"


def _retry_after(header: str) -> float | None:
    """Seconds that a `Retry-After` asks for, as a number or a date; None without one."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)
