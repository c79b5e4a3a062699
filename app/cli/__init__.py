"""The `frontrunner` command line: owns commands, options, help and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

from app.cli import batches, cluster, keys, measuring, output, tuning
from app.cli import client as remote
from app.cli import interactive as dialogue
from app.cli import rerank as again
from app.cli import verify as provenance
from app.cli.local_server import service_at
from frontrunner import Client
from models import loras


class _Commands(TyperGroup):
    """Commands whose errors about options are without Pydantic's prefix."""

    def invoke(self, ctx: Any) -> Any:
        """See typer."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="frontrunner",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Generate many, keep the best: sample candidate images for a prompt and rank them with CLIP.",
)

app.add_typer(keys.app, name="keys")
app.add_typer(cluster.app, name="cluster")
app.command()(batches.batch)
app.command(name="list")(batches.list_)
app.command()(provenance.verify)
app.command()(measuring.calibrate)
app.command()(measuring.sweep)
app.command()(tuning.tune)
app.command()(tuning.compare)
app.command()(measuring.audit)

UrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="URL of a running service. Default: start a local one.")
]
UrlOptionWithDefault = Annotated[
    str, typer.Option(metavar="URL", help="URL of the service that stores the generation.")
]
DEFAULT_URL = "http://127.0.0.1:8000"
GenerationArgument = Annotated[str, typer.Argument(metavar="GENERATION", help="Generation id, `gen_...`.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME", help="Model of the server. Default: its first one.")
]
ScorerOption = Annotated[
    list[str] | None,
    typer.Option("--scorer", metavar="NAME=WEIGHT", help="Scorer that ranks with others; repeatable. Weight: 1."),
]
OutOption = Annotated[Path, typer.Option(help="Output folder for the images and the contact sheet.")]
Seed = Annotated[
    int | None, typer.Option(min=-1, max=2**64 - 1, help="Seed of the first candidate. Default, and -1: random.")
]
NegativeOption = Annotated[
    str, typer.Option("--negative", "-x", metavar="TEXT", help="What the images should not show.")
]
ControlOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND=FILE[@WEIGHT]", help="Image that the composition follows; repeatable."),
]
QualityOption = Annotated[
    Literal["draft", "standard", "best"] | None, typer.Option(help="Candidates and steps that you do not name.")
]
VariantsOption = Annotated[
    int | None, typer.Option(metavar="N", min=2, max=16, help="Wordings that the server makes of the prompt.")
]
VariantOption = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Wording to sample from instead of PROMPT; repeatable.")
]
SafetyOption = Annotated[
    Literal["off", "flag", "veto"] | None, typer.Option(help="Mark or withhold images that a classifier flags.")
]
VetoOption = Annotated[
    list[str] | None, typer.Option(metavar="FLAG", help="Exclude images flagged artefact or typographic; repeatable.")
]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on. Default: 8000.")] = None,
    generator: Annotated[str | None, typer.Option(help="Generator: pack, folder or hub id.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Scorer: pack, folder or open_clip name/pretrained.")] = None,
    device: Annotated[str | None, typer.Option(help="Device: auto, cpu, cuda or cuda:1.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for the database and the images.")] = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the service.

    Settings are also read from the environment (`FRONTRUNNER_...`); options take precedence. The first SIGTERM or
    Ctrl-C sets /readyz to 503 and drains running generations. The second one stops immediately.

    **Examples**

    `frontrunner serve`

    `frontrunner serve --host 0.0.0.0 --port 80 --device cuda`

    `frontrunner serve --generator stabilityai/sd-turbo --scorer ViT-B-32/laion2b_s34b_b79k`
    """
    from app.cli.serve import run_server

    payload = {"host": host, "port": port, "generator": generator, "scorer": scorer, "device": device}
    options: dict[str, Any] = {k: v for k, v in (payload | {"data_dir": data_dir}).items() if v is not None}
    with remote.reported_errors():
        code = run_server(options, fd)
    raise typer.Exit(code)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the images should show.")],
    negative: NegativeOption = "",
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", "-c", min=1, help="Number of candidates. Default: 16, or as --quality says."),
    ] = None,
    n: Annotated[int, typer.Option("--best", "-n", min=1, help="Number of images to save, best first.")] = 4,
    quality: QualityOption = None,
    variants: VariantsOption = None,
    variant: VariantOption = None,
    seed: Seed = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels. Default: the model's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler of the model, such as euler or ddim.")] = None,
    model: ModelOption = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="NAME:WEIGHT", help="LoRA adapter; repeatable.")] = None,
    control: ControlOption = None,
    steering: Annotated[
        float | None, typer.Option(metavar="SCALE", help="Move candidates along their score's gradient, such as 0.05.")
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Write prompt, seed and score into the files.")
    ] = True,
    scorer: ScorerOption = None,
    veto: VetoOption = None,
    safety: SafetyOption = None,
    out: OutOption = Path("demo"),
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Read commands afterwards.")] = False,
    taste: Annotated[str | None, typer.Option(metavar="PROFILE", help="Taste profile that stores the votes.")] = None,
    url: UrlOption = None,
) -> None:
    """Sample and rank candidates for PROMPT; save the best and a contact sheet.

    Uses the service at --url, or starts a local one with temporary data.

    With --interactive the command then reads one command a line from the terminal or a pipe. Commands re-rank with
    another prompt or other weights, vote, refine a candidate, go back and save; `help` lists them. With a pipe, the
    exit code is 1 if any command failed.

    **Examples**

    `frontrunner generate "a red apple on a white background"`

    `frontrunner generate "two green trees" -x "blurry, text" -c 32 -n 3 --seed 7 --out trees`

    `frontrunner generate "a castle" --quality best --variants 4 --veto artefact`

    `frontrunner generate "a blue boat" --url http://127.0.0.1:8000 --control sketch=boat.png@0.8`

    `printf 'avoid red\\nrefine 1 0.4\\nsave boats\\n' | frontrunner generate "a boat" --interactive`
    """
    body = {
        "prompt": prompt,
        "negative_prompt": negative,
        **again.build_counts(candidates, n, quality),
        "seed": seed,
        "size": size,
        "steps": steps,
        "guidance_scale": guidance,
        "sampler": sampler,
        "model": model,
        "previews": 2,
        "provenance": "metadata" if metadata else "none",
        "safety": safety,
        "loras": _loras(lora) if lora is not None else None,
        "steering": {"scale": steering} if steering is not None else None,
    }
    with remote.reported_errors():
        body |= _controls(control) | again.build_variants(variants, variant)
    console, progress = Console(), Console(stderr=True)
    with remote.reported_errors(), service_at(url, progress) as client:
        body["ranking"] = remote.present({"scorers": again.build_scorers(scorer), "veto": veto or None})
        done = output.show_progress(remote.stream_generation(client, body), progress)
        _show_result(console, client, done, out, named=url is not None)
        if interactive:
            talk = dialogue.InteractiveSession(client, done, out, taste, (console, progress))
            if talk.run(dialogue.read_lines(console)) and not sys.stdin.isatty():
                raise typer.Exit(1)


@app.command()
def rank(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to compare the images with.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", exists=True, dir_okay=False, readable=True, help="Image files.")
    ],
    negative: NegativeOption = "",
    scorer: ScorerOption = None,
    model: ModelOption = None,
    url: UrlOption = None,
) -> None:
    """Rank image FILES by similarity to PROMPT.

    **Examples**

    `frontrunner rank "a red apple" *.png`

    `frontrunner rank "a red apple" a.png b.jpg -x "text, letters" --url http://127.0.0.1:8000`
    """
    console, progress = Console(), Console(stderr=True)
    with remote.reported_errors(), service_at(url, progress) as client:
        ranked = remote.rank_files(client, prompt, negative, files, again.build_scorers(scorer), model)
        console.print(output.ranking_table(ranked, files))
    for line in output.warning_lines(ranked):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def rerank(
    generation: GenerationArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text to compare with.")] = None,
    negatives: Annotated[list[str] | None, typer.Option("--negative", "-x", help="What to avoid; repeatable.")] = None,
    negative_weight: Annotated[float | None, typer.Option(min=0, max=10, help="Weight of the penalty.")] = None,
    like: Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Prefer similar images.")] = None,
    unlike: Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Avoid similar ones.")] = None,
    diversity: Annotated[float | None, typer.Option(min=0, max=1, help="Separate near-duplicates.")] = None,
    taste: Annotated[str | None, typer.Option(metavar="PROFILE", help="Taste profile to add to the score.")] = None,
    scorer: ScorerOption = None,
    veto: VetoOption = None,
    n: Annotated[int | None, typer.Option("--best", "-n", min=1, help="Number of images to return.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Store the result as a new generation.")] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder for the images and the contact sheet.")] = None,
    url: UrlOptionWithDefault = DEFAULT_URL,
) -> None:
    """Re-rank the candidates of a GENERATION by other texts or images.

    No candidate is sampled.

    **Examples**

    `frontrunner rerank gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --prompt "a green apple" -x "red" -n 4 --out greens`

    `frontrunner rerank gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --like sketch.png --diversity 0.5 --store`
    """
    console = Console()
    ranking: dict[str, Any] = {
        "prompt": prompt,
        "negatives": [{"text": text} for text in negatives] if negatives else None,
        "negative_weight": negative_weight,
        "references": again.build_references(like or [], unlike or []),
        "diversity": diversity,
        "taste": {"profile": taste} if taste else None,
        "veto": veto or None,
    }
    with remote.reported_errors(), remote.connect(url) as client:
        ranking["scorers"] = again.build_scorers(scorer)
        body = {"ranking": remote.present(ranking), "n": n, "store": store}
        _show_result(console, client, again.request_rerank(client, generation, body), out)


@app.command()
def refine(
    generation: GenerationArgument,
    pick: Annotated[int, typer.Option(min=1, help="Rank of the candidate to start from; 1 is the best.")] = 1,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Image to start from instead.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Image of the same size: only its white area is redrawn."),
    ] = None,
    strength: Annotated[float | None, typer.Option(min=0, max=1, help="Change: 0 none, 1 complete.")] = None,
    control: ControlOption = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="New prompt. Default: unchanged.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", "-x", help="New negative prompt.")] = None,
    candidates: Annotated[int | None, typer.Option("--candidates", "-c", min=1, help="Number of candidates.")] = None,
    n: Annotated[int | None, typer.Option("--best", "-n", min=1, help="Number of images to save, best first.")] = None,
    seed: Seed = None,
    out: OutOption = Path("demo"),
    url: UrlOptionWithDefault = DEFAULT_URL,
) -> None:
    """Sample new candidates from a candidate of a GENERATION and rank them.

    Saves the best images and a contact sheet. Omitted options keep the values of the generation.

    **Examples**

    `frontrunner refine gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --pick 2 --strength 0.4 --prompt "a green apple"`

    `frontrunner refine gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --image sketch.png --candidates 32 -n 4`

    `frontrunner refine gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --mask sky.png --prompt "a boat at night"`
    """
    console, progress = Console(), Console(stderr=True)
    body: dict[str, Any] = {
        "strength": strength,
        "prompt": prompt,
        "negative_prompt": negative,
        "n_candidates": candidates,
        "n": n,
        "seed": seed,
    }
    with remote.reported_errors(), remote.connect(url) as client:
        body |= _controls(control)
        if mask is not None:
            body["mask"] = again.image_data_uri(mask)
        if image is not None:
            body["image"] = again.image_data_uri(image)
        else:
            body["index"] = remote.index_at_place(remote.read_generation(client, generation), pick)
        _show_result(
            console, client, output.show_progress(again.stream_refine(client, generation, body), progress), out
        )


@app.command()
def mcp(url: UrlOption = None) -> None:
    """Serve the Model Context Protocol on stdin and stdout.

    For programs that start their MCP servers, such as desktop assistants. Uses the service at --url with the key in
    `FRONTRUNNER_KEY`, or starts a local one with temporary data. Requires the extra `mcp`. Logs go to stderr.

    **Examples**

    `frontrunner mcp`

    `FRONTRUNNER_KEY=fr_... frontrunner mcp --url https://images.example.com`
    """
    from app.cli.mcp import run_mcp

    with remote.reported_errors():
        run_mcp(url)


def _show_result(console: Console, client: Client, done: remote.Json, out: Path | None, *, named: bool = True) -> None:
    """Print the ranked list, the id if `named`, and the files written to `out`."""
    console.print(output.candidates_table(done))
    for line in output.result_lines(done):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if named:
        console.print(f"generation {done['id']}", soft_wrap=True, highlight=False)
    for path in remote.save_images(client, done, out) if out is not None else []:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


def main() -> None:
    """Run the `frontrunner` command."""
    app(prog_name="frontrunner")


def _loras(options: list[str]) -> list[dict[str, str | float]]:
    """The member `loras` of a request."""
    try:
        return [{"name": lora.name, "weight": lora.weight} for lora in loras.parse(",".join(options))]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--lora") from error


def _controls(options: list[str] | None) -> dict[str, Any]:
    """The member `control` of a request, if there are such options."""
    try:
        return {"control": again.build_controls(options)} if options else {}
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--control") from error
