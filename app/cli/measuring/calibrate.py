"""`frontrunner calibrate`: traces full races and fits a calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.cli.measuring.configured import (
    check_output,
    choose_model,
    load_models,
    read_prompts,
    served_info,
    typed_errors,
)
from app.cli.measuring.reliability import reliability_plot, reliability_table
from app.domain import Checkpoint
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.cost_model import CostModel
from app.engine.pruning import calibration, replay
from app.engine.pruning.planner import PlanInput, plan_checkpoints
from app.engine.ranking import probability
from app.engine.trajectories import record_trajectories
from app.settings import Settings
from models import calibration_io
from models.guards import artefacts
from models.protocols import Calibration, Embedder, Embeddings, GeneratorInfo, MatchCalibration, ReplayedPlans
from models.protocols.steering import SteeringSettings

NOTHING_TO_PRUNE = (
    "no pruning is possible: the generator makes one step, and candidates are pruned between steps. "
    "The probability of a match is measured."
)

TYPICAL = 16
"""Candidates of the generation whose plan is printed."""

VIEWED = 4
"""Images per prompt of which changed views are embedded, for the noise of a score."""

CHEAP_PREVIEW = 0.1
"""Assumed seconds of a tiny decoder's preview, relative to the autoencoder's."""


def run_calibration(
    prompts: Path | None,
    candidates: int,
    guidance_scale: float | None,
    out: Path,
    console: Console,
    steering: float | None = None,
    plot: Path | None = None,
    name: str | None = None,
) -> None:
    """Calibrate the configured models and write the result to `out`. Raises CliError.

    With a scale of `steering`, steered generations are measured as well. `plot` is a file for the reliability plot.
    `name` is one of several models.
    """
    check_output(out, plot)
    with typed_errors():
        settings = Settings()
        chosen = choose_model(settings, name)
        texts, models = read_prompts(prompts, chosen.generator), load_models(chosen)
        if models.generator.info.steps == 1:
            console.print(NOTHING_TO_PRUNE, soft_wrap=True, highlight=False)
        core = EngineCore(models, EngineConfig())
        with console.status("measuring the device"):
            core.measure()
        info = served_info(models, settings)
        if guidance_scale is not None:
            info = replace(info, guidance_scale=guidance_scale)
        race = partial(_race, core, info, models.scorer, texts, candidates, settings.pruning_quality)
        made = race(None, console)
        if steering is not None:
            made = replace(made, steered=race(SteeringSettings(steering), console))
        costs = {kind: dict(getattr(core.costs, kind)) for kind in ("step", "preview", "finish")}
        measured = {"device": info.device, "prompts": len(texts), **costs}
        document = calibration_io.to_json(made) | {"measured": measured}
        out.write_text(json.dumps(document, indent=1) + "\n")
        if plot is not None and made.match is not None:
            plot.write_text(reliability_plot(made.match))
    console.print(_table(made))
    console.print(_limits(made), soft_wrap=True, highlight=False)
    if made.match is not None:
        known = f"calibration error {made.match.error:.3f}, noise of a score {made.match.noise:.4f}"
        console.print(f"probability of a match: {known}", soft_wrap=True, highlight=False)
        console.print(reliability_table(made.match))
    if made.steps > 1:
        console.print(_replayed(made.replay), soft_wrap=True, highlight=False)
    outlook = _outlook(made, core.costs, settings.pruning_quality, tiny=bool(chosen.preview_decoder))
    console.print(outlook, soft_wrap=True, highlight=False)
    use = f"FRONTRUNNER_CALIBRATION={out}" if name is None else f"calibration = {json.dumps(str(out))} in its table"
    console.print(f"wrote {out}; serve with {use}", soft_wrap=True, highlight=False)


def _race(
    core: EngineCore,
    info: GeneratorInfo,
    scorer: Embedder,
    texts: Sequence[str],
    candidates: int,
    quality: float,
    steering: SteeringSettings | None,
    console: Console,
) -> Calibration:
    """Run every prompt in full, and fit the calibration.

    With the limits of artefacts, the probability of a match, and what plans for `quality` keep.
    """
    trajectories, statistics, shown = [], [], []
    with Progress(console=console) as progress:
        task = progress.add_task("racing" if steering is None else "racing, steered", total=len(texts))
        recordings = record_trajectories(
            core,
            info,
            texts,
            n_candidates=candidates,
            steering=steering,
            progress=lambda done: progress.update(task, completed=done),
        )
        for race in recordings:
            trajectories.append(race.trajectory)
            statistics += [artefacts.measure(image) for image in race.images]
            views = [view for image in race.images[:VIEWED] for view in probability.views_of(image)]
            vectors = scorer.embed_images(np.stack(views))
            viewed = vectors.reshape(min(VIEWED, len(race.images)), -1, vectors.shape[1])
            shown.append((race.outcome.embeddings, race.outcome.query.prompt, viewed))
    made = calibration.fit_calibration(trajectories, info, scorer.info)
    settings = None if steering is None else (steering.scale, steering.start, steering.end)
    with console.status("replaying plans"):
        kept = replay.replay_plans(trajectories, info, scorer.info, core.costs, quality)
    limits, match = artefacts.fit_limits(statistics), _match(shown, console)
    return replace(made, artefacts=limits, steering=settings, match=match, replay=kept)


def _match(
    shown: Sequence[tuple[Embeddings, NDArray[np.float32], NDArray[np.float32]]], console: Console
) -> MatchCalibration | None:
    """The probability of a match; None where it cannot be fitted.

    `shown` holds images, text and views of each prompt.
    """
    images, texts, views = (np.stack(each) for each in zip(*shown, strict=True))
    try:
        return probability.fit_match(images, texts, views)
    except ValueError as error:
        console.print(f"no probability of a match: {error}", soft_wrap=True, highlight=False)
        return None


def _outlook(made: Calibration, costs: CostModel, quality: float, *, tiny: bool) -> str:
    """The plan on this device, and whether a tiny decoder would pay."""
    correlations = calibration.correlations_by_step(made, made.sampler, made.steps)

    def planned(costs: CostModel) -> tuple[tuple[Checkpoint, ...], float]:
        """The plan, and the share of the device's seconds that it takes."""
        ratio = replay.assumed_ratio(made.replay)
        asked = PlanInput(TYPICAL, 1, made.steps, correlations, costs, loss_ratio=ratio)
        plan = plan_checkpoints(asked, quality)
        return plan, asked.device_seconds(plan) / asked.device_seconds(())

    plan, share = planned(costs)
    cuts = " and ".join(f"after step {c.at} to {c.keep}" for c in plan)
    what = f"cuts {cuts} and takes {share:.2f} of the device time" if plan else "prunes nothing: no cut pays"
    advice = ""
    if not tiny:
        cheap = replace(costs, preview=tuple((rows, CHEAP_PREVIEW * seconds) for rows, seconds in costs.preview))
        better = planned(cheap)[1]
        if better < share - 0.02:
            advice = f"; with a tiny decoder (FRONTRUNNER_PREVIEW_DECODER) about {better:.2f}"
    return f"best of {TYPICAL} in {made.steps} steps: pruning {what}{advice}"


def _replayed(kept: ReplayedPlans | None) -> str:
    """What plans keep on prompts that they were not made from, and what they assume."""
    if kept is None:
        return "plans were not replayed: no cut pays on this device, or the previews say too little"
    plans = f"plans for the best of {kept.candidates} keep {kept.kept:.3f} (standard error {kept.kept_error:.3f})"
    of = f"of the gain on {kept.prompts} prompts that they were not made from, where {kept.quality:g} is required"
    loss = f"the loss is {kept.loss_ratio:.2f} times the modelled one (standard error {kept.loss_ratio_error:.2f})"
    assumed = replay.assumed_ratio(kept)
    limited = ", the maximum: measure more prompts to prune harder" if assumed == replay.MAX_RATIO else ""
    return f"{plans} {of}; {loss}, and plans assume {assumed:.2f}{limited}"


def _limits(made: Calibration) -> str:
    limits = asdict(made.artefacts) if made.artefacts is not None else {}
    return "limits of the artefact guard: " + ", ".join(f"{name} {value:g}" for name, value in limits.items())


def _table(made: Calibration) -> Table:
    """The calibration by step, with what the preview head gains where there is one."""
    table, head = Table(box=None, header_style="dim", pad_edge=False), made.head
    for name in ("step", "spearman", "corrected", *(("linear error", "head error", "predicts") if head else ())):
        table.add_column(name, justify="right")
    for step in range(made.steps):
        row = [f"{step + 1}/{made.steps}", f"{made.spearman[step]:.3f}", f"{made.correlation[step]:.3f}"]
        if head is not None:
            row += [f"{head.linear_error[step]:.5f}", f"{head.head_error[step]:.5f}"]
            row.append("head" if head.used[step] else "linear fit")
        table.add_row(*row)
    return table
