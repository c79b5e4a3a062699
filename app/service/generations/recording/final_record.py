"""The record, files and last events of a generation that ends."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import EventKind, Failure, Generation, Status
from app.engine.notices import shortfall_notices
from app.engine.protocols import Failed, Outcome, Previewed, Succeeded, Update
from app.service.candidates.images import resized
from app.service.candidates.keys import arrays_key, file_metadata, image_key, truncation_notices
from app.service.candidates.upscaling import UPSCALED
from app.service.generations.event_log import progress_after
from app.stores.protocols import NewEvent


def build_final(
    generation: Generation,
    updates: Sequence[Update],
    now: float,
    lines: Callable[[Sequence[Update]], list[NewEvent]],
) -> tuple[Generation, dict[str, bytes], list[NewEvent]]:
    """The final record, its files, and the last events."""
    progress = progress_after(updates, generation.progress)
    generation = replace(generation, finished=now, started=generation.started or now, progress=progress)
    files = dict[str, bytes]()
    last = updates[-1]
    if isinstance(last, Succeeded):
        generation, files = _succeeded(generation, last.outcome)
    elif isinstance(last, Failed):
        failure = Failure(last.error.code, last.error.detail)
        generation = replace(generation, status=Status.FAILED, failure=failure)
    else:
        generation = replace(generation, status=Status.CANCELLED)
    return generation, files, [*lines(updates[:-1]), closing_line(generation)]


def pixels_to_encode(generation: Generation, updates: Sequence[Update], *, previews: bool) -> int:
    """Pixels and numbers that `build_final` encodes, with the images of `previews`.

    Result images are scaled to the files' size before that.
    """
    shown = [_pixels(each.image) for each in updates if previews and isinstance(each, Previewed)]
    last = updates[-1]
    if isinstance(last, Succeeded):
        width, height = generation.output_size or (0, 0)
        shown += [max(_pixels(image), width * height) for image in last.outcome.images.values()]
        shown += [int(last.outcome.latents.size + last.outcome.embeddings.size)]
    return sum(shown)


def _pixels(image: NDArray[np.uint8]) -> int:
    return int(image.shape[0] * image.shape[1])


def _succeeded(generation: Generation, outcome: Outcome) -> tuple[Generation, dict[str, bytes]]:
    generation = replace(
        generation,
        status=Status.SUCCEEDED,
        candidates=outcome.candidates,
        margin=outcome.margin,
        margin_error=outcome.margin_error,
        low_confidence=outcome.low_confidence,
        stopped=outcome.stopped,
        agreement=outcome.agreement,
        judged=outcome.judged,
        referee=outcome.referee,
        warnings=(*generation.warnings, *outcome.notices, *shortfall_notices(generation.spec, outcome.candidates)),
        timings=outcome.timings,
        work=outcome.work,
    )
    output_format = generation.output_format
    upscaler = next((n.data["upscaler"] for n in generation.warnings if n.code == UPSCALED), None)
    metadata = {c.index: file_metadata(generation, c, upscaler) for c in generation.best}
    generation = replace(
        generation, warnings=(*generation.warnings, *truncation_notices(output_format, metadata.values()))
    )
    files = {
        image_key(generation.id, c.index, output_format): imaging.encode(
            resized(outcome.images[c.index], generation), output_format, metadata[c.index]
        )
        for c in generation.best
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"embeddings": outcome.embeddings, "latents": outcome.latents, **outcome.members}
    np.savez(buffer, **arrays)
    return generation, {**files, arrays_key(generation.id): buffer.getvalue()}


def closing_line(generation: Generation) -> NewEvent:
    """The event that closes the log; the record holds the result."""
    data: dict[str, Any] = {"status": str(generation.status)}
    if generation.failure is not None:
        data["failure"] = {"code": generation.failure.code, "detail": generation.failure.detail}
    return NewEvent(EventKind(str(generation.status)), data)
