"""Progress and interruption of the caller's requests."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from app.api import openapi
from app.api.compat.a1111.jobs import get_jobs, open_jobs
from app.api.compat.a1111.types import ProgressResponse, ProgressState
from app.api.dependencies import GenerationServiceDep
from app.errors import NotFound
from app.service import GenerationService, current_owner

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])

MIN_PROGRESS = 0.01
"""Progress of a request that has made no step; 0 means that there is no request."""


@router.get("/progress", summary="Progress of your requests (A1111 API)", responses=openapi.error_responses(422, 503))
async def read_progress(
    request: Request,
    service: GenerationServiceDep,
    skip_current_image: Annotated[bool, Query(description="Omit the preview.")] = False,
) -> ProgressResponse:
    """The mean progress of the requests of this key, on all replicas.

    `current_image` is the best preview of the oldest one.
    """
    jobs = await open_jobs(request, service)
    if not jobs:
        return ProgressResponse()
    first = jobs[0]
    for job in {first, *get_jobs(request).of(current_owner())}:
        with suppress(NotFound):  # deleted meanwhile
            for event in await service.known_events(job.generation_id, job.seq):
                job.read(event)
    progress = max(MIN_PROGRESS, sum(job.share for job in jobs) / len(jobs))
    elapsed = time.time() - first.created
    preview = None if skip_current_image or first.preview is None else str(first.preview["image"])
    return ProgressResponse(
        progress=progress,
        eta_relative=max(0.0, elapsed / progress - elapsed),
        state=ProgressState(
            interrupted=any(job.interrupted for job in jobs),
            job=first.kind,
            job_count=len(jobs),
            job_timestamp=datetime.fromtimestamp(first.created, UTC).strftime("%Y%m%d%H%M%S"),
            sampling_step=first.step,
            sampling_steps=first.steps,
        ),
        current_image=preview.partition(",")[2] if preview else None,
    )


@router.post("/interrupt", summary="End your requests (A1111 API)", responses=openapi.error_responses(503))
async def interrupt(request: Request, service: GenerationServiceDep) -> dict[str, Any]:
    """Ends the requests of this key, on all replicas.

    Each responds with its best preview, or without an image if there is none. Nothing is charged.
    """
    await _end_jobs(request, service)
    return {}


@router.post("/skip", summary="End your requests (A1111 API)", responses=openapi.error_responses(503))
async def skip(request: Request, service: GenerationServiceDep) -> None:
    """The same as `interrupt`: all candidates of a request are sampled at once."""
    await _end_jobs(request, service)


async def _end_jobs(request: Request, service: GenerationService) -> None:
    for job in await open_jobs(request, service):
        job.interrupted = True
        with suppress(NotFound):
            await service.cancel(job.generation_id)
