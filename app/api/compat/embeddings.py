"""POST /v1/embeddings: the OpenAI Embeddings API over the scorers."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request
from pydantic import Field, field_validator

from app.api import openapi
from app.api.compat.embedding_inputs import Input, InputObject, embedded, scorer_named
from app.api.dependencies import JsonBody, ServicesDep
from app.api.json_body import JsonRoute
from app.api.schemas.base import MAX_ITEMS, ModelName, RequestModel, ResponseModel, Text
from app.api.schemas.responses import WarningOutput, warning_outputs
from app.domain import Notice
from app.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)


class EmbeddingsRequest(RequestModel):
    """The request of OpenAI's API.

    A text that is a data: URI of an image is embedded as that image.
    """

    input: Text | InputObject | Annotated[list[Input], Field(min_length=1, max_length=MAX_ITEMS)] = Field(
        description="Texts and images; token ids are not supported."
    )
    model: ModelName | None = Field(
        None, description="A scorer with embeddings; GET /v1/models names them under `scorers`. Default: the main one."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64 encodes little-endian float32. Default: float."
    )
    dimensions: int | None = Field(None, ge=1, description="Must be the dimensions of the scorer.")
    user: str | None = Field(None, description="No effect.")
    embedding_type: Literal["float", "base64"] | None = Field(None, description="Jina's name of encoding_format.")
    normalized: bool | None = Field(None, description="Vectors are always normalised.")
    task: str | None = Field(None, description="No effect.")
    truncate: bool | None = Field(None, description="No effect: texts are always truncated.")
    late_chunking: bool | None = Field(None, description="No effect.")

    @field_validator("input", mode="before")
    @classmethod
    def _refuse_token_ids(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
            raise ValueError(
                "token ids are not supported: send texts, in LangChain with `check_embedding_ctx_length=False`"
            )
        return value

    def without_effect(self) -> list[Notice]:
        """A notice for every field whose value has no effect."""
        ignored = [name for name in ("task", "late_chunking") if getattr(self, name)]
        ignored += [name for name in ("normalized", "truncate") if getattr(self, name) is False]
        return [
            Notice("unsupported_parameter", f"`{name}` has no effect: omit it", {"param": name}) for name in ignored
        ]


class EmbeddingOutput(ResponseModel):
    """One vector, L2-normalised."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponseModel):
    """Token usage, which clients expect; always 0, since tokens are not metered."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsResponse(ResponseModel):
    """Vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingOutput]
    model: str
    usage: EmbeddingUsage = EmbeddingUsage()
    warnings: list[WarningOutput]


@router.post(
    "/embeddings",
    summary="Embed texts and images (OpenAI API)",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 404, 408, 413, 415, 422, 500, 503),
)
async def embed(
    request: Request,
    body: Annotated[EmbeddingsRequest, Body(openapi_examples=openapi.EMBEDDING_REQUESTS)],
    services: ServicesDep,
) -> EmbeddingsResponse:
    """The cosine of a text and an image is the one that the ranking uses.

    A request may contain both kinds. A scorer that loads at its first use may take seconds then.
    """
    services, scorer, notices = await scorer_named(services, body.model)
    if body.dimensions not in (None, scorer.dimensions):
        raise InvalidRequest(
            f"{scorer.id!r} has {scorer.dimensions} dimensions: send this number or omit it", pointer="#/dimensions"
        )
    many = isinstance(body.input, list)
    inputs = body.input if isinstance(body.input, list) else [body.input]
    pointers = [f"#/input/{place}" if many else "#/input" for place in range(len(inputs))]
    found = await embedded(request, services, scorer, inputs, pointers)
    as_text = "base64" in (body.encoding_format, body.embedding_type)
    return EmbeddingsResponse(
        data=[
            EmbeddingOutput(
                index=place,
                embedding=base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_text else vector.tolist(),
            )
            for place, vector in enumerate(found.vectors)
        ],
        model=scorer.id,
        warnings=warning_outputs((*notices, *body.without_effect(), *found.notices)),
    )
