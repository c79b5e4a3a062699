"""Commands that teach the operator's own models.

Owns the options of `frontrunner tune` and `frontrunner compare`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from app.cli.client import reported_errors

PromptsOption = Annotated[Path | None, typer.Option(metavar="FILE", help="File with one prompt a line.")]
RefereeOption = Annotated[
    str | None, typer.Option(metavar="SCORER", help="Scorer that never rewards. Default: FRONTRUNNER_REFEREE.")
]
RewardOption = Annotated[
    str | None,
    typer.Option(metavar="SCORER", help="Scorer that rewards, or taste:NAME. Default: FRONTRUNNER_SCORER."),
]
DeviceOption = Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:1.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", help="Model of FRONTRUNNER_MODELS, if that is set.")
]
OwnerOption = Annotated[
    str, typer.Option(metavar="KEY", help="Id of the API key that made generations and votes. Default: none.")
]
RowsOption = Annotated[int, typer.Option(min=1, help="Candidates in one call of sampling.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the model's.")]
GuidanceOption = Annotated[float | None, typer.Option(min=0, help="Guidance scale. Default: the model's.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")]


def tune(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the adapter; an earlier run in it resumes.")],
    prompts: PromptsOption = None,
    from_store: Annotated[bool, typer.Option("--from-store", help="Learn from stored generations and votes.")] = False,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only generations since then, 2026-01-31.")] = None,
    owner: OwnerOption = "",
    reward: RewardOption = None,
    referee: RefereeOption = None,
    method: Annotated[Literal["nft", "bon"], typer.Option(help="DiffusionNFT, or best-of-N distillation.")] = "nft",
    iterations: Annotated[int, typer.Option(min=1, help="Largest number of iterations.")] = 100,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Largest number of minutes.")] = None,
    fields: Annotated[int, typer.Option(min=1, help="Prompts of an iteration.")] = 48,
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=2, help="Candidates per prompt.")] = 24,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 32,
    layers: Annotated[Literal["attention", "wide"], typer.Option(help="Layers that get adapters.")] = "attention",
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Learning rate.")] = 3e-4,
    batch: Annotated[int, typer.Option(min=1, help="Rows in one call of training.")] = 16,
    accumulation: Annotated[int, typer.Option(min=1, help="Calls of training in an optimizer step.")] = 4,
    rows: RowsOption = 16,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Iterations between measurements.")] = 10,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    model: ModelOption = None,
) -> None:
    """Train a LoRA adapter from the model's own candidates, until a referee objects.

    `FRONTRUNNER_GENERATOR` names the model; its weights never change. Every iteration samples candidates, scores them
    and moves towards the better ones. A quarter of the prompts is held out. On a third of it the referee, diversity and
    artefacts are measured, and the first that gets worse ends the run. The rest is for the verdict alone. DIR then
    holds the adapter, `report.json` with the verdict accept or reject, curves and a sheet. Serve it with
    `FRONTRUNNER_LORA_DIR` set to the folder above DIR.

    **Examples**

    `frontrunner tune --prompts mine.txt --referee ViT-B-32/laion2b_s34b_b79k --out loras/mine`

    `frontrunner tune --from-store --since 2026-01-31 --reward taste:blog --referee hps --out loras/blog`
    """
    from app.cli.tuning.loading import Chosen
    from app.cli.tuning.run import Asked, run_tuning
    from models.tuning.settings import TuningError, TuningSettings

    names = ("method", "iterations", "minutes", "candidates", "rank", "layers", "rate", "batch", "accumulation")
    given = locals()
    chosen = {name: given[name] for name in (*names, "rows", "evaluate_every", "steps", "guidance", "checkpointing")}
    with reported_errors():
        try:
            settings = TuningSettings(**chosen, prompts=fields, alpha=2 * rank, seed=seed)
        except TuningError as error:
            raise typer.BadParameter(str(error)) from None
        run_tuning(
            Asked(out, prompts, from_store, since, owner, Chosen(model, reward, referee, device)), settings, Console()
        )


def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="Folder or file of an adapter, or base.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The adapter to compare with, or base.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="File with one prompt a line.")],
    referee: RefereeOption = None,
    reward: RewardOption = None,
    owner: OwnerOption = "",
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=2, max=256, help="Candidates per prompt.")] = 16,
    rows: RowsOption = 16,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    model: ModelOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Output file, JSON.")] = None,
) -> None:
    """Race adapter A against adapter B, and print A's win rates by the referee.

    Both sample every prompt with the same seeds. A win rate above 0.5 whose interval does not hold 0.5 is a difference.
    The reward chooses the best candidate of each field, the referee judges.

    **Examples**

    `frontrunner compare loras/mine base --prompts other.txt --referee ViT-B-32/laion2b_s34b_b79k`
    """
    from app.cli.tuning.compare import run_comparison
    from app.cli.tuning.loading import Chosen
    from models.tuning.settings import TuningSettings

    settings = TuningSettings(evaluated=candidates, rows=rows, steps=steps, guidance=guidance, seed=seed)
    with reported_errors():
        run_comparison((one, other), prompts, Chosen(model, reward, referee, device), owner, settings, out, Console())
