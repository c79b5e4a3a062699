"""Health and metrics routes for load balancers and scrapers; no key is needed."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.api import openapi
from app.api.dependencies import ServicesDep
from app.api.schemas.base import ResponseModel, is_absent
from app.engine.registry import ModelStateName
from app.errors import Draining, EngineDead, Loading, Overloaded, StoreUnavailable

router = APIRouter(tags=["health"])

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNREADY_ERRORS = {
    "dead": EngineDead("the engine died and the process is ending: use another replica"),
    "draining": Draining("this replica is shutting down: use another replica"),
    "full": Overloaded("the queue is full: retry after the interval in `Retry-After`"),
    "store": StoreUnavailable("the database or a store is unavailable: retry after the interval in `Retry-After`"),
}


class LivenessResponse(ResponseModel):
    """The process responds."""

    status: Literal["alive"] = "alive"


class ReadinessResponse(ResponseModel):
    """The replica accepts requests.

    `models`: with several models, whether each is `loaded`, `loading`, `failed`, or `waiting` for its first request.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    status: Literal["ready"] = "ready"
    models: dict[str, ModelStateName] | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)


@router.get("/healthz", summary="Liveness")
@router.head("/healthz", include_in_schema=False)
async def healthz() -> LivenessResponse:
    """200 from the start, also while models load.

    Restart the process only when this does not respond.
    """
    return LivenessResponse()


@router.get("/readyz", summary="Readiness", responses=openapi.error_responses(503))
@router.head("/readyz", include_in_schema=False)
async def readyz(services: ServicesDep) -> ReadinessResponse:
    """503 while loading, full, draining or dead, or when a store is unavailable.

    Send requests to another replica then. While loading, `detail` names the current step, such as `timing a decode`.
    With several models the replica is ready when no resident one is loading, one can be used, and other replicas can
    find them. `models` has the state of each.
    """
    registry = services.models.registry
    stats = registry.stats()
    reason = await services.generations.unready_reason(stats)
    if reason == "loading":
        raise Loading(f"the models are not ready yet: {stats.part}", retry_after_s=2)
    if reason is not None:
        raise _UNREADY_ERRORS[reason]
    if not services.models.announced:
        raise Loading("the models are being announced to other replicas: retry after a second", retry_after_s=1)
    states = {state.id: state.state for state in registry.states()}
    return ReadinessResponse(models=states) if registry.several else ReadinessResponse()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@router.head("/metrics", include_in_schema=False)
async def metrics(services: ServicesDep) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(services.metrics.render(), media_type=METRICS_TYPE)
