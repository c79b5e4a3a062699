"""`frontrunner sweep`: what steering does to the operator's own models, by scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.cli.client import CliError
from app.cli.measuring.configured import (
    check_output,
    choose_model,
    load_models,
    read_prompts,
    served_info,
    typed_errors,
)
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.steering.calls import refusal
from app.engine.sweeps.steering import ARTEFACTS, Referee, SweepRow, compared, where_to_stop
from app.engine.sweeps.steering import sweep as run
from app.settings import Settings
from models.protocols import Embedder, Scorer, embeds
from models.protocols.steering import MAX_SCALE, MIN_STEPS


def run_sweep(
    prompts: Path | None, asked: str, candidates: int, out: Path, console: Console, name: str | None = None
) -> None:
    """Sweep the configured models and write the result to `out`. Raises CliError.

    `name` is one of several models.
    """
    scales = _read_scales(asked)
    check_output(out)
    with typed_errors():
        settings = Settings()
        chosen = choose_model(settings, name)
        texts, models = read_prompts(prompts, chosen.generator), load_models(chosen)
        info = served_info(models, settings)
        if (why := refusal(models.steering)) is not None:
            raise CliError(why)
        if info.steps < MIN_STEPS:
            raise CliError(f"steering requires at least {MIN_STEPS} steps, and the model makes {info.steps} by default")
        core, referee = EngineCore(models, EngineConfig()), models.referee
        with Progress(console=console) as progress:
            task = progress.add_task("sampling", total=len(texts) * (1 + len(scales)))
            points = run(
                core,
                info,
                texts,
                scales,
                n_candidates=candidates,
                referee=None if referee is None else _opinion(referee),
                progress=lambda: progress.advance(task),
            )
        rows, (stop, why) = compared(points), where_to_stop(points)
        measured = {"device": info.device, "prompts": len(texts), "candidates": candidates}
        names = {"generator": info.id, "scorer": models.scorer.info.id, "referee": referee and referee.info.id}
        base = {name: float(values.mean()) for name, values in points[0].values.items()}
        document = {**names, "base": base, "points": [asdict(row) for row in rows], "stop": stop, "why": why}
        out.write_text(json.dumps(document | {"measured": measured}, indent=1) + "\n")
    console.print(_table(rows))
    console.print(f"use at most {min(stop, MAX_SCALE):g}: {why}", soft_wrap=True, highlight=False)
    console.print("the score rises by construction; it is no proof of quality", soft_wrap=True, highlight=False)
    console.print(f"wrote {out}", soft_wrap=True, highlight=False)


def _read_scales(text: str) -> list[float]:
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if not scales or not all(0 < scale <= 1 for scale in scales) or sorted(set(scales)) != scales:
        raise CliError("--scales must be ascending numbers above 0 and at most 1, such as 0.02,0.05,0.1")
    return scales


def _opinion(referee: Embedder | Scorer) -> Referee:
    """A referee as a function of prompt and images."""

    def scores(prompt: str, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        if embeds(referee):
            found = referee.embed_images(images) @ referee.embed_texts([prompt])[0].vector
        else:
            found = referee.score(images, prompt)
        return np.asarray(found, np.float64)

    return scores


def _table(rows: Sequence[SweepRow]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    names = [name for name in ("score", "referee", *ARTEFACTS) if name in rows[0].change]
    for name in ("scale", *names, "cost"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [f"{row.change[name]:+.4f} ± {row.error[name]:.4f}" for name in names]
        table.add_row(f"{row.scale:g}", *cells, f"{row.cost:.2f}")
    return table
