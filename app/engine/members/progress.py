"""What rows do next, after a denoiser call and at a checkpoint.

Engine thread only.
"""

from __future__ import annotations

from collections.abc import Iterable

from app.engine.pruning import checkpoints
from app.engine.state import ActiveGeneration, Phase, Row


def advance_rows(rows: Iterable[Row]) -> None:
    """Count one denoiser call of each row.

    After the last call of a step, its next phase is set: steering, if it is due.
    """
    for row in rows:
        run, row.calls = row.generation, row.calls + 1
        assert run.schedule is not None
        if run.first_call + row.calls < run.schedule.calls_before(run.skipped_steps + row.step + 1):
            continue
        row.step += 1
        row.phase = Phase.STEER if row.step in run.steered_steps else row.phase_after_step


def apply_checkpoint(run: ActiveGeneration) -> list[Row]:
    """Prune once all live rows are at a checkpoint; return the dropped rows.

    The best by preview go on.
    Shadow generations drop no row: they mark the rows that pruning would have dropped.
    """
    live = run.live_rows()
    if not live or any(r.phase is not Phase.AT_CHECKPOINT for r in live):
        return []
    checkpoint = next(c for c in run.spec.checkpoints if c.at == live[0].step)
    contenders = [r for r in live if not r.shadow_pruned]
    survivors = set(checkpoints.select_survivors([r.predicted_scores[checkpoint.at] for r in contenders], checkpoint))
    dropped = [r for place, r in enumerate(contenders) if place not in survivors]
    for row in live:
        row.phase = Phase.STEP
    for row in dropped:
        if run.spec.shadow:
            row.shadow_pruned = True
        else:
            row.phase, row.pruned_at = Phase.PRUNED, row.step
    return [] if run.spec.shadow else dropped
