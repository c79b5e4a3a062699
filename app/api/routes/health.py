"""/healthz, /readyz and /metrics: for balancers and scrapers, never behind a key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from app.api import openapi
from app.api.dependencies import GenerationServiceDep, ServicesDep
from app.api.schemas.responses import ResponseModel
from app.errors import Draining, EngineDead, Loading, Overloaded, StoreUnavailable

router = APIRouter(tags=["health"])

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNREADY_ERRORS = {
    "dead": EngineDead("the engine died and the process is about to end"),
    "draining": Draining("this replica is shutting down"),
    "full": Overloaded("the queue holds its limit of candidates"),
    "store": StoreUnavailable("the database does not answer, or a store takes no writes"),
}


class LivenessResponse(ResponseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class ReadinessResponse(ResponseModel):
    """Requests are welcome."""

    status: Literal["ready"] = "ready"


@router.get("/healthz", summary="Whether the process lives")
@router.head("/healthz", include_in_schema=False)
async def healthz() -> LivenessResponse:
    """200 from the first moment, also while the models load: restart the process only when this does not answer."""
    return LivenessResponse()


@router.get("/readyz", summary="Whether requests are welcome", responses=openapi.error_responses(503))
@router.head("/readyz", include_in_schema=False)
async def readyz(service: GenerationServiceDep) -> ReadinessResponse:
    """503 while loading, full, draining or dead, or with a store out of reach: send requests elsewhere.

    While loading, `detail` names the part under way, such as `timing a decode`.
    """
    reason = await service.unready_reason()
    if reason == "loading":
        raise Loading(f"the models are not ready yet: {service.stats().part}", retry_after_s=2)
    if reason is not None:
        raise _UNREADY_ERRORS[reason]
    return ReadinessResponse()


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@router.head("/metrics", include_in_schema=False)
async def metrics(services: ServicesDep) -> Response:
    """In Prometheus' text format."""
    return Response(services.metrics.render(), media_type=METRICS_TYPE)
