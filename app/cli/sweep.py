"""`frontrunner sweep`: what steering does to the operator's own models, by scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.cli.calibrate import read_prompts
from app.cli.client import CliError, reported_errors
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.steering.calls import refusal
from app.engine.sweeps.steering import ARTEFACTS, Referee, SweepRow, compared, where_to_stop
from app.engine.sweeps.steering import sweep as run
from app.errors import FrontrunnerError
from app.settings import Settings, format_errors
from models import registry
from models.errors import ModelError
from models.protocols import Embedder, Scorer, embeds
from models.protocols.steering import MAX_SCALE, MIN_STEPS

SCALES = "0.02,0.05,0.1"
"""Scales that are measured beside 0, unless others are named."""


def sweep(
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with one typical prompt a line. Default: the pack's.")
    ] = None,
    scales: Annotated[str, typer.Option(metavar="LIST", help="Scales to measure, ascending.")] = SCALES,
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=2, max=64, help="Candidates per prompt.")] = 8,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output file.")] = Path("sweep.json"),
) -> None:
    """Measure what steering does to your models, and say where to stop.

    Every prompt is sampled with the same seeds at scale 0 and at each of --scales. The score rises by construction; it
    is no proof of quality. `FRONTRUNNER_REFEREE` names a scorer that does not steer. Without it only artefacts can say
    where to stop. `FRONTRUNNER_GENERATOR`, `_SCORER` and `_DEVICE` name the models.

    **Examples**

    `frontrunner sweep`

    `FRONTRUNNER_GENERATOR=stabilityai/sd-turbo frontrunner sweep --prompts mine.txt --out turbo.json`
    """
    with reported_errors():
        run_sweep(prompts, _read_scales(scales), candidates, out, Console())


def run_sweep(prompts: Path | None, scales: Sequence[float], candidates: int, out: Path, console: Console) -> None:
    """Sweep the configured models and write the result to `out`. Raises CliError."""
    try:
        settings = Settings()
        texts = read_prompts(prompts, settings.generator)
        models = registry.load_models(
            settings.generator,
            settings.scorer,
            settings.device,
            settings.preview_decoder or None,
            mode=settings.generator_mode,
            options=replace(settings.load_options, upscaler=""),
        )
        info = models.generator.info
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
    except ValidationError as error:
        raise CliError("; ".join(format_errors(error))) from None
    except (ModelError, FrontrunnerError) as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from None
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
