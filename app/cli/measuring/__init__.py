"""Commands that measure the operator's models, or a service's rankings.

Owns the options of `frontrunner calibrate`, `sweep` and `audit`; what they import waits until they run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.cli.client import present, reported_errors

SCALES = "0.02,0.05,0.1"
"""Scales that are measured beside 0, unless others are named."""

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", help="Table of `FRONTRUNNER_MODELS` to measure.")
]


def calibrate(
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with one typical prompt a line. Default: the pack's.")
    ] = None,
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=4, max=256, help="Candidates per prompt.")] = 16,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance", "-g", min=0, max=50, help="Guidance scale of your requests. Default: the model's."),
    ] = None,
    steering: Annotated[
        float | None,
        typer.Option(metavar="SCALE", min=0.001, max=0.1, help="Also measure generations with this steering."),
    ] = None,
    model: ModelOption = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="SVG file for the reliability plot.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output file.")] = Path("calibration.json"),
) -> None:
    """Measure previews for pruning "auto", and the probability of a match.

    Runs every prompt unpruned, previews every step and fits the final score. `FRONTRUNNER_GENERATOR`, `_SCORER` and
    `_DEVICE` name the models, or --model a table of `FRONTRUNNER_MODELS`. A calibration is valid for these weights
    only; other weights reject it. It is valid for guidance within a factor of 1.5 of its own. Outside that range "auto"
    prunes nothing and returns a warning.

    **Examples**

    `frontrunner calibrate`

    `FRONTRUNNER_GENERATOR=stabilityai/sd-turbo frontrunner calibrate --prompts mine.txt --out turbo.json`

    `FRONTRUNNER_MODELS=models.toml frontrunner calibrate --model house-style --prompts mine.txt`
    """
    from app.cli.measuring.calibrate import run_calibration

    with reported_errors():
        run_calibration(prompts, candidates, guidance_scale, out, Console(), steering, plot, model)


def sweep(
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with one typical prompt a line. Default: the pack's.")
    ] = None,
    scales: Annotated[str, typer.Option(metavar="LIST", help="Scales to measure, ascending.")] = SCALES,
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=2, max=64, help="Candidates per prompt.")] = 8,
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output file.")] = Path("sweep.json"),
) -> None:
    """Measure what steering does to your models, and say where to stop.

    Every prompt is sampled with the same seeds at scale 0 and at each of --scales. The score rises by construction; it
    is no proof of quality. `FRONTRUNNER_REFEREE` names a scorer that does not steer. Without it only artefacts can say
    where to stop. `FRONTRUNNER_GENERATOR`, `_SCORER` and `_DEVICE` name the models, or --model a table of
    `FRONTRUNNER_MODELS`.

    **Examples**

    `frontrunner sweep`

    `FRONTRUNNER_GENERATOR=stabilityai/sd-turbo frontrunner sweep --prompts mine.txt --out turbo.json`
    """
    from app.cli.measuring.sweep import run_sweep

    with reported_errors():
        run_sweep(prompts, scales, candidates, out, Console(), model)


def audit(
    attribute: Annotated[
        list[str], typer.Option(metavar="NAME=TEXT|TEXT", help="Texts of which one fits an image; repeatable.")
    ],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPTS...", help="Prompts to sample.")] = None,
    generation: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Stored generation instead of prompts; repeatable.")
    ] = None,
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=2, help="Candidates per prompt.")] = 16,
    n: Annotated[
        int | None,
        typer.Option("--best", "-n", min=1, help="Winners per generation. Default: 1, or all returned ones."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=-1, max=2**64 - 1, help="Seed of the first candidate.")] = None,
    probe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Scorer that decides. Default: one that does not rank.")
    ] = None,
    certainty: Annotated[
        float, typer.Option(min=0.5, max=1, help="Share of the likeliest text below which an image is undetermined.")
    ] = 0.75,
    force: Annotated[bool, typer.Option("--force", help="Admit a probe that takes part in the ranking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer of the service.")] = False,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of a running service. Default: start a local one.")
    ] = None,
) -> None:
    """Audit what candidates show, and what the ranking favours.

    A probe, another scorer than the one that ranks, decides which text fits each candidate. Odds above 1 mean that the
    ranking favours a text. The probe is rough: check a sample by eye.

    **Examples**

    `frontrunner audit "a car" --attribute "background=a car on a white background|a car on a black background"`

    `frontrunner audit --generation gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --attribute "colour=red|blue" --force`
    """
    from app.cli.measuring.audit import run_audit

    body = {
        "prompts": prompts or None,
        "generations": generation or None,
        "n_candidates": candidates,
        "n": n,
        "seed": seed,
        "probe": probe,
        "certainty": certainty,
        "force": force,
    }
    with reported_errors():
        run_audit(url, present(body), attribute, Console(), as_json=as_json)
