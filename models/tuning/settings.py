"""Settings of a tuning run, and its errors."""

from __future__ import annotations

import hashlib
import json
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

RESUMABLE = ("iterations", "minutes", "rows", "evaluate_every")
"""Settings that may change when a run resumes."""


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
        counts = ("iterations", "prompts", "timesteps", "batch", "accumulation", "rows", "rank", "alpha")
        for name in (*counts, "evaluate_every"):
            if getattr(self, name) < 1:
                raise TuningError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("candidates", "evaluated"):
            if getattr(self, name) < 2:
                raise TuningError(f"{name} must be at least 2, not {getattr(self, name)}: rewards compare candidates")
        for name in ("rate", "beta"):
            if not 0 < getattr(self, name) <= 1:
                raise TuningError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if not 0 <= self.decay < 1 or self.kl < 0 or not 0 <= self.seed < 2**32:
            raise TuningError("decay must be in [0, 1), kl at least 0, and seed in [0, 2^32)")

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with every setting but `RESUMABLE` ones."""
        kept = {name: value for name, value in asdict(self).items() if name not in RESUMABLE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
