"""POST /v1/images/generations: the OpenAI Images API over the same generations.

OpenAI clients work unchanged. Frontrunner's fields are accepted too (`extra_body` in the openai package), and responses
contain further members. An OpenAI field without effect here adds an entry to `warnings`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Body, Request, Response
from pydantic import ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from app.api import openapi, sse
from app.api.dependencies import (
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
    require_succeeded,
    wait_for_result,
)
from app.api.generation_response import generation_response, require_images
from app.api.hosts import Hosts
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.requests import ImageFormat, ResponseFormat, SamplingRequest
from app.api.schemas.responses import ImageOutput, NegativeOutput, ResponseModel, WarningOutput
from app.domain import Event, EventKind, Generation
from app.errors import error_context
from app.service import GenerationParams, GenerationService

router = APIRouter(prefix="/v1/images", tags=["openai"], route_class=JsonRoute)


PARTIAL_EVENT, COMPLETED_EVENT = "image_generation.partial_image", "image_generation.completed"


class ImagesRequest(SamplingRequest):
    """The request of OpenAI's API with additional fields of Frontrunner."""

    n: int | None = Field(None, ge=1, le=1024, description="Images to return, best first. Default: 1.")
    size: Annotated[str, StringConstraints(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = Field(
        None, description="WIDTHxHEIGHT in pixels, or auto for the model's default."
    )
    response_format: ResponseFormat | None = Field(None, description="url or b64_json. Default: url.")
    output_format: ImageFormat | None = Field(None, description="File format of the images. Default: png.")
    stream: bool | None = Field(None, description="Respond with server-sent events.")
    partial_images: int | None = Field(None, ge=0, le=3, description="Maximum previews in the stream.")
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["low", "auto"] | None = None
    user: str | None = None
    output_compression: int | None = Field(None, ge=0, le=100)

    def to_domain(self) -> GenerationParams:
        """Convert to service parameters."""
        return self.build_params(
            n=self.n or 1,
            size=None if self.size == "auto" else self.size,
            previews=(self.partial_images or 0) if self.stream else 0,
            output_format=self.output_format or "png",
        )

    def unsupported_warnings(self) -> list[WarningOutput]:
        """A warning for every field whose value has no effect."""
        supported_values: dict[str, set[object]] = {
            "quality": {"auto", "standard"},
            "background": {"opaque", "auto"},
            "style": set(),
            "moderation": {"auto"},
            "user": set(),
            "output_compression": {100},
        }
        ignored = [
            name for name, supported in supported_values.items() if getattr(self, name) not in {None, *supported}
        ]
        if self.stream and self.response_format == "url":
            ignored.append("response_format")
        return [
            WarningOutput(code="unsupported_parameter", detail=f"`{name}` has no effect: omit it", param=name)
            for name in ignored
        ]


class ImageItem(ResponseModel):
    """One image: OpenAI's members first, then Frontrunner's.

    Exactly one of `b64_json` and `url` is present.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    b64_json: str | SkipJsonSchema[None] = None
    url: str | SkipJsonSchema[None] = None
    rank: int
    index: int
    seed: int
    score: float
    similarity: float
    penalty: float
    negatives: list[NegativeOutput]


class TokenDetails(ResponseModel):
    """Tokens by kind; always 0, since tokens are not metered."""

    text_tokens: int = 0
    image_tokens: int = 0


class Usage(ResponseModel):
    """Token usage, which clients expect; always 0, since tokens are not metered."""

    total_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()


class ImagesResponse(ResponseModel):
    """The response of OpenAI's API; `id` is the id of the generation."""

    created: int
    data: list[ImageItem]
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    size: str
    usage: Usage = Usage()
    id: str
    model: str
    warnings: list[WarningOutput]


@router.post(
    "/generations",
    summary="Generate images (OpenAI API)",
    dependencies=[JsonBody],
    response_model=None,
    responses={
        200: {
            "model": ImagesResponse,
            "description": "The images, or with `stream` their events.",
            "content": openapi.event_stream_content([PARTIAL_EVENT, COMPLETED_EVENT]),
        },
        **openapi.error_responses(400, 404, 408, 409, 413, 415, 422, 500, 503, 504),
    },
)
async def create_images(
    request: Request,
    body: Annotated[ImagesRequest, Body(openapi_examples=cast(Any, openapi.OPENAI_REQUESTS))],
    services: ServicesDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Works with the unchanged openai package.

    Fields that OpenAI's API lacks go into its `extra_body`.
    """
    service, key = services.generations, build_idempotency_key(idempotency_key, router.prefix, body)
    generation = await service.submit(
        partial(_build_params, request, services, body), idempotency=key, previews=bool(body.stream)
    )
    if body.stream:
        on_disconnect = partial(service.cancel_on_disconnect, generation.id) if key is None else None
        return sse.EventStreamResponse(
            generation.id,
            _events(service, generation, body),
            lifetime_s=service.limits.stream_s,
            on_disconnect=on_disconnect,
        )
    with error_context(generation.id):
        done = await wait_for_result(request, service, generation.id, keep=key is not None)
        response = await generation_response(service, done, body.response_format or "url")
        require_images(response.data)  # clients expect at least one image
    hosts: Hosts = request.app.state.hosts
    base = hosts.base(request.scope)
    images = ImagesResponse(
        created=response.created,
        data=[_item(image, base) for image in response.data],
        output_format=response.output_format,
        size=response.size,
        id=response.id,
        model=response.model,
        warnings=[*response.warnings, *body.unsupported_warnings()],
    )
    return Response(images.model_dump_json(exclude_none=True), media_type="application/json")


async def _build_params(request: Request, services: Services, body: ImagesRequest) -> GenerationParams:
    params = body.to_domain()
    return replace(params, ranking=await resolve_ranking(request, services, body.ranking, params.ranking))


def _item(image: ImageOutput, base: str) -> ImageItem:
    members = image.model_dump(include=set(ImageItem.model_fields) - {"url"})
    return ImageItem(**members, url=f"{base}{image.url}" if image.url else None)


async def _events(service: GenerationService, generation: Generation, body: ImagesRequest) -> AsyncIterator[bytes]:
    """The best preview of each requested round, then every returned image, best first.

    Pruning may use more preview rounds than requested. Raises NothingAboveMinScore without an image.
    """
    spec = generation.spec
    common = {
        "created_at": int(generation.created),
        "size": f"{spec.width}x{spec.height}",
        "quality": "auto",
        "background": "opaque",
    }
    rounds, requested = 0, body.partial_images or 0
    async for preview in _best_previews(service.watch(generation.id)):
        if rounds == requested:
            continue
        header, _, data = preview.partition(";base64,")
        members = {"b64_json": data, "partial_image_index": rounds, "output_format": header.removeprefix("data:image/")}
        yield sse.encode_event(PARTIAL_EVENT, {"type": PARTIAL_EVENT, **members, **common})
        rounds += 1
    done = require_succeeded(await service.get(generation.id))
    response = await generation_response(service, done, "b64_json")
    require_images(response.data)
    warnings = [warning.model_dump(mode="json") for warning in (*response.warnings, *body.unsupported_warnings())]
    for image in response.data:
        members = image.model_dump(include=set(ImageItem.model_fields) - {"url"}, exclude_none=True)
        usage = Usage().model_dump()
        result = {"id": done.id, "output_format": done.output_format, "usage": usage, "warnings": warnings}
        yield sse.encode_event(COMPLETED_EVENT, {"type": COMPLETED_EVENT, **members, **result, **common})


async def _best_previews(log: AsyncIterator[Event]) -> AsyncIterator[str]:
    """The best preview of every round, as a data URI.

    A round is one step; its best preview follows when the log continues with another step or event.
    """
    best: Mapping[str, Any] | None = None
    last_step = 0
    async for event in log:
        preview = event.data if event.kind is EventKind.PREVIEW else None
        if best is not None and (preview is None or preview["step"] != best["step"]):
            yield str(best["image"])
            last_step, best = best["step"], None
        if preview is not None and preview["step"] > last_step:
            best = preview if best is None else max(best, preview, key=_preview_score)


def _preview_score(preview: Mapping[str, Any]) -> float:
    score = preview["score"]
    return float("-inf") if score is None else float(score)
