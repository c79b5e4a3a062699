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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

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

_DAY_S = 86400
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
        self._clock = clock
        self._spent = (0, 0)  # day, calls
        self._paused_until = -math.inf
        self._graded: bool | None = None
        self._free = asyncio.Semaphore(limits.concurrency)
        headers = {"authorization": f"Bearer {limits.api_key}"} if limits.api_key else {}
        self._http = httpx.AsyncClient(
            headers=headers,
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
            async with asyncio.timeout(self._limits.timeout_s):
                return np.array(await self._judge(images, text), np.float32)
        except TimeoutError:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise self._failure("timeout", f"gave no scores within {self._limits.timeout_s:g} s") from None
        except httpx.TransportError:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise self._failure("unreachable", "cannot be reached; check its address and whether it runs") from None

    async def _judge(self, images: Sequence[str], text: str) -> list[float]:
        """Values in order: all from probabilities or all from grades."""
        made = list[float]()
        if self._graded is None and images:
            self._graded, made = await self._first(images[0], text)
        read = self._grade if self._graded else self._probability
        rest = [asyncio.ensure_future(read(image, text)) for image in images[len(made) :]]
        try:
            return made + await asyncio.gather(*rest)
        finally:
            for each in rest:
                each.cancel()

    async def _first(self, image: str, text: str) -> tuple[bool, list[float]]:
        """Whether the endpoint only grades, and the first value if it is known.

        A request that is refused also without log probabilities says nothing about them.
        """
        try:
            choice = await self._ask(image, questions.yes_or_no(text), logprobs=True)
        except _RequestRefused:
            return True, [await self._grade(image, text)]
        if isinstance(choice.get("logprobs"), Mapping):
            return False, [self._share_of_yes(choice)]
        return True, []

    async def _probability(self, image: str, text: str) -> float:
        return self._share_of_yes(await self._ask(image, questions.yes_or_no(text), logprobs=True))

    async def _grade(self, image: str, text: str) -> float:
        content = (await self._ask(image, questions.grade(text)))["message"].get("content")
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

    async def _ask(self, image: str, question: str, *, logprobs: bool = False) -> Mapping[str, Any]:
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
        today = int(self._clock() // _DAY_S)
        if self._spent[0] != today:
            self._spent = (today, 0)
        if self._spent[1] + calls > self._limits.calls_per_day:
            raise self._failure(
                "budget_spent",
                f"has no room left in its {self._limits.calls_per_day} calls of today; "
                "raise FRONTRUNNER_VLM_CALLS_PER_DAY",
            )

    def _spend(self) -> None:
        """Count one call of today."""
        self._check_budget(1)
        self._spent = (self._spent[0], self._spent[1] + 1)

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
