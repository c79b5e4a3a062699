"""POST /v1/audits: what candidates show, and what the ranking favours."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from app.api import openapi
from app.api.dependencies import JsonBody, ServicesDep, unless_gone
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.audits import AuditRequest, AuditResponse
from app.domain import Ranking

router = APIRouter(prefix="/v1", tags=["audits"], route_class=JsonRoute)

_EXAMPLES: Any = {
    "background": {
        "summary": "The backgrounds of a car, by the ranking's own scorer",
        "value": {
            "prompt": "a car",
            "n_candidates": 8,
            "seed": 7,
            "force": True,
            "attributes": [
                {
                    "name": "background",
                    "values": ["a car on a white background", "a car on a black background"],
                }
            ],
        },
    },
}


@router.post(
    "/audits",
    summary="Audit what candidates show and what the ranking favours",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def create_audit(
    request: Request, body: Annotated[AuditRequest, Body(openapi_examples=_EXAMPLES)], services: ServicesDep
) -> AuditResponse:
    """A probe decides which text fits each candidate.

    It is another scorer than the one that ranks.

    Prompts are sampled without pruning, a few at a time, and charged as generations; they stay stored. A disconnect
    cancels what is not made. The probe is rough: it errs, and may be biased itself.
    """
    if body.model is None and body.generations:
        services = await services.models.of_generation(body.generations[0], "scorer")
    else:
        services = await services.of_model(body.model)
    ranking = await resolve_ranking(request, services, body.ranking, Ranking())
    params = body.to_domain(ranking, services.generations.limits.default_candidates)
    return AuditResponse.from_domain(await unless_gone(request, services.audits.run(params)))
