"""The model calls of some work of the engine, kept, and made again with nothing round them: the floor of the software.

A kept call is the network's own forward on the very tensors that the engine gave it, ready made: what scales, guides,
resizes or rounds before and after it is the software's. Calls are recorded and shared among the cores as the engine's
are, for any other way of making them is slower and would flatter it. Texts are encoded once each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch

from models.protocols import Models
from models.scorers.batching import arithmetic

Calls: TypeAlias = dict[str, list[Callable[[], Any]]]
"""What was called, by the part of the model."""


@contextmanager
def kept(models: Models) -> Iterator[Calls]:
    """Holds at its end the calls that were made meanwhile, in their order; of diffusers and open_clip models.

    Pictures are resized and normalised for the image tower when it ends, so that the engine is not held up.
    """
    generator, scorer = list[Any]([models.generator, models.scorer])
    calls: Calls = {"denoiser": [], "decoder": [], "image tower": [], "text encoder": []}
    pictures: list[tuple[Any, dict[str, Any]]] = []

    def sampled(work: Any, *inputs: Any, **settings: Any) -> Any:
        part = calls["denoiser" if work is generator._denoiser else "decoder"]
        part.append(partial(placed[0].parallel, work, *inputs, **settings))
        return placed[0].parallel(work, *inputs, **settings)

    def scored(work: Any, images: Any, **settings: Any) -> Any:
        pictures.append((images, settings))
        return placed[1].parallel(work, images, **settings)

    def read(module: Any, inputs: Any, settings: Any) -> None:
        calls["text encoder"].append(partial(module, *inputs, **settings))

    placed = generator._placement, scorer._placement
    generator._placement, scorer._placement = replace(placed[0], parallel=sampled), replace(placed[1], parallel=scored)
    encoders = {id(each): each for each in (generator._family.pipe.text_encoder, scorer._model.text.transformer)}
    hooks = [each.register_forward_pre_hook(read, with_kwargs=True) for each in encoders.values()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        generator._placement, scorer._placement = placed
    with torch.inference_mode():
        ready = [(scorer._preprocess(images), settings) for images, settings in pictures]
    calls["image tower"] += [partial(_tower, scorer, placed[1].parallel, *each) for each in ready]


def _tower(scorer: Any, parallel: Any, pixels: Any, settings: dict[str, Any]) -> Any:
    with arithmetic(scorer._placement):
        return parallel(scorer._embedded, pixels, **settings)


@torch.inference_mode()
def seconds(calls: Calls) -> dict[str, float]:
    """Wall seconds of making the kept calls again, by the part of the model."""
    took = {}
    for part, each in calls.items():
        started = time.perf_counter()
        for call in each:
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took[part] = time.perf_counter() - started
    return took
