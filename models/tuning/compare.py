"""Two adapters on the same prompts and seeds, by a referee."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.bootstrap import interval
from models.errors import ModelUnsupported
from models.loras import Lora, LoraFolder
from models.protocols import StepwiseGenerator
from models.tuning.measures import best_of, difference
from models.tuning.rewards import Opinion
from models.tuning.sampling import FieldSampler, Sampling, seeds_of
from models.tuning.settings import MIN_PROMPTS, TuningError, TuningSettings
from models.tuning.state import ADAPTER, REPORT

BASE = "base"
"""Stands for the model without an adapter."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's file by the name that it is loaded by; None for the base."""

    name: str
    file: Path | None

    @classmethod
    def of(cls, name: str, place: str) -> Adapter:
        """The adapter of a folder, of a file, or `BASE`.

        Raises TuningError for a place without one.
        """
        if place == BASE:
            return cls(name, None)
        found = Path(place) / ADAPTER if Path(place).is_dir() else Path(place)
        if not found.is_file() or found.suffix != ".safetensors":
            raise TuningError(f"{place!r} is no adapter: name a folder with {ADAPTER}, a .safetensors file or {BASE}")
        return cls(name, found.absolute())

    @property
    def loras(self) -> tuple[Lora, ...]:
        """What a request would name."""
        return () if self.file is None else (Lora(self.name),)

    def check(self, revision: str) -> None:
        """Raise TuningError if a report beside it names another base."""
        report = None if self.file is None else self.file.parent / REPORT
        if report is None or not report.is_file():
            return
        try:
            known = json.loads(report.read_text())["generator"]["revision"]
        except (ValueError, KeyError, TypeError):
            return
        if known != revision:
            raise TuningError(
                f"the adapter in {report.parent.name!r} was tuned on revision {known}, and {revision} is loaded: "
                "load its base, or tune again"
            )


@contextmanager
def lora_folder(adapters: Sequence[Adapter]) -> Iterator[LoraFolder]:
    """Adapters of any places as one folder of links."""
    with tempfile.TemporaryDirectory() as folder:
        for adapter in adapters:
            if adapter.file is not None:
                (Path(folder) / f"{adapter.name}.safetensors").symlink_to(adapter.file)
        yield LoraFolder(Path(folder))


def distinct(prompts: Sequence[str]) -> list[str]:
    """The prompts, each once. Raises TuningError for too few."""
    texts = list(dict.fromkeys(prompts))
    if len(texts) < MIN_PROMPTS:
        raise TuningError(f"{len(texts)} different prompts are too few: at least {MIN_PROMPTS} are required")
    return texts


def check_adapters(generator: StepwiseGenerator, adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that the generator cannot race.

    Raises TuningError for one of another base, and ModelUnsupported for a generator that takes none.
    """
    info = generator.info
    if info.whole_images is not None:
        raise ModelUnsupported("the generator is remote and takes no adapters: name a pack, folder or hub id")
    if info.loras is None and any(adapter.file is not None for adapter in adapters):
        raise ModelUnsupported(f"{info.id!r} takes no LoRA adapters: load the model that they were trained on")
    for adapter in adapters:
        adapter.check(info.revision)


def compare(
    generator: StepwiseGenerator,
    adapters: tuple[Adapter, Adapter],
    prompts: Sequence[str],
    opinions: tuple[Opinion, Opinion],
    settings: TuningSettings,
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[str, Any]:
    """Win rates of the first adapter, with 95 % intervals over prompts.

    `opinions` are reward and referee. `pairs` compares candidates of one seed, `best` those with the highest reward;
    ties count half. `prompts` of a rate counts those with a pair of numbers; the rate is None without any. Raises
    TuningError for too few prompts, and as `check_adapters`, and ValueError for an adapter that does not fit.
    """
    texts = distinct(prompts)
    check_adapters(generator, adapters)
    sampler = FieldSampler(generator, Sampling.of(generator, settings), settings.rows)
    rows = list[tuple[Any, Any]]()
    for place, text in enumerate(texts):
        seeds = [seeds_of(settings.seed, 6, place, count=settings.evaluated)]
        sides = []
        for adapter in adapters:
            generator.adapt(adapter.loras)
            (drawn,) = sampler.draw([text], settings.evaluated, seeds)
            reward, referee = (opinion.score(text, drawn.images) for opinion in opinions)
            top = best_of(reward, referee)
            if top is None:
                raise TuningError(f"reward and referee scored no candidate of {text!r} both with numbers: name others")
            sides.append((referee, float(referee[top])))
        rows.append((sides[0], sides[1]))
        progress(place + 1)
    generator.adapt(())
    means = ([float(side[0][np.isfinite(side[0])].mean()) for side in sides] for sides in zip(*rows, strict=True))
    found = {
        "pairs": [_wins(one[0], other[0]) for one, other in rows],
        "best": [_wins(np.array([one[1]]), np.array([other[1]])) for one, other in rows],
    }
    return {
        "prompts": len(texts),
        "candidates": settings.evaluated,
        "reward": opinions[0].id,
        "referee": opinions[1].id,
        **{name: _rate(each) for name, each in found.items()},
        "difference": difference(*means),
    }


def _rate(wins: Sequence[float | None]) -> dict[str, Any]:
    known = [each for each in wins if each is not None]
    if not known:
        return {"win_rate": None, "interval": None, "prompts": 0}
    return {"win_rate": float(np.mean(known)), "interval": list(interval(known)), "prompts": len(known)}


def _wins(one: Any, other: Any) -> float | None:
    """Share of pairs with two numbers that the first one wins; None without any."""
    known = np.isfinite(one) & np.isfinite(other)
    return float(((one > other) + 0.5 * (one == other))[known].mean()) if known.any() else None
