"""When a request is repeated, and after how long."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from time import sleep as sleep

import anyio
import httpx

from frontrunner.errors import ApiError, ConnectionFailed, FrontrunnerError

MAX_WAIT_S = 120.0
"""Seconds of the longest `Retry-After` that is waited for."""

CANCEL_TIMEOUT_S = 5.0
"""Maximum seconds that an interrupted wait takes to cancel its generation."""

_FIRST_S, _LONGEST_S = 0.25, 8.0


class Attempts:
    """The attempts of one request.

    An `idempotent` request is also repeated when it may have been received.
    """

    def __init__(self, retries: int, *, idempotent: bool) -> None:
        self._left = retries
        self._idempotent = idempotent
        self._made = 0

    def delay(self, error: FrontrunnerError) -> float | None:
        """Seconds to the next attempt after an error; None to give up."""
        if self._made >= self._left or not self._may_repeat(error):
            return None
        self._made += 1
        advised = error.retry_after_s if isinstance(error, ApiError) else None
        if advised is None:
            return backoff(self._made)
        return advised if advised <= MAX_WAIT_S else None

    def _may_repeat(self, error: FrontrunnerError) -> bool:
        if isinstance(error, ConnectionFailed):
            return error.unsent or self._idempotent
        if not isinstance(error, ApiError) or error.should_retry is False:
            return False
        # 429 and 503 say that nothing was accepted; a proxy's 502 and 504 do not.
        return error.status in {429, 503} or (self._idempotent and error.status in {408, 502, 504})


def backoff(attempt: int) -> float:
    """Seconds before attempt 1, 2, ...: doubled each time, less up to a quarter."""
    return float(min(_LONGEST_S, _FIRST_S * 2 ** min(attempt - 1, 9)) * (1 - random.random() / 4))


def connection_failed(error: httpx.TransportError, url: str) -> ConnectionFailed:
    """The client's error for one of httpx."""
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.ConnectError):
        message = f"no service listens at {url}: start one or correct the address"
    elif isinstance(error, httpx.TimeoutException):
        message = f"the service at {url} did not respond in time: try again"
    else:
        message = f"the connection to {url} failed: {error}"
    failed = ConnectionFailed(message, unsent=unsent)
    failed.__cause__ = error
    return failed


async_sleep = anyio.sleep


def async_shield() -> AbstractContextManager[object]:
    """A block that a cancelled task finishes, for `CANCEL_TIMEOUT_S` at most."""
    return anyio.move_on_after(CANCEL_TIMEOUT_S, shield=True)


def shield() -> AbstractContextManager[object]:
    """The same for threads, which are not cancelled."""
    return nullcontext()
