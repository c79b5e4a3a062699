"""POST /v1/rerank: documents by similarity to a query.

Request and response are those that the clients of Cohere and Jina share.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Body, Request
from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api import openapi
from app.api.compat.embedding_inputs import Input, embedded, scorer_named, text_of
from app.api.dependencies import JsonBody, ServicesDep
from app.api.json_body import JsonRoute
from app.api.schemas.base import MAX_ITEMS, ModelName, RequestModel, ResponseModel, is_absent
from app.api.schemas.responses import WarningOutput, warning_outputs
from app.domain import Notice

router = APIRouter(prefix="/v1", tags=["rank"], route_class=JsonRoute)

_MIXED = Notice(
    "mixed_documents",
    "a text has higher cosines with texts than with images: compare relevance_score only within one kind",
)


class DocumentRerankRequest(RequestModel):
    """A query and documents.

    Each is a text, a data: URI of an image, or an object with `text` or `image`.
    """

    query: Input = Field(description="Text or image to compare the documents with.")
    documents: list[Input] = Field(min_length=1, max_length=MAX_ITEMS - 1, description="Documents to order.")
    model: ModelName | None = Field(
        None, description="A scorer with embeddings; GET /v1/models names them under `scorers`. Default: the main one."
    )
    top_n: int | None = Field(None, ge=1, description="Documents to return. Default: all.")
    return_documents: bool | None = Field(None, description="Whether results contain their documents. Default: false.")
    max_chunks_per_doc: int | None = Field(None, description="No effect: a document is one chunk.")
    max_tokens_per_doc: int | None = Field(None, description="No effect: the scorer has its own limit.")
    rank_fields: list[Literal["text", "image"]] | None = Field(None, description="The field of documents to compare.")
    priority: int | None = Field(None, description="No effect.")
    user: str | None = Field(None, description="No effect.")

    def without_effect(self) -> list[Notice]:
        """A notice for every field whose value has no effect."""
        names = ("max_chunks_per_doc", "max_tokens_per_doc", "priority")
        ignored = [name for name in names if getattr(self, name) is not None]
        return [
            Notice("unsupported_parameter", f"`{name}` has no effect: omit it", {"param": name}) for name in ignored
        ]


class DocumentOutput(ResponseModel):
    """A document of the request; exactly one member is present."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    text: str | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    image: str | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)


class RerankResult(ResponseModel):
    """A document's index in the request, and its cosine with the query, in [-1, 1]."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    index: int
    relevance_score: float
    document: DocumentOutput | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)


class RerankUsage(ResponseModel):
    """Token usage, which clients expect; always 0, since tokens are not metered."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class DocumentRerankResponse(ResponseModel):
    """Documents, most similar first.

    Clients of Cohere read `meta`, those of Jina read `usage`.
    """

    object: Literal["list"] = "list"
    id: str
    model: str
    results: list[RerankResult]
    meta: dict[str, Any]
    usage: RerankUsage = RerankUsage()
    warnings: list[WarningOutput]


@router.post(
    "/rerank",
    summary="Rank documents by a query",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 404, 408, 413, 415, 422, 500, 503),
)
async def rerank(
    request: Request,
    body: Annotated[DocumentRerankRequest, Body(openapi_examples=openapi.RERANK_REQUESTS)],
    services: ServicesDep,
) -> DocumentRerankResponse:
    """Compares texts and images by cosine. Nothing is sampled or stored."""
    services, scorer, notices = await scorer_named(services, body.model)
    pointers = ["#/query", *(f"#/documents/{place}" for place in range(len(body.documents)))]
    found = await embedded(request, services, scorer, [body.query, *body.documents], pointers)
    cosines = found.vectors[1:] @ found.vectors[0]
    order = sorted(range(len(cosines)), key=lambda place: (-float(cosines[place]), place))
    kinds = {text_of(one) is None for one in body.documents}
    noticed = [*notices, *body.without_effect(), *found.notices, *([_MIXED] if len(kinds) > 1 else [])]
    return DocumentRerankResponse(
        id=str(uuid4()),
        model=scorer.id,
        results=[
            RerankResult(
                index=place,
                relevance_score=float(cosines[place]),
                document=_repeated(body.documents[place]) if body.return_documents else None,
            )
            for place in order[: body.top_n]
        ],
        meta={"api_version": {"version": "2"}, "billed_units": {"search_units": 0}},
        warnings=warning_outputs(noticed),
    )


def _repeated(document: Input) -> DocumentOutput:
    if not isinstance(document, str):
        return DocumentOutput(text=document.text, image=document.image)
    return DocumentOutput(image=document) if text_of(document) is None else DocumentOutput(text=document)
