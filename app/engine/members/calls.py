"""One-off calls for an engine's clients.

Owns their errors, and the groups of images of one size.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.errors import EngineFailed, FrontrunnerError, TooLarge
from models.errors import ScoringFailed
from models.protocols import Embedder, OutOfMemory, Scorer, StepwiseGenerator

log = logging.getLogger(__name__)

EMBED_ROWS = 32
"""Maximum images per embedding call, so that uploads do not block the device."""

SCORE_ROWS = 8
"""The same for a scorer without embeddings, which takes longer per image."""

REMOTE_CALLS = 64
"""Maximum calls of remote scorers that wait at once."""

_remote_calls = ThreadPoolExecutor(REMOTE_CALLS, "remote-scorer")
"""Threads of their own: a slow endpoint must not take those of files and images."""

Image: TypeAlias = NDArray[np.uint8]
OnDevice: TypeAlias = Callable[[Callable[..., Any]], Awaitable[Any]]
"""Makes a call between two ticks; the call is given generator and main scorer."""


def one_off(
    call: Callable[[StepwiseGenerator, Embedder], Any], settle: Callable[[Any, FrontrunnerError | None], None]
) -> Callable[[StepwiseGenerator, Embedder], None]:
    """A call for the engine's thread.

    `settle` gets its result, or the error for the client.
    """

    def work(generator: StepwiseGenerator, scorer: Embedder) -> None:
        try:
            result = call(generator, scorer)
        except OutOfMemory:
            settle(None, TooLarge("the image is too large for the device memory: send it with fewer pixels"))
        except FrontrunnerError as error:
            settle(None, error)
        except Exception as error:
            log.exception("one-off device call failed")
            settle(None, EngineFailed(f"the device call failed ({type(error).__name__})"))
        else:
            settle(result, None)

    return work


async def embed_images(on_device: OnDevice, scorer: Embedder, images: Sequence[Image]) -> NDArray[np.float32]:
    """Embed images (H, W, 3) of any sizes, in order. Images of one size share a call."""
    return await _by_size(images, EMBED_ROWS, lambda part: on_device(lambda *_: scorer.embed_images(_stack(part))))


async def score_images(on_device: OnDevice, scorer: Scorer, images: Sequence[Image], text: str) -> NDArray[np.float32]:
    """Score images (H, W, 3) of any sizes, in order: float32 (N,).

    Raises ScoringFailed.

    A remote scorer is called on a thread for such calls, once per size; any other one on the device.
    """
    score = partial(_score, scorer, text)
    if scorer.info.remote:
        threads = asyncio.get_running_loop()
        found = await _by_size(images, len(images), lambda part: threads.run_in_executor(_remote_calls, score, part))
    else:
        found = await _by_size(images, SCORE_ROWS, lambda part: on_device(lambda *_: score(part)))
    return found


async def _by_size(
    images: Sequence[Image], most: int, call: Callable[[list[Image]], Awaitable[Any]]
) -> NDArray[np.float32]:
    """The results of calls of at most `most` images of one size.

    They are in the order of the images.
    """
    results: dict[int, Any] = {}
    places = sorted(range(len(images)), key=lambda i: images[i].shape)
    for _, same in groupby(places, key=lambda i: images[i].shape):
        group = list(same)
        for start in range(0, len(group), most):
            part = group[start : start + most]
            found = await call([images[i] for i in part])
            if isinstance(found, ScoringFailed):
                raise found
            results.update(zip(part, found, strict=True))
    return np.stack([results[i] for i in range(len(images))])


def _score(scorer: Scorer, text: str, images: list[Image]) -> NDArray[np.float32] | ScoringFailed:
    """The scores, or the failure as a value.

    An engine takes exceptions for its own faults.
    """
    try:
        return scorer.score(_stack(images), text)
    except ScoringFailed as error:
        return error


def _stack(images: Sequence[Image]) -> Image:
    """Stack on the engine's thread: large images would block the event loop.

    A single image is not copied.
    """
    return images[0][None] if len(images) == 1 else np.stack(images)
