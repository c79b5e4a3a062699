"""`frontrunner compare`: two adapters by a referee."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from app.cli.client import CliError
from app.cli.measuring.configured import check_output, choose_model, read_lines
from app.cli.tuning.loading import Chosen, load, profile_name, referee_opinion, reward_opinion, typed_errors
from app.cli.tuning.stored import Taste, read_profile
from app.settings import Settings
from models.tuning.compare import Adapter, check_adapters, compare, distinct, lora_folder
from models.tuning.rewards import check_independent
from models.tuning.settings import TuningSettings


def run_comparison(
    places: tuple[str, str],
    prompts: Path,
    chosen: Chosen,
    owner: str,
    settings: TuningSettings,
    out: Path | None,
    console: Console,
) -> None:
    """Compare the adapters at two places. Raises CliError."""
    profile = profile_name(chosen.reward)
    if owner and profile is None:
        raise CliError("--owner selects a taste profile: add --reward taste:NAME, or omit --owner")
    check_output(out)
    with typed_errors("use smaller --rows"):
        own, texts = Settings(), distinct(read_lines(prompts))
        adapters = Adapter.of("a", places[0]), Adapter.of("b", places[1])
        taste = None if profile is None else Taste.of(asyncio.run(read_profile(own, owner, profile)))
        with lora_folder(adapters) as folder, Progress(console=console, transient=True) as bar:
            judges = load(choose_model(own, chosen.model), chosen, folder)
            opinions = reward_opinion(profile, taste, judges), referee_opinion(judges)
            check_adapters(judges.models.generator, adapters)
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
        _show(found, console)
        if out is not None:
            out.write_text(json.dumps({"a": places[0], "b": places[1], **found}, indent=1) + "\n")
            console.print(f"wrote {out}", soft_wrap=True, highlight=False)


def _show(found: Mapping[str, Any], console: Console) -> None:
    for name, what in (("pairs", "candidates of one seed"), ("best", "the best of each field")):
        if found[name]["interval"] is None:
            console.print(f"{what}: the referee scored none of them on both sides", soft_wrap=True, highlight=False)
            continue
        low, high = found[name]["interval"]
        line = f"{what}: A wins {found[name]['win_rate']:.3f} (95 % interval {low:.3f} .. {high:.3f})"
        console.print(line, soft_wrap=True, highlight=False)
