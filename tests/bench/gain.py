"""What pruning keeps of the best-of-N gain, and for how much work: races watched whole, every plan replayed on them.

The prompts are not those that calibrated the pack. A replay is exact: a survivor's picture does not depend on who was
dropped, so pruning is a choice among scores that were all measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.cost_model import CostModel
from app.engine.pruning import calibration, planner, replay
from app.engine.pruning.trajectory import Trajectory
from app.engine.trajectories import RecordedGeneration, record_trajectories
from models.protocols import Calibration, Models
from tests.bench.kit import Figure

Array = NDArray[np.float64]
Judge = Callable[[str, NDArray[np.uint8]], Array]
"""A second opinion: scores (N,) of pictures (N, H, W, 3) for a prompt."""

PROMPTS = Path(__file__).parent / "prompts.txt"
QUALITY = 0.97


@dataclass(frozen=True)
class Race:
    """One prompt's field: `previews`, `gaps` (steps, N), `finals` (N,), `judged` (N,) by the second opinion.

    `embeddings` (steps, N, D) are those of the previews, `prompt` (D,) that of the prompt.
    """

    previews: Array
    gaps: Array
    finals: Array
    judged: Array
    embeddings: NDArray[np.floating]
    prompt: NDArray[np.float32]

    def first(self, n: int) -> Race:
        """The race that a request for n candidates would have been."""
        by_step = (self.previews[:, :n], self.gaps[:, :n])
        return Race(*by_step, self.finals[:n], self.judged[:n], self.embeddings[:, :n], self.prompt)


def watched(
    models: Models, prompts: int, n_candidates: int, judge: Judge, progress: Callable[[int], None]
) -> list[Race]:
    """Races of the bench's prompts, every candidate finished."""
    core = EngineCore(models, EngineConfig())
    texts = PROMPTS.read_text().splitlines()[:prompts]
    races = record_trajectories(
        core, models.generator.info, texts, n_candidates=n_candidates, seed=50_000, progress=progress
    )
    return [_race(w, judge) for w in races]


def _race(seen: RecordedGeneration, judge: Judge) -> Race:
    trace = seen.trajectory
    assert trace.embeddings is not None
    assert trace.prompt is not None
    judged = judge(seen.prompt, seen.images)
    return Race(trace.previews, trace.guidance_gaps, trace.finals, judged, trace.embeddings, trace.prompt)


def survivors(race: Race, checkpoints: Sequence[Checkpoint], known: Calibration) -> list[int]:
    """Who is left at the end of a race cut there: the engine's own rule, replayed."""
    embeddings = race.embeddings.astype(np.float16)
    trace = Trajectory(race.previews, race.gaps, race.finals, embeddings, race.prompt)
    return replay.survivors(trace, checkpoints, known)


def kept(races: Sequence[Race], checkpoints: Sequence[Checkpoint], known: Calibration, by: str) -> tuple[float, float]:
    """Share of the gain over the mean that is kept, and its standard error over prompts.

    In the scores named `by`: "finals" or "judged".
    """
    rows = [_gains(race, getattr(race, by), survivors(race, checkpoints, known)) for race in races]
    left, whole = np.transpose(rows)
    share = float(left.sum() / whole.sum())
    return share, float(np.sqrt(((left - share * whole) ** 2).sum()) / whole.sum())


def _gains(race: Race, scores: Array, left: list[int]) -> tuple[float, float]:
    """What the winner of those left, and of all, has above the mean; winners are the ranking scorer's choice."""
    winner, best = left[int(np.argmax(race.finals[left]))], int(np.argmax(race.finals))
    return float(scores[winner] - scores.mean()), float(scores[best] - scores.mean())


def figures(races: Sequence[Race], known: Calibration, costs: CostModel) -> tuple[list[Figure], list[dict[str, float]]]:
    """The gain kept at 16 and 64, and the curve of gain against work for all sizes up to the races'."""
    made, curve = [], []
    largest = len(races[0].finals)
    for n in (4, 8, 16, 32, 64):
        if n > largest:
            break
        fields = [race.first(n) for race in races]
        steps = len(races[0].previews)
        correlations = calibration.correlations_by_step(known, known.sampler, steps)
        plan = planner.PlanInput(n, 1, steps, correlations, costs, loss_ratio=replay.assumed_ratio(known.replay))
        cuts = planner.plan_checkpoints(plan, QUALITY)
        ours, error = kept(fields, cuts, known, "finals")
        gain = float(np.mean([f.finals.max() - f.finals.mean() for f in fields]))
        work = {"work": plan.device_seconds(cuts), "unpruned": plan.device_seconds(())}
        curve.append({"n": n, "prompts": len(races), "kept": ours, **work, "gain": gain})
        if n not in (16, 64):
            continue
        share = round(plan.device_seconds(cuts) / plan.device_seconds(()), 3)
        detail = {
            "cuts": [[c.at, c.keep] for c in cuts],
            "work": share,
            "prompts": len(races),
            "error": round(error, 4),
        }
        made.append(Figure(f"best of {n}, pruned: gain kept", ours, "unpruned", at_least=0.97, detail=detail))
        made.append(_second_opinion(n, fields, cuts, known))
    return made, curve


def _second_opinion(n: int, fields: Sequence[Race], cuts: Sequence[Checkpoint], known: Calibration) -> Figure:
    """The same share by the other judge; with no bound where it sees no clear gain to keep any of."""
    gains = np.asarray([_gains(race, race.judged, list(range(n)))[1] for race in fields])
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
    theirs, _ = kept(fields, cuts, known, "judged")
    bound = 0.93 if gain > 2 * error else None
    detail = {"unpruned_gain": round(gain, 4), "its_error": round(error, 4)}
    return Figure(f"best of {n}, pruned: gain kept, other judge", theirs, "unpruned", at_least=bound, detail=detail)
