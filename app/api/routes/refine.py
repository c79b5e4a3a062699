"""POST /v1/generations/{id}/refine: image to image from a candidate or an upload."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response
from pydantic import Field, model_validator

from app.api import openapi
from app.api.dependencies import (
    GenerationId,
    GeneratorServicesDep,
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    build_idempotency_key,
)
from app.api.generation_response import PREFER, RESPONSES, submit_and_respond
from app.api.hosts import route_path
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import MASKED_STRENGTH, resolve_ranking, with_candidate, with_controls, with_init_image
from app.api.schemas.base import Count, Index, NonBlankText, PreviewRounds, Share
from app.api.schemas.provenance import to_provenance
from app.api.schemas.requests import (
    Controls,
    ImageFormat,
    ResponseFormat,
    SamplingOptions,
    drawn,
    to_loras,
    to_pruning,
    to_safety,
)
from app.api.schemas.steering import to_steering
from app.domain import Generation
from app.service import GenerationParams

router = APIRouter(prefix="/v1/generations", tags=["dialogue"], route_class=JsonRoute)

REFINE_STRENGTH = 0.5
"""Strength of a refinement that omits it."""

_EXAMPLES: Any = {
    "variations": {
        "summary": "Eight variations of candidate 3",
        "value": {"index": 3, "n_candidates": 8, "n": 4},
    },
    "new prompt": {
        "summary": "Candidate 3 with another prompt",
        "value": {"index": 3, "strength": 0.6, "prompt": "a green apple"},
    },
}


class RefineRequest(SamplingOptions):
    """New candidates from an earlier one.

    Omitted fields keep the generation's values, except `seed`, which is random.
    """

    index: Index | None = Field(None, description="Index of the candidate to start from.")
    image: str | None = Field(
        None, description="Instead of index: an image, such as a sketch, as a data: URI or bare base64."
    )
    mask: str | None = Field(
        None,
        description="An image of the same size, as a data: URI or bare base64: only its white area is redrawn.",
    )
    strength: Share | None = Field(
        None,
        description="0 keeps the initial image, 1 ignores it. Default: 0.5; with a mask, which keeps the rest: 1.",
    )
    control: Controls | None = Field(
        None, description="Images that the composition follows. Default: those of the generation."
    )
    prompt: NonBlankText | None = Field(
        None, description="What the images should show. Default: the prompt of the last ranking."
    )
    n: Count | None = None
    previews: PreviewRounds = Field(0, description="Rounds of preview images in the event stream.")
    deterministic: bool | None = Field(None, description="Use a fixed batch size. Default: as in the generation.")
    response_format: ResponseFormat = "url"
    output_format: ImageFormat | None = Field(None, description="File format. Default: that of the generation.")

    @model_validator(mode="after")
    def _check_one_source(self) -> RefineRequest:
        if (self.index is None) == (self.image is None):
            raise ValueError("send exactly one of `index` and `image`")
        return self

    def to_domain(self, source: Generation) -> GenerationParams:
        """Convert to service parameters with the source's ranking, without initial image.

        A new prompt also replaces the text to score against. The source's negative prompt counts only if it is kept.
        """
        spec = source.spec
        waves = spec.wave is not None and self.n_candidates in (None, "auto")
        n_candidates = ("auto" if waves else spec.n_candidates) if self.n_candidates is None else self.n_candidates
        cap = spec.n_candidates if waves and self.max_candidates is None else self.max_candidates
        most = n_candidates if isinstance(n_candidates, int) else cap
        return GenerationParams(
            prompt=self.prompt or spec.ranking.prompt or spec.prompt,
            negative_prompt=spec.negative_prompt if self.negative_prompt is None else self.negative_prompt,
            n_candidates=n_candidates,
            max_candidates=cap,
            n=min(spec.n, most or spec.n) if self.n is None else self.n,
            steps=spec.steps if self.steps is None else self.steps,
            guidance_scale=spec.guidance_scale if self.guidance_scale is None else self.guidance_scale,
            sampler=self.sampler or spec.sampler,
            seed=drawn(self.seed),
            loras=spec.loras if self.loras is None else to_loras(self.loras),
            ranking=replace(spec.ranking.without_negative_prompt(spec.ranking_negative_prompt), prompt=None),
            pruning=to_pruning(self.pruning),
            steering=spec.steering if self.steering is None else to_steering(self.steering),
            partial_images=self.previews,
            webhook=self.webhook.to_domain() if self.webhook is not None else None,
            deterministic=spec.deterministic if self.deterministic is None else self.deterministic,
            output_format=self.output_format or source.output_format,
            output_size=source.output_size,
            provenance=to_provenance(self.provenance) or source.provenance,
            safety=to_safety(self.safety),
        )


@router.post(
    "/{generation_id}/refine",
    summary="Refine a candidate (image to image)",
    dependencies=[JsonBody],
    response_model=None,
    responses={**RESPONSES, **openapi.error_responses(400, 404, 406, 408, 409, 413, 415, 422, 500, 503, 504)},
)
async def refine_generation(
    request: Request,
    generation_id: GenerationId,
    body: Annotated[RefineRequest, Body(openapi_examples=_EXAMPLES)],
    services: GeneratorServicesDep,
    prefer: Annotated[str, Header(description=PREFER)] = "",
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Image to image, with the response forms of POST /v1/generations.

    The new generation has this one as `parent`.
    """
    key = build_idempotency_key(idempotency_key, route_path(request.scope), body)
    params = partial(_build_params, request, services, generation_id, body)
    formats = body.response_format, body.output_format or "png"
    return await submit_and_respond(request, services.generations, params, formats, prefer, key)


async def _build_params(
    request: Request, services: Services, generation_id: str, body: RefineRequest
) -> GenerationParams:
    source = await services.generations.get(generation_id)
    params = body.to_domain(source)
    if params.safety is None:
        params = replace(params, safety=services.generations.safety.inherited(source.spec.safety))
    params = replace(params, ranking=await resolve_ranking(request, services, body.ranking, params.ranking))
    usual = REFINE_STRENGTH if body.mask is None else MASKED_STRENGTH
    strength = usual if body.strength is None else body.strength
    if body.image is None:
        params = await with_candidate(request, services, params, source, body.index or 0, strength, body.mask)
    else:
        params = await with_init_image(request, services, params, body.image, strength, source, body.mask)
    if body.control is None:
        return await services.img2img.inherit_controls(params, source)
    return await with_controls(request, services, params, body.control)
