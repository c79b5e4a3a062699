"""The client for threads, generated from `frontrunner/aio.py` (`make docs`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from copy import copy
from typing import Any, Literal, Self, TypeVar, Unpack, cast

import httpx

from frontrunner import calls, errors
from frontrunner.calls import Call, ListFilters
from frontrunner.events import Event, EventLog, result
from frontrunner.images import Image
from frontrunner.retries import CANCEL_TIMEOUT_S, Attempts, backoff, connection_failed, shield, sleep
from frontrunner.types import (
    AuditRequest,
    AuditResponse,
    BatchListResponse,
    BatchRequest,
    BatchResponse,
    DocumentRerankRequest,
    DocumentRerankResponse,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ExplanationResponse,
    GenerationListResponse,
    GenerationRequest,
    GenerationResponse,
    GenerationSummary,
    LineageResponse,
    ModelListResponse,
    PresetListResponse,
    RankingInput,
    RankResponse,
    RefineRequest,
    RerankRequest,
    TasteProfileResponse,
    VotesRequest,
)

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = httpx.Timeout(10.0, read=60.0, write=60.0)
"""Seconds of silence, not of the whole request.

Streams have a heartbeat every 15 s.
"""

KEY_VARIABLE = "FRONTRUNNER_KEY"
"""Environment variable with the API key."""


class Client:
    """A client of one service.

    Close it, or use it as a context manager. Requests that failed without an effect are repeated `max_retries` times,
    after the interval in `Retry-After` where there is one. Every request that creates a generation has an
    `Idempotency-Key`: your `idempotency_key`, or a random one. An empty text omits it; then a broken connection may
    leave a generation behind. All methods raise ApiError and ConnectionFailed.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        http: httpx.Client | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        `base_url` may end in a path, and in OpenAI's `/v1`. `key` is by default that of `FRONTRUNNER_KEY`. `http` is a
        client with your own proxies or certificates, which you close.
        """
        key = os.environ.get(KEY_VARIABLE) if key is None else key
        self._url = base_url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout
        self._max_retries = max_retries
        self._owned = http is None
        self._http = httpx.Client() if http is None else http

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    @property
    def base_url(self) -> str:
        """The address of the service, without `/v1`."""
        return self._url

    def close(self) -> None:
        """Close all connections, except those of a client that you passed."""
        if self._owned:
            self._http.close()

    def with_options(self, *, timeout: float | httpx.Timeout | None = None, max_retries: int | None = None) -> Client:
        """The same client, on the same connections, with other options."""
        other = copy(self)
        other._owned = False
        other._timeout = self._timeout if timeout is None else timeout
        other._max_retries = self._max_retries if max_retries is None else max_retries
        return other

    # generations

    def generate(
        self,
        *,
        on_event: Callable[[Event], object] | None = None,
        idempotency_key: str | None = None,
        **body: Unpack[GenerationRequest],
    ) -> GenerationResponse:
        """Sample candidates, and wait for the ranked result.

        `on_event` receives each event; `Event.progress` is a fraction. A broken connection is resumed. Interrupting the
        wait cancels the generation. Raises GenerationFailed.
        """
        return self._result(EventLog(calls.generate(body, idempotency_key, wait=True)), on_event)

    def submit(self, *, idempotency_key: str | None = None, **body: Unpack[GenerationRequest]) -> GenerationResponse:
        """Sample candidates in the background: the generation as it is queued."""
        return self._json(calls.generate(body, idempotency_key, wait=False))

    def stream(
        self, *, idempotency_key: str | None = None, **body: Unpack[GenerationRequest]
    ) -> Generator[Event, None, None]:
        """Sample candidates; the events, of which the last holds the generation.

        A broken connection is resumed by `Last-Event-ID`. Closing the iterator early cancels the generation.
        """
        return self._events(EventLog(calls.generate(body, idempotency_key, wait=True)))

    def follow(self, generation_id: str, *, after: int = 0) -> Generator[Event, None, None]:
        """The events of a generation after number `after`, until it ends."""
        return self._events(EventLog(None, generation_id, after))

    def wait(self, generation_id: str, *, on_event: Callable[[Event], object] | None = None) -> GenerationResponse:
        """The result of a submitted generation, when it ends. Raises GenerationFailed."""
        return self._result(EventLog(None, generation_id), on_event)

    def get(self, generation_id: str) -> GenerationResponse:
        """The current state of a generation."""
        return self._json(calls.read_generation(generation_id))

    def page(
        self, *, limit: int | None = None, after: str | None = None, **filters: Unpack[ListFilters]
    ) -> GenerationListResponse:
        """One page of your generations, newest first.

        Its `next` is the `after` of the next page.
        """
        return self._json(calls.list_generations(filters, limit, after))

    def generations(self, **filters: Unpack[ListFilters]) -> Generator[GenerationSummary, None, None]:
        """All your generations, newest first, page by page."""
        after: str | None = None
        while True:
            page = self.page(after=after, **filters)
            for generation in page["data"]:
                yield generation
            after = page["next"]
            if after is None:
                return

    def delete(self, generation_id: str) -> None:
        """Cancel and delete a generation."""
        self._send(calls.delete(generation_id))

    def image(
        self,
        generation_id: str,
        index: int,
        *,
        file_format: Literal["png", "webp", "jpeg"] | None = None,
        size: str | None = None,
    ) -> bytes:
        """The image file of any candidate, fitted into `size` (WIDTHxHEIGHT)."""
        return self._bytes(calls.image(generation_id, index, file_format, size))

    def lineage(self, generation_id: str) -> LineageResponse:
        """The generations from which one was refined or re-ranked, from the root."""
        return self._json(calls.lineage(generation_id))

    def rerank(
        self, generation_id: str, *, idempotency_key: str | None = None, **body: Unpack[RerankRequest]
    ) -> GenerationResponse:
        """The generation in another ranking, without sampling.

        `store=True` stores it as a new generation.
        """
        return self._json(calls.rerank(generation_id, body, idempotency_key))

    def refine(
        self,
        generation_id: str,
        *,
        on_event: Callable[[Event], object] | None = None,
        idempotency_key: str | None = None,
        **body: Unpack[RefineRequest],
    ) -> GenerationResponse:
        """Sample new candidates from one of a generation, as `generate` does."""
        return self._result(EventLog(calls.refine(generation_id, body, idempotency_key, wait=True)), on_event)

    def stream_refine(
        self, generation_id: str, *, idempotency_key: str | None = None, **body: Unpack[RefineRequest]
    ) -> Generator[Event, None, None]:
        """Sample new candidates from one of a generation, as `stream` does."""
        return self._events(EventLog(calls.refine(generation_id, body, idempotency_key, wait=True)))

    def explain(self, generation_id: str, index: int, *, prompt: str | None = None) -> ExplanationResponse:
        """A candidate's score, phrase by phrase."""
        return self._json(calls.explain(generation_id, index, prompt))

    def heat_map(self, generation_id: str, index: int, text: str) -> bytes:
        """A PNG that shows where in a candidate the scorer finds a text."""
        return self._bytes(calls.heat_map(generation_id, index, text))

    # batches

    def submit_batch(self, *, idempotency_key: str | None = None, **body: Unpack[BatchRequest]) -> BatchResponse:
        """Make many generations in the background: `requests` are bodies of generations."""
        return self._json(calls.create_batch(body, idempotency_key))

    def batch(self, batch_id: str) -> BatchResponse:
        """The state of a batch and of its entries."""
        return self._json(calls.read_batch(batch_id))

    def wait_batch(self, batch_id: str, *, every_s: float = 2.0) -> BatchResponse:
        """A batch when it has ended, read every so many seconds. Entries may have failed."""
        while (batch := self.batch(batch_id))["finished"] is None:
            sleep(every_s)
        return batch

    def batches(self, *, limit: int | None = None, after: str | None = None) -> BatchListResponse:
        """One page of your batches, newest first, without entries."""
        return self._json(calls.list_batches(limit, after))

    def cancel_batch(self, batch_id: str) -> BatchResponse:
        """Cancel the entries that have not ended."""
        return self._json(calls.cancel_batch(batch_id))

    def delete_batch(self, batch_id: str) -> None:
        """Cancel and delete a batch with its generations."""
        self._send(calls.delete_batch(batch_id))

    # images and texts of your own

    def rank(
        self,
        prompt: str,
        images: Sequence[Image],
        *,
        negative_prompt: str | None = None,
        ranking: RankingInput | None = None,
        on_error: Literal["fail", "skip"] | None = None,
        model: str | None = None,
    ) -> RankResponse:
        """Rank image files by a prompt, with the scorers of a model.

        `index` in the response is the place in `images`. Raises OSError for a file that cannot be read.
        """
        return self._json(calls.rank(prompt, images, negative_prompt, ranking, on_error, model))

    def embed(self, **body: Unpack[EmbeddingsRequest]) -> EmbeddingsResponse:
        """The scorer's vectors of texts and images."""
        return self._json(calls.embed(body))

    def rerank_documents(self, **body: Unpack[DocumentRerankRequest]) -> DocumentRerankResponse:
        """Texts and images by their similarity to a query."""
        return self._json(calls.rerank_documents(body))

    # taste

    def vote(self, profile: str, **body: Unpack[VotesRequest]) -> TasteProfileResponse:
        """Vote on candidates of a generation; a profile begins with its first vote."""
        return self._json(calls.vote(profile, body))

    def taste(self, profile: str) -> TasteProfileResponse:
        """A summary of a taste profile."""
        return self._json(calls.read_taste(profile))

    def delete_taste(self, profile: str) -> None:
        """Delete a taste profile and its votes."""
        self._send(calls.delete_taste(profile))

    # the service

    def audit(self, **body: Unpack[AuditRequest]) -> AuditResponse:
        """What candidates show, and what the ranking favours."""
        return self._json(calls.audit(body))

    def models(self) -> ModelListResponse:
        """The loaded models and the limits of requests."""
        return self._json(calls.models())

    def presets(self) -> PresetListResponse:
        """Words to add to prompts."""
        return self._json(calls.presets())

    # sending

    def _json(self, call: Call[T]) -> T:
        return cast(T, (self._send(call)).json())

    def _bytes(self, call: Call[bytes]) -> bytes:
        return (self._send(call)).content

    def _send(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        """The successful response to a request, after repeats."""
        attempts = Attempts(self._max_retries, idempotent=call.idempotent)
        while True:
            error: errors.FrontrunnerError
            try:
                response = self._http.send(self._request(call), stream=stream)
                if response.is_success:
                    return response
                response.read()
                error = errors.from_response(response)
            except httpx.TransportError as failure:
                error = connection_failed(failure, self._url)
            delay = attempts.delay(error)
            if delay is None:
                raise error
            sleep(delay)

    def _request(self, call: Call[Any]) -> httpx.Request:
        return self._http.build_request(
            call.method,
            self._url + call.path,
            params=call.params or None,
            json=call.body,
            data=call.form,
            files=list(call.files) or None,
            headers={**self._headers, **call.headers},
            timeout=self._timeout,
        )

    def _result(self, log: EventLog, on_event: Callable[[Event], object] | None) -> GenerationResponse:
        last: Event | None = None
        with closing(self._events(log)) as events:
            for last in events:
                if on_event is not None:
                    on_event(last)
        return result(last)

    def _events(self, log: EventLog) -> Generator[Event, None, None]:
        """New events of a log over as many connections as it takes.

        Raises ConnectionFailed when `max_retries` connections in a row brought none.
        """
        failures = 0
        try:
            while not log.ended:
                response = self._send(log.next_call, stream=True)
                with suppress(httpx.TransportError):
                    with closing(response):
                        log.opened(response)
                        for chunk in response.iter_bytes():
                            for event in log.read(chunk):
                                yield event
                if not log.ended:
                    failures = 1 if log.progressed else failures + 1
                    if failures > self._max_retries or not log.resumable:
                        raise errors.ConnectionFailed(
                            f"the event stream of {self._url} broke: read the generation", unsent=False
                        )
                    sleep(backoff(failures))
        except BaseException as error:
            if not isinstance(error, Exception) and log.owned and not log.ended:
                self._cancel(log.generation_id)
            raise

    def _cancel(self, generation_id: str | None) -> None:
        """Cancel the generation of an interrupted wait, as far as that is possible."""
        if generation_id is not None:
            with shield(), suppress(errors.FrontrunnerError):
                self.with_options(timeout=CANCEL_TIMEOUT_S, max_retries=0).delete(generation_id)
