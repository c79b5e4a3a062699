"""Records full trajectories: previews after every step and final images, unpruned.

Owns the run of one generation without a service. For calibration, sweeps and benchmarks. Synchronous; drives its own
core on the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint, GenerationSpec
from app.engine.core import EngineCore
from app.engine.protocols import Failed, Outcome, Previewed, Succeeded, Update
from app.engine.pruning.trajectory import Trajectory
from app.errors import EngineFailed
from models.protocols import GeneratorInfo
from models.protocols.steering import SteeringSettings


@dataclass(frozen=True, slots=True, eq=False)
class RecordedGeneration:
    """A race with its trace. `images` uint8 (N, H, W, 3), final, by index."""

    prompt: str
    trajectory: Trajectory
    outcome: Outcome
    images: NDArray[np.uint8]


def record_trajectories(
    core: EngineCore,
    info: GeneratorInfo,
    prompts: Sequence[str],
    *,
    n_candidates: int,
    seed: int = 0,
    steering: SteeringSettings | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[RecordedGeneration]:
    """Run one race per prompt at the generator's defaults and yield it with its trace.

    `progress` receives the number of completed races. Raises the engine's own error when a race fails, and
    EngineFailed when a score is not a number.
    """
    for done, prompt in enumerate(prompts):
        spec = replace(
            default_spec(info, f"trace_{done}", prompt, n_candidates, seed + done * n_candidates),
            checkpoints=tuple(Checkpoint(at) for at in range(1, info.steps)),
            steering=steering,
        )
        yield _record(core, spec)
        progress(done + 1)


def default_spec(info: GeneratorInfo, name: str, prompt: str, n_candidates: int, seed: int) -> GenerationSpec:
    """A generation at the generator's defaults; it returns all candidates.

    They are spread over the generator's styles if it says so, and the prompt names none.
    """
    wordings = info.styles.wordings(prompt) if info.styles is not None else ()
    return GenerationSpec(
        id=name,
        prompt=prompt,
        negative_prompt="",
        n_candidates=n_candidates,
        n=n_candidates,
        width=info.width,
        height=info.height,
        steps=info.steps,
        guidance_scale=info.guidance_scale,
        sampler=info.sampler,
        seed=seed,
        wordings=wordings,
        spread=bool(wordings),
    )


def run_generation(core: EngineCore, spec: GenerationSpec, note: Callable[[Update], None] = lambda _: None) -> Outcome:
    """Run one generation to its end on this thread, with no other beside it.

    `note` receives every update. Raises the engine's own error if the generation fails.
    """
    return run_generations(core, [spec], note)[0]


def run_generations(
    core: EngineCore, specs: Sequence[GenerationSpec], note: Callable[[Update], None] = lambda _: None
) -> list[Outcome]:
    """Run generations of different ids to their ends on this thread, together.

    Their rows share calls. Raises the engine's own error if one of them fails.
    """
    for spec in specs:
        core.submit(spec, perf_counter())
    found = dict[str, Outcome]()
    while not core.idle:
        for name, update in core.tick():
            note(update)
            if isinstance(update, Failed):
                raise update.error
            if isinstance(update, Succeeded):
                found[name] = update.outcome
    if len(found) < len(specs):
        raise EngineFailed("a generation was cancelled while it ran")
    return [found[spec.id] for spec in specs]


def _record(core: EngineCore, spec: GenerationSpec) -> RecordedGeneration:
    previews = np.zeros((spec.steps, spec.n_candidates))
    gaps = np.zeros_like(previews)
    vectors: dict[tuple[int, int], NDArray[np.float16]] = {}

    def note(update: Update) -> None:
        if isinstance(update, Previewed):
            previews[update.step - 1, update.index] = update.score.score
            gaps[update.step - 1, update.index] = update.guidance_gap
            vectors[update.step - 1, update.index] = update.embedding.astype(np.float16)

    outcome = run_generation(core, spec, note)
    scores = [c.score.score for c in outcome.candidates if c.score is not None]
    if len(scores) < spec.n_candidates:
        raise EngineFailed(
            f"{spec.n_candidates - len(scores)} of {spec.n_candidates} candidates have no score: check the scorer"
        )
    previews[-1] = finals = np.asarray(scores)
    embeddings = np.zeros((*previews.shape, outcome.embeddings.shape[1]), np.float16)
    for place, vector in vectors.items():
        embeddings[place] = vector
    embeddings[-1] = outcome.embeddings
    images = np.stack([outcome.images[i] for i in range(spec.n_candidates)])
    trajectory = Trajectory(previews, gaps, finals, embeddings, outcome.query.prompt)
    return RecordedGeneration(spec.prompt, trajectory, outcome, images)
