"""`frontrunner compare`: two adapters by a referee."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from app.cli.measuring.configured import choose_model
from app.cli.tuning.loading import Chosen, load, read_prompts, typed_errors
from app.settings import Settings
from models.tuning.compare import Adapter, compare, lora_folder
from models.tuning.rewards import check_independent, opinion_of
from models.tuning.settings import TuningSettings


def run_comparison(
    places: tuple[str, str],
    prompts: Path,
    chosen: Chosen,
    settings: TuningSettings,
    out: Path | None,
    console: Console,
) -> None:
    """Compare the adapters at two places. Raises CliError."""
    with typed_errors():
        texts = read_prompts(prompts)
        adapters = Adapter.of("a", places[0]), Adapter.of("b", places[1])
        with lora_folder(adapters) as folder, Progress(console=console, transient=True) as bar:
            judges = load(choose_model(Settings(), chosen.model), chosen, folder)
            opinions = opinion_of(judges.reward), opinion_of(judges.referee)
            check_independent(*opinions)
            place = bar.add_task("comparing", total=len(texts))
            found = compare(
                judges.models.generator,
                adapters,
                texts,
                opinions,
                settings,
                lambda done: bar.update(place, completed=done),
            )
        document = {"a": places[0], "b": places[1], **found}
        if out is not None:
            out.write_text(json.dumps(document, indent=1) + "\n")
    for name, what in (("pairs", "candidates of one seed"), ("best", "the best of each field")):
        if found[name]["interval"] is None:
            console.print(f"{what}: the referee scored none of them on both sides", soft_wrap=True, highlight=False)
            continue
        low, high = found[name]["interval"]
        line = f"{what}: A wins {found[name]['win_rate']:.3f} (95 % interval {low:.3f} .. {high:.3f})"
        console.print(line, soft_wrap=True, highlight=False)
    if out is not None:
        console.print(f"wrote {out}", soft_wrap=True, highlight=False)
