"""Settings of a tuning run, and its errors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Method: TypeAlias = Literal["nft", "bon"]
"""How an adapter learns.

`nft`: DiffusionNFT, online, from good and bad candidates. `bon`: best-of-N distillation, from the good candidates of
the base.
"""

Layers: TypeAlias = Literal["attention", "wide"]
"""Which layers get adapters: attention, or also projections and convolutions."""

MIN_PROMPTS = 8
"""Fewest prompts: a quarter of them is held out, and intervals are over prompts."""

RESUMABLE = ("iterations", "minutes", "rows", "evaluate_every", "checkpointing")
"""Settings that may change when a run resumes."""


_LEAST = dict.fromkeys(("iterations", "prompts", "timesteps", "batch", "accumulation", "rows", "rank", "alpha"), 1)
_LEAST |= dict.fromkeys(("evaluate_every", "steps", "width", "height"), 1) | {"candidates": 2, "evaluated": 2}
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "rate": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "beta": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "decay": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "kl": (lambda value: 0 <= value < math.inf, "at least 0 and finite"),
    "guidance": (lambda value: 0 <= value < math.inf, "at least 0 and finite"),
    "minutes": (lambda value: 0 < value < math.inf, "above 0 and finite"),
    "seed": (lambda value: 0 <= value < 2**32, "at least 0 and below 2^32"),
}


class TuningError(RuntimeError):
    """A run cannot start or continue. The message can be shown to users."""


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """What a run does; defaults are those of DiffusionNFT (arXiv 2509.16117).

    Every iteration samples `candidates` for each of `prompts` prompts, and trains on `timesteps` noise levels of each.
    `batch` rows make a denoiser call of training, `accumulation` calls an optimizer step. `rows` are those of a call of
    sampling. `rank` and `alpha` are LoRA's, `rate` is AdamW's, `beta` the step from the previous policy, `kl` the
    weight of the distance to the base. `decay` is that of the average of adapters, which is the result. `steps`,
    `guidance`, `sampler`, `width` and `height` are those of sampling; None: the model's defaults. Every
    `evaluate_every` iterations, the held-out prompts are measured with `evaluated` candidates each. `minutes` bounds
    the run: then the last measurement begins.
    """

    method: Method = "nft"
    iterations: int = 100
    prompts: int = 48
    candidates: int = 24
    timesteps: int = 2
    batch: int = 16
    accumulation: int = 4
    rows: int = 16
    rate: float = 3e-4
    rank: int = 32
    alpha: int = 64
    layers: Layers = "attention"
    beta: float = 1.0
    kl: float = 1e-4
    decay: float = 0.9
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    width: int | None = None
    height: int | None = None
    evaluate_every: int = 10
    evaluated: int = 16
    checkpointing: bool = False
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Raise TuningError for a value out of range."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise TuningError(f"{name} must be at least {least}, not {value}")
        for name, (is_allowed, text) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not is_allowed(value):
                raise TuningError(f"{name} must be {text}, not {value}")

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with every setting but `RESUMABLE` ones."""
        kept = {name: value for name, value in asdict(self).items() if name not in RESUMABLE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
