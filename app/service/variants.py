"""Wordings of a prompt that the server makes: by a chat model, or from presets.

A chat endpoint in the shape of OpenAI's API is asked where the operator names one, within a budget of calls. What it
does not deliver comes from presets, and a notice says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from app.domain import Notice
from app.service.presets import Presets, preset_wordings
from app.service.webhooks.http_client import DeliveryError, WebhookClient

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 2**10
"""Maximum size of a chat model's answer."""

HOUR_S = 3600.0

PAUSE_S = 30.0
"""Seconds without calls after one that failed.

So a batch does not wait for each of its entries.
"""

CALLS_AT_ONCE = 8
"""Calls of the chat model that run at a time."""

Wordings: TypeAlias = tuple[tuple[str, ...], tuple[Notice, ...]]
"""Wordings of a prompt, and notices."""

INSTRUCTION = (
    "You rewrite prompts for an image generator. Keep every thing, number, colour and relation that the prompt names, "
    "and its language. Change words, order and detail. Answer with a JSON array of {count} strings and nothing else."
)


def check_rewriter(url: str, model: str, *, private: bool) -> None:
    """Check the settings of a rewriter. Raises ValueError."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        complete = False
    if not complete or parts.scheme not in {"https", "http"} or (parts.scheme == "http" and not private):
        raise ValueError(
            "REWRITER_URL must be a URL such as https://llm.example.com/v1; http:// needs REWRITER_PRIVATE=true"
        )
    if not model:
        raise ValueError("REWRITER_MODEL must name the model of REWRITER_URL")


class ChatRewriter:
    """Asks a chat model for wordings, at most `calls_per_hour` times.

    `url` is the base of an API in OpenAI's shape, such as https://host/v1. `client` checks its address and the time.
    """

    def __init__(
        self,
        client: WebhookClient,
        url: str,
        model: str,
        key: str,
        calls_per_hour: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._calls_per_hour = calls_per_hour
        self._clock = clock
        self._calls: deque[float] = deque()
        self._paused_until = -math.inf
        self._free = asyncio.Semaphore(CALLS_AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def rewrite(self, prompt: str, count: int) -> list[str]:
        """At most `count` texts.

        Waits while `CALLS_AT_ONCE` others run. Raises DeliveryError.
        """
        async with self._free:
            return await self._rewrite(prompt, count)

    async def _rewrite(self, prompt: str, count: int) -> list[str]:
        now = self._clock()
        while self._calls and self._calls[0] <= now - HOUR_S:
            self._calls.popleft()
        if len(self._calls) >= self._calls_per_hour:
            raise DeliveryError("the budget of this hour is used up")
        if now < self._paused_until:
            raise DeliveryError(f"a call failed, so none is made for {PAUSE_S:.0f} s")
        self._calls.append(now)
        request = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": INSTRUCTION.format(count=count)},
                {"role": "user", "content": prompt},
            ],
            "temperature": 1.0,
            "max_tokens": 256 * count,
        }
        body = json.dumps(request).encode()
        try:
            answer = await self._client.fetch(self._url, body, self._headers, MAX_ANSWER_BYTES)
        except DeliveryError:
            self._paused_until = self._clock() + PAUSE_S
            raise
        return _texts(answer)[:count]


class VariantMaker:
    """Makes wordings of a prompt. `max_chars` bounds each of them."""

    def __init__(self, presets: Presets, rewriter: ChatRewriter | None, max_chars: int) -> None:
        self._presets = presets
        self._rewriter = rewriter
        self._max_chars = max_chars

    async def make(self, prompt: str, count: int) -> Wordings:
        """`count` different wordings, the prompt first, and notices.

        Fewer if presets run out; none for a prompt above `max_chars`, which is refused later.
        """
        if len(prompt) > self._max_chars:
            return (), ()
        notices: tuple[Notice, ...] = ()
        found = [prompt]
        if self._rewriter is not None:
            try:
                found += await self._rewriter.rewrite(prompt, count - 1)
            except DeliveryError as error:
                log.warning("the rewriter of prompts failed: %s", error)
                notices = (_failed(str(error)),)
        fitting = self._distinct(found)
        if self._rewriter is not None and not notices and len(fitting) < count:
            notices = (_failed(f"it made {len(fitting) - 1} of {count - 1} wordings"),)
        wordings = self._distinct([*fitting, *preset_wordings(prompt, self._presets)])[:count]
        if len(wordings) < count:
            detail = f"only {len(wordings)} of {count} wordings were made: send `variants` as texts"
            notices = (*notices, Notice("fewer_variants", detail, {"variants": len(wordings)}))
        return tuple(wordings), notices

    async def make_all(self, asked: Mapping[int, tuple[str, int]]) -> dict[int, Wordings]:
        """The wordings of several prompts, made side by side, by the same keys.

        A prompt has its count.
        """
        made = await asyncio.gather(*(self.make(prompt, count) for prompt, count in asked.values()))
        return dict(zip(asked, made, strict=True))

    def _distinct(self, texts: Sequence[str]) -> list[str]:
        """Texts that can be prompts, each once; the first one is kept as it is."""
        first, *others = texts
        spaced = (" ".join(text.split()) for text in others)
        usable = (text for text in spaced if text and text.isprintable() and len(text) <= self._max_chars)
        return list(dict.fromkeys([first, *usable]))


def _failed(reason: str) -> Notice:
    detail = f"the rewriter of prompts failed, so wordings come from presets: {reason}"
    return Notice("rewriter_failed", detail)


def _texts(answer: bytes) -> list[str]:
    """The strings of the array in a chat completion. Raises DeliveryError."""
    try:
        content: Any = json.loads(answer)["choices"][0]["message"]["content"]
        found = re.search(r"\[.*\]", content, re.DOTALL)
        texts = json.loads(found[0]) if found is not None else None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        texts = None
    if not isinstance(texts, list):
        raise DeliveryError("the answer holds no JSON array of texts")
    return [text for text in texts if isinstance(text, str)]
