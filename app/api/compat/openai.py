"""POST /v1/images/generations: OpenAI's Images shape over the same generations, so that its clients work unchanged.

Our own fields come in beside theirs (`extra_body` in the openai package) and go out as further members. A field of
theirs that has no meaning here is answered with an entry in `warnings`, never with silence.
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
    """OpenAI's request with our fields beside its own."""

    n: int | None = Field(None, ge=1, le=1024, description="Images that are returned, best first; default 1.")
    size: Annotated[str, StringConstraints(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = Field(
        None, description="WIDTHxHEIGHT or auto, which is the model's own."
    )
    response_format: ResponseFormat | None = Field(None, description="url, the default, or b64_json.")
    output_format: ImageFormat | None = Field(None, description="File format of the images; default png.")
    stream: bool | None = Field(None, description="Server-sent events in place of one answer.")
    partial_images: int | None = Field(None, ge=0, le=3, description="At most so many previews in the stream.")
    quality: Literal["standard", "hd", "low", "medium", "high", "auto"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["low", "auto"] | None = None
    user: str | None = None
    output_compression: int | None = Field(None, ge=0, le=100)

    def to_domain(self) -> GenerationParams:
        """As the service takes it."""
        return self.build_params(
            n=self.n or 1,
            size=None if self.size == "auto" else self.size,
            previews=(self.partial_images or 0) if self.stream else 0,
            output_format=self.output_format or "png",
        )

    def unsupported_warnings(self) -> list[WarningOutput]:
        """A warning for every field that asked for something this service does not do."""
        harmless: dict[str, set[object]] = {
            "quality": {"auto", "standard"},
            "background": {"opaque", "auto"},
            "style": set(),
            "moderation": {"auto"},
            "user": set(),
            "output_compression": {100},
        }
        ignored = [name for name, fine in harmless.items() if getattr(self, name) not in {None, *fine}]
        if self.stream and self.response_format == "url":
            ignored.append("response_format")
        return [
            WarningOutput(code="unsupported_parameter", detail=f"{name} has no effect here", param=name)
            for name in ignored
        ]


class ImageItem(ResponseModel):
    """One image: OpenAI's members first, then ours. Exactly one of `b64_json` and `url` is present."""

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
    """Tokens by kind; nothing is metered."""

    text_tokens: int = 0
    image_tokens: int = 0


class Usage(ResponseModel):
    """There because clients read it; nothing is metered, so it counts 0."""

    total_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()


class ImagesResponse(ResponseModel):
    """OpenAI's answer; `id` names the generation behind it."""

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
    summary="OpenAI's image generation",
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
    """Works with the openai package as it is; ours go into its `extra_body`."""
    service, key = services.generations, build_idempotency_key(idempotency_key, router.prefix, body)
    generation = await service.submit(
        partial(_build_params, request, services, body), idempotency=key, previews=bool(body.stream)
    )
    if body.stream:
        on_gone = partial(service.cancel_on_disconnect, generation.id) if key is None else None
        return sse.EventStreamResponse(
            generation.id, _events(service, generation, body), lifetime_s=service.limits.stream_s, on_disconnect=on_gone
        )
    with error_context(generation.id):
        done = await wait_for_result(request, service, generation.id, keep=key is not None)
        response = await generation_response(service, done, body.response_format or "url")
        require_images(response.data)  # clients take the first image for granted
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
    kept = image.model_dump(include=set(ImageItem.model_fields) - {"url"})
    return ImageItem(**kept, url=f"{base}{image.url}" if image.url else None)


async def _events(service: GenerationService, generation: Generation, body: ImagesRequest) -> AsyncIterator[bytes]:
    """The best previews of the first rounds, as many as asked, then every returned image, best first.

    Pruning may look at more rounds than were asked for. Raises NothingAboveMinScore for no image.
    """
    spec = generation.spec
    common = {
        "created_at": int(generation.created),
        "size": f"{spec.width}x{spec.height}",
        "quality": "auto",
        "background": "opaque",
    }
    rounds, wanted = 0, body.partial_images or 0
    async for preview in _best_previews(service.watch(generation.id)):
        if rounds == wanted:
            continue
        head, _, data = preview.partition(";base64,")
        own = {"b64_json": data, "partial_image_index": rounds, "output_format": head.removeprefix("data:image/")}
        yield sse.encode_event(PARTIAL_EVENT, {"type": PARTIAL_EVENT, **own, **common})
        rounds += 1
    done = require_succeeded(await service.get(generation.id))
    response = await generation_response(service, done, "b64_json")
    require_images(response.data)
    warnings = [warning.model_dump(mode="json") for warning in (*response.warnings, *body.unsupported_warnings())]
    for image in response.data:
        own = image.model_dump(include=set(ImageItem.model_fields) - {"url"}, exclude_none=True)
        usage = Usage().model_dump()
        made = {"id": done.id, "output_format": done.output_format, "usage": usage, "warnings": warnings}
        yield sse.encode_event(COMPLETED_EVENT, {"type": COMPLETED_EVENT, **own, **made, **common})


async def _best_previews(log: AsyncIterator[Event]) -> AsyncIterator[str]:
    """The best preview of every round, as a data URI: one a step, told when the log goes on with something else."""
    best: Mapping[str, Any] | None = None
    last_step = 0
    async for line in log:
        preview = line.data if line.kind is EventKind.PREVIEW else None
        if best is not None and (preview is None or preview["step"] != best["step"]):
            yield str(best["image"])
            last_step, best = best["step"], None
        if preview is not None and preview["step"] > last_step:
            best = preview if best is None else max(best, preview, key=_preview_score)


def _preview_score(preview: Mapping[str, Any]) -> float:
    score = preview["score"]
    return float("-inf") if score is None else float(score)
