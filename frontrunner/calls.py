"""The requests of the API, without I/O: one function for each route."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote

from frontrunner.images import Image, read
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

Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class ListFilters(TypedDict, total=False):
    """Which generations are listed; times are epoch seconds."""

    status: Status | list[Status]
    created_after: float
    created_before: float
    batch: str


KEY_HEADER = "idempotency-key"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request whose response has the JSON type T, or bytes.

    `idempotent`: a repeat has no further effect.
    """

    method: str
    path: str
    body: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    files: Sequence[tuple[str, tuple[str, bytes]]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotent: bool = True

    @property
    def with_files(self) -> bool:
        """Whether the response holds images in base64."""
        return isinstance(self.body, Mapping) and self.body.get("response_format") == "b64_json"


def generate(body: GenerationRequest, key: str | None, *, wait: bool) -> Call[GenerationResponse]:
    """POST /v1/generations, as an event stream or in the background."""
    return _creating("/v1/generations", body, key, wait=wait)


def refine(generation_id: str, body: RefineRequest, key: str | None, *, wait: bool) -> Call[GenerationResponse]:
    """POST /v1/generations/{id}/refine, as an event stream or in the background."""
    return _creating(f"{_generation(generation_id)}/refine", body, key, wait=wait)


def rerank(generation_id: str, body: RerankRequest, key: str | None) -> Call[GenerationResponse]:
    """POST /v1/generations/{id}/rerank."""
    headers = _key(key)
    stored = bool(body.get("store"))
    path = f"{_generation(generation_id)}/rerank"
    return Call("POST", path, body, headers=headers, idempotent=not stored or KEY_HEADER in headers)


def read_generation(generation_id: str) -> Call[GenerationResponse]:
    """GET /v1/generations/{id}."""
    return Call("GET", _generation(generation_id))


def list_generations(filters: ListFilters, limit: int | None, after: str | None) -> Call[GenerationListResponse]:
    """GET /v1/generations."""
    page = {"limit": limit, "after": after}
    params = {name: value for name, value in {**filters, **page}.items() if value is not None}
    return Call("GET", "/v1/generations", params=params)


def delete(generation_id: str) -> Call[None]:
    """DELETE /v1/generations/{id}."""
    return Call("DELETE", _generation(generation_id))


def events(generation_id: str, after: int) -> Call[Any]:
    """GET /v1/generations/{id}/events."""
    headers = {"accept": "text/event-stream", "last-event-id": str(after)}
    return Call("GET", f"{_generation(generation_id)}/events", headers=headers)


def image(generation_id: str, index: int, file_format: str | None, size: str | None) -> Call[bytes]:
    """GET /v1/generations/{id}/images/{index}."""
    path = f"{_generation(generation_id)}/images/{index}"
    return Call("GET", path, params=_present(format=file_format, size=size))


def lineage(generation_id: str) -> Call[LineageResponse]:
    """GET /v1/generations/{id}/lineage."""
    return Call("GET", f"{_generation(generation_id)}/lineage")


def explain(generation_id: str, index: int, prompt: str | None) -> Call[ExplanationResponse]:
    """GET /v1/generations/{id}/candidates/{index}/why."""
    return Call("GET", f"{_generation(generation_id)}/candidates/{index}/why", params=_present(prompt=prompt))


def heat_map(generation_id: str, index: int, text: str) -> Call[bytes]:
    """GET /v1/generations/{id}/candidates/{index}/heat."""
    return Call("GET", f"{_generation(generation_id)}/candidates/{index}/heat", params={"text": text})


def create_batch(body: BatchRequest, key: str | None) -> Call[BatchResponse]:
    """POST /v1/batches."""
    headers = _key(key)
    return Call("POST", "/v1/batches", body, headers=headers, idempotent=KEY_HEADER in headers)


def list_batches(limit: int | None, after: str | None) -> Call[BatchListResponse]:
    """GET /v1/batches."""
    page = {"limit": limit, "after": after}
    return Call("GET", "/v1/batches", params={name: value for name, value in page.items() if value is not None})


def read_batch(batch_id: str) -> Call[BatchResponse]:
    """GET /v1/batches/{id}."""
    return Call("GET", _batch(batch_id))


def cancel_batch(batch_id: str) -> Call[BatchResponse]:
    """POST /v1/batches/{id}/cancel."""
    return Call("POST", f"{_batch(batch_id)}/cancel")


def delete_batch(batch_id: str) -> Call[None]:
    """DELETE /v1/batches/{id}."""
    return Call("DELETE", _batch(batch_id))


def rank(
    prompt: str,
    images: Sequence[Image],
    negative_prompt: str | None,
    ranking: RankingInput | None,
    on_error: str | None,
    model: str | None = None,
) -> Call[RankResponse]:
    """POST /v1/rank, as a form."""
    rules = None if ranking is None else json.dumps(ranking)
    form = _present(prompt=prompt, negative_prompt=negative_prompt, ranking=rules, on_error=on_error, model=model)
    files = [("images", (f"image-{place}", read(one))) for place, one in enumerate(images)]
    return Call("POST", "/v1/rank", form=form, files=files)


def embed(body: EmbeddingsRequest) -> Call[EmbeddingsResponse]:
    """POST /v1/embeddings."""
    return Call("POST", "/v1/embeddings", body)


def rerank_documents(body: DocumentRerankRequest) -> Call[DocumentRerankResponse]:
    """POST /v1/rerank."""
    return Call("POST", "/v1/rerank", body)


def vote(profile: str, body: VotesRequest) -> Call[TasteProfileResponse]:
    """POST /v1/taste/{profile}/votes; a repeated vote counts once."""
    return Call("POST", f"{_taste(profile)}/votes", body)


def read_taste(profile: str) -> Call[TasteProfileResponse]:
    """GET /v1/taste/{profile}."""
    return Call("GET", _taste(profile))


def delete_taste(profile: str) -> Call[None]:
    """DELETE /v1/taste/{profile}."""
    return Call("DELETE", _taste(profile))


def audit(body: AuditRequest) -> Call[AuditResponse]:
    """Audit prompts or generations; not repeated, since it may sample."""
    return Call("POST", "/v1/audits", body, idempotent=False)


def models() -> Call[ModelListResponse]:
    """GET /v1/models."""
    return Call("GET", "/v1/models")


def presets() -> Call[PresetListResponse]:
    """GET /v1/presets."""
    return Call("GET", "/v1/presets")


def _creating(path: str, body: Any, key: str | None, *, wait: bool) -> Call[GenerationResponse]:
    headers = {**_key(key), **({"accept": "text/event-stream"} if wait else {"prefer": "respond-async"})}
    return Call("POST", path, body, headers=headers, idempotent=KEY_HEADER in headers)


def _key(key: str | None) -> dict[str, str]:
    """The header with a key: the given one, none for an empty text, else a random one."""
    return {} if key == "" else {KEY_HEADER: key or str(uuid.uuid4())}


def _present(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _generation(generation_id: str) -> str:
    return f"/v1/generations/{quote(generation_id, safe='')}"


def _batch(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"


def _taste(profile: str) -> str:
    return f"/v1/taste/{quote(profile, safe='')}"
