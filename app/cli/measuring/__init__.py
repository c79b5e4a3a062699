"""Commands that measure the operator's own models in this process.

Owns the options of `frontrunner sweep`; what it imports waits until it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.cli.client import reported_errors

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
    from app.cli.measuring.sweep import run_sweep

    with reported_errors():
        run_sweep(prompts, scales, candidates, out, Console())
