"""Response types of lists of generations, and their cursors."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Literal

from app.api.schemas.base import ResponseModel
from app.api.schemas.responses import FailureOutput
from app.domain import Generation
from app.service import PageMark, image_path

_LISTED_ID = re.compile(r"[a-z]{1,16}_[0-9A-Z]{26}")


class ImageSummary(ResponseModel):
    """A returned image of a listed generation."""

    rank: int
    index: int
    seed: int
    score: float
    url: str


class GenerationSummary(ResponseModel):
    """A listed generation; `GET /v1/generations/{id}` has all of it."""

    id: str
    object: Literal["generation"] = "generation"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    started: float | None
    finished: float | None
    progress: float
    model: str
    prompt: str
    seed: int
    n_candidates: int
    n: int
    data: list[ImageSummary]
    error: FailureOutput | None

    @classmethod
    def from_domain(cls, generation: Generation) -> GenerationSummary:
        """Convert from the domain."""
        spec, failure = generation.spec, generation.failure
        return cls(
            id=generation.id,
            status=generation.status.value,
            created=int(generation.created),
            started=generation.started,
            finished=generation.finished,
            progress=generation.completed,
            model=generation.model,
            prompt=spec.prompt,
            seed=spec.seed,
            n_candidates=spec.n_candidates,
            n=spec.n,
            data=[
                ImageSummary(
                    rank=c.rank or 0,
                    index=c.index,
                    seed=c.seed,
                    score=c.score.score,
                    url=image_path(generation.id, c.index, generation.output_format),
                )
                for c in generation.best
                if c.score is not None
            ],
            error=FailureOutput(code=failure.code, message=failure.detail) if failure else None,
        )


class GenerationListResponse(ResponseModel):
    """A page of generations, newest first.

    `next` is the `after` of the next page; null on the last page.
    """

    object: Literal["list"] = "list"
    data: list[GenerationSummary]
    has_more: bool
    next: str | None


def encode_cursor(created: float, last_id: str) -> str:
    """The cursor of the page that follows the entry of this time and id."""
    return base64.urlsafe_b64encode(f"{created!r} {last_id}".encode()).decode("ascii").rstrip("=")


def decode_cursor(cursor: str) -> PageMark:
    """The place that a cursor names. Raises ValueError."""
    try:
        created, id_ = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").split(" ")
        mark = PageMark(float(created), id_)
    except (binascii.Error, ValueError):
        mark = PageMark(math.nan, "")
    if not math.isfinite(mark.created) or not _LISTED_ID.fullmatch(mark.id):
        raise ValueError("not a cursor of this list: send the `next` of the previous page")
    return mark
