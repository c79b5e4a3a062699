"""Survivors of a checkpoint: pure functions over preview scores."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain import Checkpoint
from app.engine.ranking.scoring import rank_order


def select_survivors(scores: Sequence[float], checkpoint: Checkpoint) -> list[int]:
    """Return the survivors' places, ascending: the best `checkpoint.keep`, or all."""
    if checkpoint.keep is None or checkpoint.keep >= len(scores):
        return list(range(len(scores)))
    return sorted(rank_order(scores)[: checkpoint.keep])


def find_problem(checkpoints: Sequence[Checkpoint], *, steps: int, n_candidates: int, n: int) -> tuple[int, str] | None:
    """Validate checkpoints; return the first bad place and a message, or None."""
    last, live = 0, n_candidates
    for place, checkpoint in enumerate(checkpoints):
        if checkpoint.at <= last:
            return place, f"at must increase from checkpoint to checkpoint; at={checkpoint.at} follows at={last}"
        if checkpoint.at >= steps:
            return place, f"`at` must be less than the number of steps, {steps}"
        if checkpoint.keep is not None and checkpoint.keep > live:
            return place, f"`keep` must be at most {live}, the number of candidates left at this checkpoint"
        if checkpoint.keep is not None and checkpoint.keep < n:
            return place, f"keep={checkpoint.keep} must be at least n={n}, the number of images to return"
        last, live = checkpoint.at, checkpoint.keep or live
    return None


def with_preview_rounds(rounds: int, steps: int, checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Add `rounds` evenly spaced preview-only checkpoints where pruning has none."""
    taken = {c.at for c in checkpoints}
    steps_wanted = {round(steps * (i + 1) / (rounds + 1)) for i in range(rounds)}
    extra = [Checkpoint(at) for at in sorted(steps_wanted) if 0 < at < steps and at not in taken]
    return tuple(sorted([*checkpoints, *extra], key=lambda c: c.at))
