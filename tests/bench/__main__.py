"""`python -m tests.bench`: measure, print, store, draw. `--only` and `--runs` for a quick look."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

os.environ.setdefault("FRONTRUNNER_MAX_CANDIDATES", "1024")
os.environ.setdefault("FRONTRUNNER_MAX_QUEUED_CANDIDATES", "2048")

import httpx

from models import registry
from models.protocols import Models
from tests.bench import (
    attacks,
    audits,
    dialogue,
    floor,
    gain,
    gate,
    harmless,
    latency,
    memory,
    overload,
    plots,
    safety,
    server,
    speed,
    start,
)
from tests.bench.judge import judge
from tests.bench.kit import RESULTS, Figure, machine, store, table
from tests.bench.straight import Straight

FEWEST_RUNS, FEWEST_PROMPTS = 5, 64
"""What is measured with fewer of either is printed and not stored: it would take the place of a better figure."""

PARTS = (
    "speed",
    "latency",
    "contention",
    "floor",
    "memory",
    "overload",
    "attacks",
    "gain",
    "dialogue",
    "start",
    "gate",
    "safety",
    "harmless",
    "audit",
)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=FEWEST_RUNS, help="paired runs of every timing")
    parser.add_argument(
        "--prompts",
        type=int,
        default=FEWEST_PROMPTS,
        help="prompts of the gain figures; those of the dialogue go along",
    )
    asked = parser.parse_args()
    here, stored = machine(), asked.runs >= FEWEST_RUNS and asked.prompts >= FEWEST_PROMPTS
    if not stored:
        print(f"a look, not to be stored: that takes {FEWEST_RUNS} runs and {FEWEST_PROMPTS} prompts", flush=True)
    models = registry.load_models("pictogram", "pictogram")
    script = Straight()
    figures: list[Figure] = []
    curve = None

    def note(*made: Figure) -> None:
        figures.extend(made)
        print(table(list(made)), flush=True)

    with server.service() as client:
        _served(asked, client, script, note)
    if "floor" in asked.only:
        note(floor.overhead(models, asked.runs))
        note(floor.machine_share(models, 4 * asked.runs))
        note(floor.embedding(models, script, asked.runs))
    _in_own_processes(asked, note)
    if "gate" in asked.only:
        note(*gate.figures(asked.runs))
    if "gain" in asked.only and models.calibration is not None:
        made, curve = _gain(models, asked.prompts)
        note(*made)
    if stored:
        path = RESULTS / "pictogram.json"
        store(path, figures, here, models.generator.info.revision, curve)
        plots.draw(path)
        print(f"wrote {path}")
    else:
        print("not stored")


def _in_own_processes(asked: argparse.Namespace, note: Callable[..., None]) -> None:
    """The parts that start what they measure."""
    if "memory" in asked.only:
        note(*memory.growth(asked.runs))
    if "overload" in asked.only:
        note(*overload.overload())
    if "attacks" in asked.only:
        note(*attacks.attacks())
    if "start" in asked.only:
        note(*start.start(asked.runs))


def _served(asked: argparse.Namespace, client: httpx.Client, script: Straight, note: Callable[..., None]) -> None:
    """The parts that ask a running service."""
    if "speed" in asked.only:
        note(speed.best_of(client, script, 16, "off", asked.runs, at_most=0.95))
        note(speed.best_of(client, script, 16, "auto", asked.runs, at_most=0.55))
        note(speed.best_of(client, script, 64, "auto", asked.runs, at_most=0.40))
    if "latency" in asked.only:
        note(floor.http_added(client, 10 * asked.runs))
        note(latency.rerank(client, 64, at_most=25.0))
        note(latency.rerank(client, 1000, at_most=60.0))
        note(latency.watched(client, 50, asked.runs))
    if "contention" in asked.only:
        note(speed.beside_large(client, asked.runs))
        for clients in (2, 4, 8, 16):
            note(speed.throughput(client, clients, asked.runs, at_least=1.6 if clients == 8 else None))
    if "safety" in asked.only:
        note(safety.overhead(client, asked.runs))
    if "harmless" in asked.only:
        note(*harmless.figures(client))
    if "audit" in asked.only:
        note(*audits.backgrounds(client))
    if "dialogue" in asked.only:
        note(*dialogue.figures(client, asked.prompts / 64, _progress))


def _gain(models: Models, prompts: int) -> tuple[list[Figure], list[dict[str, float]]]:
    assert models.calibration is not None
    races = gain.watched(models, prompts, 64, judge(), _progress(prompts))
    return gain.figures(races, models.calibration, floor.costs(models))


def _progress(total: int) -> Callable[[int], None]:
    return lambda done: print(f"\r{done}/{total} prompts", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
