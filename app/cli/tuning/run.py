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
from app.cli.measuring.configured import choose_model
from app.cli.tuning.given import Wanted, given
from app.cli.tuning.loading import TASTE, Chosen, Judges, load, read_prompts, typed_errors
from app.cli.tuning.stored import Taste, parse_since, stored_fields, taste_opinion
from app.settings import Settings
from models.tuning.rewards import Opinion, opinion_of
from models.tuning.run import tune
from models.tuning.sampling import StoredField
from models.tuning.settings import TuningSettings
from models.tuning.state import RunFolder
from models.tuning.task import Prompts, TuningTask


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
    with typed_errors():
        wanted = Wanted(asked.from_store, asked.owner, parse_since(asked.since), _profile_name(asked.chosen.reward))
        own = Settings()
        texts = read_prompts(asked.prompts) if asked.prompts is not None else None
        judges = load(choose_model(own, asked.chosen.model), asked.chosen)
        found = given(own, wanted, judges.models.generator.info, RunFolder(asked.out))
        stored = list[StoredField]()
        if found.races is not None:
            console.print(found.races.summary, soft_wrap=True, highlight=False)
            texts = found.races.prompts
            stored = stored_fields(own, found.races.races)
        assert texts is not None
        split = Prompts.split(texts, settings.seed)
        task = TuningTask(
            judges.models.generator,
            _reward(wanted.profile, found.taste, judges),
            opinion_of(judges.referee),
            split,
            asked.out,
            settings,
            [each for each in stored if each.prompt in split.trained],
        )
        with Progress(console=console, transient=True) as bar:
            place = bar.add_task("tuning", total=settings.iterations)

            def report(done: int, text: str) -> None:
                bar.update(place, completed=done)
                bar.console.print(f"{done}/{settings.iterations} {text}", soft_wrap=True, highlight=False, markup=False)

            made = tune(task, report)
    _show(made, asked.out, console)


def _profile_name(reward: str | None) -> str | None:
    return reward.removeprefix(TASTE) if reward is not None and reward.startswith(TASTE) else None


def _reward(name: str | None, taste: Taste | None, judges: Judges) -> Opinion:
    if name is None or taste is None:
        return opinion_of(judges.reward)
    return taste_opinion(name, taste, judges.models.scorer)


def _show(report: Mapping[str, Any], out: Path, console: Console) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("measure", "base", "tuned", "difference", "95 % interval"):
        table.add_column(name, justify="right")
    base, tuned = report["final"]["base"], report["final"]["tuned"]
    for name, key in (("referee, random", "referee"), ("referee, best", "best"), ("reward", "reward")):
        found = report["differences"]["random" if key == "referee" else key]
        low, high = found["interval"]
        cells: Sequence[str] = (f"{base[key]:.4f}", f"{tuned[key]:.4f}", f"{found['mean']:+.4f}")
        table.add_row(name, *cells, f"{low:+.4f} .. {high:+.4f}")
    console.print(table)
    for line in (
        f"stopped: {report['stop']['why']}",
        f"verdict: {report['verdict']}",
        f"wrote {out / report['adapter']}; serve it with FRONTRUNNER_LORA_DIR={out.parent} and the name {out.name}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
