"""Tuning of tiny pipelines by rewards that need no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.generators.adapters import Adapters
from models.generators.native import NativeGenerator
from models.loras import LoraFolder
from models.protocols import Pixels, to_host
from models.runtime.placement import prepare_process, select_device
from models.tuning.rewards import Opinion, Scores
from models.tuning.settings import TuningSettings
from models.tuning.task import Prompts, TuningTask
from tests.contract.families import FAMILIES

PROMPTS = Prompts(("a", "b"), ("c", "d"), ("e", "f"))
QUICK = TuningSettings(
    iterations=2, prompts=1, candidates=3, timesteps=1, batch=6, accumulation=1, rows=6, evaluate_every=1, evaluated=2,
    steps=2, rank=4, alpha=8, rate=1e-2, guidance=1.0,
)  # fmt: skip


def tiny(family: str, loras: LoraFolder | None = None) -> NativeGenerator:
    prepare_process()
    pipe, size = FAMILIES[family].build(family), FAMILIES[family].size
    placement = select_device("cpu").untraced()
    defaults = {"width": size, "height": size}
    arguments, adapters = dict(FAMILIES[family].arguments), Adapters(pipe, loras)
    return NativeGenerator(pipe, placement, id=family, defaults=defaults, arguments=arguments, adapters=adapters)


def redness(_prompt: str, images: Pixels) -> Scores:
    levels = to_host(images).astype(np.float64)
    return np.asarray((levels[..., 0] - levels[..., 1:].mean(-1)).mean((1, 2)))


def red_share(_prompt: str, images: Pixels) -> Scores:
    levels = to_host(images).astype(np.float64) + 1
    return np.asarray((levels[..., 0] / levels.sum(-1)).mean((1, 2)))


def contrast(_prompt: str, images: Pixels) -> Scores:
    return np.asarray(to_host(images).astype(np.float64).mean(-1).std((1, 2)))


def opinion(id: str, score: Callable[[str, Pixels], Scores]) -> Opinion:
    return Opinion(id, f"{id}-1", score)


def task(generator: Any, out: Path, settings: TuningSettings = QUICK, **changes: Any) -> TuningTask:
    """Redness rewards; the referee agrees."""
    usual = {"reward": opinion("redness", redness), "referee": opinion("red share", red_share), "prompts": PROMPTS}
    return TuningTask(generator, out=out, settings=settings, **{**usual, **changes})
