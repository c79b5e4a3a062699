"""`frontrunner tune`: from options and stores to a tuning run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.cli.client import CliError
from app.cli.measuring.configured import choose_model, read_lines
from app.cli.tuning.given import Wanted, given
from app.cli.tuning.loading import Chosen, load, profile_name, referee_opinion, reward_opinion, typed_errors
from app.cli.tuning.stored import parse_since, stored_fields
from app.settings import Settings
from app.stores.privacy import private_umask
from models.tuning.run import tune
from models.tuning.sampling import StoredField
from models.tuning.settings import TuningSettings
from models.tuning.state import RunFolder
from models.tuning.task import Prompts, TuningTask

_WHEN_FULL = (
    "use smaller --rows or --checkpointing, and the same command resumes; a smaller --batch needs another --out"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that are no settings of the run."""

    out: Path
    prompts: Path | None
    from_store: bool
    since: str | None
    owner: str
    chosen: Chosen


def run_tuning(asked: Asked, settings: TuningSettings, console: Console) -> None:
    """Tune the configured model into `asked.out`. Raises CliError."""
    if (asked.prompts is None) == (not asked.from_store):
        raise CliError("name either --prompts FILE or --from-store")
    wanted = Wanted(asked.from_store, asked.owner, parse_since(asked.since), profile_name(asked.chosen.reward))
    _check_used(wanted)
    if wanted.from_store or wanted.profile is not None:
        private_umask()  # prompts and votes are as private as the store
    with typed_errors(_WHEN_FULL):
        own = Settings()
        texts = read_lines(asked.prompts) if asked.prompts is not None else None
        if texts is not None:
            Prompts.split(texts, settings.seed)  # too few are refused before models load
        judges = load(choose_model(own, asked.chosen.model), asked.chosen)
        found = given(own, wanted, judges.models.generator.info, RunFolder(asked.out))
        stored = list[StoredField]()
        if found.races is not None:
            console.print(found.races.summary, soft_wrap=True, highlight=False)
            texts = found.races.prompts
            stored = stored_fields(own, found.races.races)
        assert texts is not None
        split = Prompts.split(texts, settings.seed)
        trained = set(split.trained)
        taught = [each for each in stored if each.prompt.strip() in trained]
        if stored:
            console.print(f"{len(taught)} of them teach, the others are of held-out prompts", highlight=False)
        task = TuningTask(
            judges.models.generator,
            reward_opinion(wanted.profile, found.taste, judges),
            referee_opinion(judges),
            split,
            asked.out,
            settings,
            taught,
        )
        with Progress(console=console, transient=True) as bar:
            place = bar.add_task("tuning", total=settings.iterations)

            def report(done: int, text: str) -> None:
                bar.update(place, completed=done)
                bar.console.print(f"{done}/{settings.iterations} {text}", soft_wrap=True, highlight=False, markup=False)

            made = tune(task, report)
    _show(made, asked.out, console)


def _check_used(wanted: Wanted) -> None:
    """Refuse options that would have no effect."""
    if wanted.since is not None and not wanted.from_store:
        raise CliError("--since selects stored generations: add --from-store, or omit --since")
    if wanted.owner and not (wanted.from_store or wanted.profile is not None):
        raise CliError("--owner selects what is stored: add --from-store or --reward taste:NAME, or omit --owner")


def _show(report: Mapping[str, Any], out: Path, console: Console) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("measure", "base", "tuned", "difference", "95 % interval"):
        table.add_column(name, justify="right")
    base, tuned = report["final"]["base"], report["final"]["tuned"]
    for name, key in (("referee, random", "referee"), ("referee, best", "best"), ("reward", "reward")):
        found = report["differences"]["random" if key == "referee" else key]
        low, high = found["interval"]
        cells: Sequence[str] = (f"{base[key]:.4f}", f"{tuned[key]:.4f}", f"{found['mean']:+.3g}")
        table.add_row(name, *cells, f"{low:+.3g} .. {high:+.3g}")
    console.print(table)
    place = out.absolute()
    for line in (
        f"stopped: {report['stop']['why']}",
        f"verdict: {report['verdict']}: {report['why']}",
        f"wrote {out / report['adapter']}; serve it with FRONTRUNNER_LORA_DIR={place.parent} and the name {place.name}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
