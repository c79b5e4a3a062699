"""The command line, `frontrunner serve | generate | rank | rerank | refine | calibrate | keys`: words, exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from app.cli import client as remote
from app.cli import interactive as dialogue
from app.cli import keys, output
from app.cli import rerank as again
from app.cli.client import Complaint
from app.cli.local_server import running_service

app = typer.Typer(
    name="frontrunner",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Generate many, keep the best: sample candidate images for a prompt and rank them with CLIP.",
)

app.add_typer(keys.app, name="keys")

Url = Annotated[str | None, typer.Option(metavar="URL", help="A running service; without it one is started.")]
Address = Annotated[str, typer.Option(metavar="URL", help="The service that has it.")]
HERE = "http://127.0.0.1:8000"
Generation = Annotated[str, typer.Argument(metavar="GENERATION", help="Its id, as a service gave it.")]
Out = Annotated[Path, typer.Option(help="Folder for the images and the contact sheet.")]
Negative = Annotated[str, typer.Option("--negative", "-x", metavar="TEXT", help="What the images should not show.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on, 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on, 8000 by default.")] = None,
    generator: Annotated[str | None, typer.Option(help="Pack, folder or hub id that makes the images.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Pack, folder or open_clip name/pretrained.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the database and the images.")] = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the service.

    Every setting is also read from the environment, as `FRONTRUNNER_...`; an option wins. The first SIGTERM or Ctrl-C
    turns /readyz to 503 and lets what runs come to its end; the second stops at once.

    **Examples**

    `frontrunner serve`

    `frontrunner serve --host 0.0.0.0 --port 80 --device cuda`

    `frontrunner serve --generator stabilityai/sd-turbo --scorer ViT-B-32/laion2b_s34b_b79k`
    """
    from app.cli.serve import run

    asked = {"host": host, "port": port, "generator": generator, "scorer": scorer, "device": device}
    options: dict[str, Any] = {k: v for k, v in (asked | {"data_dir": data_dir}).items() if v is not None}
    with _complaining():
        code = run(options, fd)
    raise typer.Exit(code)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the images should show.")],
    negative: Negative = "",
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=1, help="Images to sample and compare.")] = 16,
    n: Annotated[int, typer.Option("--best", "-n", min=1, help="Images to keep, best first.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first candidate; drawn when left out.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="In pixels; the model's own when left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale.")] = None,
    sampler: Annotated[str | None, typer.Option(help="One of the model's, such as euler or ddim.")] = None,
    out: Out = Path("demo"),
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Then take commands, see above.")] = False,
    taste: Annotated[str | None, typer.Option(metavar="PROFILE", help="Where votes of --interactive are kept.")] = None,
    url: Url = None,
) -> None:
    """Sample candidates for PROMPT, rank them, save the best and a contact sheet of all.

    Talks to the service at --url, or starts one for the occasion, with its data in a temporary folder.

    With --interactive it then takes commands, one a line, from the terminal or a pipe: rank the same candidates by
    other words or weights, vote, refine one of them, go back, save; `help` lists them. From a pipe the exit code is 1
    when a command was refused.

    **Examples**

    `frontrunner generate "a red apple on a white background"`

    `frontrunner generate "two green trees" -x "blurry, text" -c 32 -n 3 --seed 7 --out trees`

    `frontrunner generate "a blue boat" --url http://127.0.0.1:8000`

    `printf 'avoid red\\nrefine 1 0.4\\nsave boats\\n' | frontrunner generate "a boat" --interactive`
    """
    body = {
        "prompt": prompt,
        "negative_prompt": negative,
        "n_candidates": candidates,
        "n": min(n, candidates),
        "seed": seed,
        "size": size,
        "steps": steps,
        "guidance_scale": guidance,
        "sampler": sampler,
        "previews": 2,
    }
    console, progress = Console(), Console(stderr=True)
    with _complaining(), _service(url, progress) as client:
        done = output.follow(remote.generation(client, body), progress)
        _show(console, client, done, out, named=url is not None)
        if interactive:
            talk = dialogue.Dialogue(client, done, out, taste, (console, progress))
            if talk.run(dialogue.typed(console)) and not sys.stdin.isatty():
                raise typer.Exit(1)


@app.command()
def rank(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the images are compared with.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", exists=True, dir_okay=False, readable=True, help="Images.")
    ],
    negative: Negative = "",
    url: Url = None,
) -> None:
    """Rank image FILES by how well they show PROMPT.

    **Examples**

    `frontrunner rank "a red apple" *.png`

    `frontrunner rank "a red apple" a.png b.jpg -x "text, letters" --url http://127.0.0.1:8000`
    """
    console, progress = Console(), Console(stderr=True)
    with _complaining(), _service(url, progress) as client:
        console.print(output.ranking(remote.ranking(client, prompt, negative, files), files))


@app.command()
def calibrate(
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One prompt a line, as users write them; a pack brings its own.")
    ] = None,
    candidates: Annotated[int, typer.Option("--candidates", "-c", min=4, max=256, help="Candidates a prompt.")] = 16,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance", "-g", min=0, max=50, help="That of your requests, if not the model's own."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the calibration is written.")] = Path(
        "calibration.json"
    ),
) -> None:
    """Measure how well previews foretell final scores, so that pruning "auto" knows where to cut.

    Runs every prompt unpruned with the models that `FRONTRUNNER_GENERATOR`, `_SCORER` and `_DEVICE` name, previews
    every step, and fits the final score. A calibration holds for these weights only; others refuse it. It holds for
    guidance within half as much again of its own; at others "auto" prunes nothing and says so.

    **Examples**

    `frontrunner calibrate`

    `FRONTRUNNER_GENERATOR=stabilityai/sd-turbo frontrunner calibrate --prompts mine.txt --out turbo.json`
    """
    from app.cli.calibrate import run

    with _complaining():
        run(prompts, candidates, guidance_scale, out, Console())


@app.command()
def rerank(
    generation: Generation,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to compare with from now on.")] = None,
    negatives: Annotated[list[str] | None, typer.Option("--negative", "-x", help="What to avoid; repeatable.")] = None,
    negative_weight: Annotated[float | None, typer.Option(min=0, max=10, help="How much the negatives count.")] = None,
    like: Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Be like this image.")] = None,
    unlike: Annotated[list[Path] | None, typer.Option(exists=True, dir_okay=False, help="Be unlike it.")] = None,
    diversity: Annotated[float | None, typer.Option(min=0, max=1, help="Keep near-duplicates apart.")] = None,
    taste: Annotated[str | None, typer.Option(metavar="PROFILE", help="Whose taste joins in.")] = None,
    n: Annotated[int | None, typer.Option("--best", "-n", min=1, help="Images to return, best first.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Keep it as a generation of its own.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the images and the contact sheet.")] = None,
    url: Address = HERE,
) -> None:
    """Rank the candidates of a GENERATION again, by other words or pictures; nothing is sampled.

    **Examples**

    `frontrunner rerank gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --prompt "a green apple" -x "red" -n 4 --out greens`

    `frontrunner rerank gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --like sketch.png --diversity 0.5 --store`
    """
    console = Console()
    ranking = {
        "prompt": prompt,
        "negatives": [{"text": text} for text in negatives] if negatives else None,
        "negative_weight": negative_weight,
        "references": again.references(like or [], unlike or []),
        "diversity": diversity,
        "taste": {"profile": taste} if taste else None,
    }
    body = {"ranking": {k: v for k, v in ranking.items() if v is not None}, "n": n, "store": store}
    with _complaining(), remote.connect(url) as client:
        _show(console, client, again.rerank(client, generation, body), out)


@app.command()
def refine(
    generation: Generation,
    pick: Annotated[int, typer.Option(min=1, help="The candidate to begin as, by its place; 1 is the best.")] = 1,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture or a sketch in its place.")
    ] = None,
    strength: Annotated[float | None, typer.Option(min=0, max=1, help="0 leaves it, 1 forgets it.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to show; as it was when left out.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", "-x", help="What not to show.")] = None,
    candidates: Annotated[int | None, typer.Option("--candidates", "-c", min=1, help="Images to sample.")] = None,
    n: Annotated[int | None, typer.Option("--best", "-n", min=1, help="Images to keep, best first.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first candidate; drawn when left out.")] = None,
    out: Out = Path("demo"),
    url: Address = HERE,
) -> None:
    """Sample new candidates that begin as one of a GENERATION, rank them, save the best and a contact sheet.

    What is left out is as it was in the generation.

    **Examples**

    `frontrunner refine gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --pick 2 --strength 0.4 --prompt "a green apple"`

    `frontrunner refine gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH --image sketch.png --candidates 32 -n 4`
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
    with _complaining(), remote.connect(url) as client:
        if image is not None:
            body["image"] = again.picture(image)
        else:
            body["index"] = remote.index_at(remote.ask(client, "GET", f"/v1/generations/{generation}"), pick)
        _show(console, client, output.follow(again.refine(client, generation, body), progress), out)


def _show(console: Console, client: remote.Client, done: remote.Json, out: Path | None, *, named: bool = True) -> None:
    """The ranked list; its name, for going on with it; what was written to `out`."""
    console.print(output.candidates(done))
    if named:
        console.print(f"generation {done['id']}", soft_wrap=True, highlight=False)
    for path in remote.save(client, done, out) if out is not None else []:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _service(url: str | None, console: Console) -> Iterator[remote.Client]:
    """A client of the service at `url`, or of one that lives as long as this block."""
    with ExitStack() as stack:
        if url is not None:
            client = stack.enter_context(remote.connect(url))
        else:
            with console.status("loading the models") as status:
                client = stack.enter_context(running_service(status.update))
        yield client


@contextmanager
def _complaining() -> Iterator[None]:
    """A `Complaint` as one line on standard error and exit code 1; SIGTERM cleans up as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield
    except Complaint as complaint:
        typer.echo(f"frontrunner: {complaint}", err=True)
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """The `frontrunner` command."""
    app(prog_name="frontrunner")
