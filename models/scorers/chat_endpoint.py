"""A vision-language model behind an OpenAI-compatible chat endpoint, as a scorer.

Owns the requests, their limits and the reading of answers. Without torch. The operator names the address, so private
ones are allowed; redirects are not followed. Messages hold neither address nor key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.compressed_answers import ACCEPT_ENCODING, is_unpackable
from models.daily_count import DailyCount
from models.errors import FailureReason, ModelUnsupported, ScoringFailed
from models.load_options import EndpointLimits
from models.protocols import Pixels, ScoringInfo, to_host
from models.scorers import questions

_HOST = re.compile(r"[\w.:-]+")
_MAX_SIDE = 1024
_JPEG_QUALITY = 95
_MAX_ANSWER_BYTES = 2**20
_ATTEMPTS = 3
_PAUSE_S = 30.0
"""Seconds without requests after a time-out or a lost connection."""

_TOP_TOKENS = 10


class ChatScorer:
    """Scores from 0 to 1 of a remote model, asked once per image.

    Where the endpoint gives log probabilities, a score is the share of "Yes" among "Yes" and "No". Otherwise the model
    is asked for a grade. `score` may be called from any thread, several at once; all share the limits.
    """

    def __init__(
        self,
        address: str,
        limits: EndpointLimits,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take an address such as `https://host/v1#model`.

        Raises ModelUnsupported for another form. `clock` gives seconds since 1970, and decides the day of a call.
        """
        self._url, self._model = _parts(address)
        self._limits = limits
        self._calls = DailyCount(clock)
        self._paused_until = -math.inf
        self._graded: bool | None = None
        self._free = asyncio.Semaphore(limits.concurrency)
        headers = {"authorization": f"Bearer {limits.api_key}"} if limits.api_key else {}
        self._http = httpx.AsyncClient(
            headers={"accept-encoding": ACCEPT_ENCODING, **headers},
            timeout=limits.timeout_s,
            limits=httpx.Limits(max_keepalive_connections=0),
            transport=transport,
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vlm-endpoint", daemon=True).start()
        revision = hashlib.sha256(f"{self._url} {self._model}".encode()).hexdigest()[:12]
        self._info = ScoringInfo(f"vlm:{self._model}", revision, "remote", remote=True)

    @property
    def info(self) -> ScoringInfo:
        """Name and traits; constant."""
        return self._info

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        """Scores of images of one size, float32 (B,).

        Waits for the endpoint. Raises ScoringFailed.
        """
        encoded = [_encode(image) for image in to_host(images)]
        return asyncio.run_coroutine_threadsafe(self._score(encoded, text), self._loop).result()

    async def _score(self, images: Sequence[str], text: str) -> NDArray[np.float32]:
        if time.monotonic() < self._paused_until:
            raise self._failure("unreachable", f"did not answer and is left alone for {_PAUSE_S:.0f} s")
        self._check_budget(len(images))
        try:
            async with _Deadline(self._limits.timeout_s) as deadline:
                return np.array(await self._judge(images, text, deadline), np.float32)
        except TimeoutError:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise self._failure("timeout", f"gave no scores within {self._limits.timeout_s:g} s") from None
        except httpx.TransportError:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise self._failure("unreachable", "cannot be reached; check its address and whether it runs") from None

    async def _judge(self, images: Sequence[str], text: str, deadline: _Deadline) -> list[float]:
        """Values in order: all from probabilities or all from grades."""
        made = list[float]()
        if self._graded is None and images:
            self._graded, made = await self._first(images[0], text, deadline)
        read = self._grade if self._graded else self._probability
        rest = [asyncio.ensure_future(read(image, text, deadline)) for image in images[len(made) :]]
        try:
            return made + await asyncio.gather(*rest)
        finally:
            for each in rest:
                each.cancel()

    async def _first(self, image: str, text: str, deadline: _Deadline) -> tuple[bool, list[float]]:
        """Whether the endpoint only grades, and the first value if it is known.

        A request that is refused also without log probabilities says nothing about them.
        """
        try:
            choice = await self._ask(image, questions.yes_or_no(text), deadline, logprobs=True)
        except _RequestRefused:
            return True, [await self._grade(image, text, deadline)]
        if isinstance(choice.get("logprobs"), Mapping):
            return False, [self._share_of_yes(choice)]
        return True, []

    async def _probability(self, image: str, text: str, deadline: _Deadline) -> float:
        return self._share_of_yes(await self._ask(image, questions.yes_or_no(text), deadline, logprobs=True))

    async def _grade(self, image: str, text: str, deadline: _Deadline) -> float:
        content = (await self._ask(image, questions.grade(text), deadline))["message"].get("content")
        value = questions.read_answer(content) if isinstance(content, str) else None
        if value is None:
            raise self._failure("unreadable", "did not answer with a number from 0 to 10")
        return value

    def _share_of_yes(self, choice: Mapping[str, Any]) -> float:
        try:
            share = questions.share_of_yes(choice["logprobs"]["content"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            share = None
        if share is None:
            raise self._failure("unreadable", "answered neither yes nor no")
        return share

    async def _ask(
        self, image: str, question: str, deadline: _Deadline, *, logprobs: bool = False
    ) -> Mapping[str, Any]:
        """The first choice of an answer. Raises ScoringFailed and the errors of httpx."""
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": question},
        ]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 4 if logprobs else 12,
            "temperature": 0,
        }
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": _TOP_TOKENS}
        async with self._free:
            with deadline.counted():
                status, answer = await self._send(body)
        if status != httpx.codes.OK:
            raise self._refusal(status)
        try:
            choice = json.loads(answer)["choices"][0]
            if isinstance(choice, Mapping) and isinstance(choice["message"], Mapping):
                return choice
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        raise self._failure("unreadable", "did not answer in the form of chat completions")

    async def _send(self, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body of an answer.

        Where the endpoint is busy, the request is repeated while there is time.
        """
        for attempt in range(_ATTEMPTS):
            self._spend()
            async with self._http.stream("POST", self._url, json=body) as response:
                answer = await self._read(response)
            if response.status_code not in (429, 503) or attempt == _ATTEMPTS - 1:
                break
            pause = _retry_after(response.headers.get("retry-after", ""), attempt)
            if pause > self._limits.timeout_s:
                break
            await asyncio.sleep(pause)
        return response.status_code, answer

    async def _read(self, response: httpx.Response) -> bytes:
        read = bytearray()
        if not is_unpackable(response.headers):
            raise self._failure("unreadable", "sent an answer that is compressed in another way than gzip or deflate")
        try:
            async for part in response.aiter_bytes():
                read += part
                if len(read) > _MAX_ANSWER_BYTES:
                    raise self._failure("unreadable", f"sent more than {_MAX_ANSWER_BYTES // 2**20} MiB")
        except httpx.DecodingError:
            raise self._failure("unreadable", "sent an answer that cannot be decompressed") from None
        return bytes(read)

    def _check_budget(self, calls: int) -> None:
        """Raise ScoringFailed if today's budget has no room for this many calls."""
        if self._calls.after(calls) > self._limits.calls_per_day:
            raise self._failure(
                "budget_spent",
                f"has no room left in its {self._limits.calls_per_day} calls of today; "
                "raise FRONTRUNNER_VLM_CALLS_PER_DAY",
            )

    def _spend(self) -> None:
        """Count one call of today."""
        self._check_budget(1)
        self._calls.add(1)

    def _refusal(self, status: int) -> ScoringFailed:
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return self._failure("rate_limited", "gets too many requests; lower FRONTRUNNER_VLM_CONCURRENCY")
        if status in (401, 403):
            return self._failure("refused", "rejects the key; set FRONTRUNNER_VLM_API_KEY")
        if status >= 500:
            return self._failure("unreachable", f"answers {status}; it is overloaded or faulty")
        message = f"{self._info.id} answers {status}; check its address and the name of its model"
        return _RequestRefused("refused", message)

    def _failure(self, reason: FailureReason, what: str) -> ScoringFailed:
        return ScoringFailed(reason, f"{self._info.id} {what}")


class _Deadline:
    """A time limit for the requests of one call.

    Time in which other calls have all places of the endpoint does not count. Raises TimeoutError on exit.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._running = 0
        self._since = 0.0
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._timeout.__aexit__(*error)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of one request; that of several at once counts once."""
        clock = asyncio.get_running_loop().time
        if not self._running:
            self._since = clock()
            self._end_at(self._since + self._left)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._left -= clock() - self._since
                self._end_at(None)

    def _end_at(self, when: float | None) -> None:
        with suppress(RuntimeError):  # the call has ended
            self._timeout.reschedule(when)


class _RequestRefused(ScoringFailed):
    """The endpoint rejects the request, perhaps because of log probabilities."""


def _parts(address: str) -> tuple[str, str]:
    """URL of the chat completions, and name of the model."""
    base, _, model = address.partition("#")
    try:
        url = httpx.URL(base)
    except (httpx.InvalidURL, UnicodeError):
        url = httpx.URL("")
    whole = _HOST.fullmatch(url.host) and (url.port is None or 0 < url.port < 2**16)
    if url.scheme not in ("http", "https") or not whole or not model or url.userinfo or url.query:
        raise ModelUnsupported(
            "an endpoint is named vlm:https://HOST/v1#MODEL, without user, password and query; "
            "the key is FRONTRUNNER_VLM_API_KEY"
        )
    return f"{str(url).rstrip('/')}/chat/completions", model


def _encode(image: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as a data URL, at most 1024 pixels wide and high."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    picture.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _retry_after(header: str, attempt: int) -> float:
    """Seconds to wait: as the endpoint asks, else 1 and then 2."""
    try:
        seconds = float(header)
    except ValueError:
        return float(2**attempt)
    return max(0.0, seconds) if math.isfinite(seconds) else math.inf
