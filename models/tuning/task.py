"""What a run is given: prompts, opinions, stored fields and a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.protocols import StepwiseGenerator
from models.tuning.rewards import Opinion
from models.tuning.sampling import StoredField
from models.tuning.settings import MIN_PROMPTS, TuningError, TuningSettings

_HELD_OUT, _SELECTION = 1 / 4, 1 / 3
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a run, in three parts without a common one.

    Those to train on, those whose measurements stop the run and choose the result, and those of the verdict, which are
    measured once, at the end.
    """

    trained: tuple[str, ...]
    selection: tuple[str, ...]
    verdict: tuple[str, ...]

    @classmethod
    def split(cls, prompts: Iterable[str], seed: int) -> Prompts:
        """Hold out a quarter, at least four, by a seed.

        A third of it selects, the rest is for the verdict.

        Raises TuningError for fewer than `MIN_PROMPTS`.
        """
        known = list(dict.fromkeys(text.strip() for text in prompts if text.strip()))
        if len(known) < MIN_PROMPTS:
            raise TuningError(
                f"{len(known)} different prompts are too few: at least {MIN_PROMPTS} are required, since a quarter is "
                "held out to measure; 64 or more are recommended"
            )
        order = np.random.default_rng(seed).permutation(len(known))
        held_out = max(2 * _FEWEST, round(_HELD_OUT * len(known)))
        selection = max(_FEWEST, round(_SELECTION * held_out))
        parts = order[held_out:], order[:selection], order[selection:held_out]
        return cls(*(tuple(known[i] for i in sorted(part)) for part in parts))

    def listed(self) -> dict[str, list[str]]:
        """The parts by name, for reports."""
        return {name: list(getattr(self, name)) for name in ("trained", "selection", "verdict")}


@dataclass(frozen=True, slots=True, eq=False)
class TuningTask:
    """What is tuned, by which opinions, into which folder.

    `stored` are fields of this generator's revision, to learn from before new ones are sampled. `others` are further
    opinions that are only measured.
    """

    generator: StepwiseGenerator
    reward: Opinion
    referee: Opinion
    prompts: Prompts
    out: Path
    settings: TuningSettings = TuningSettings()
    stored: Sequence[StoredField] = ()
    others: Mapping[str, Opinion] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to resume."""
        info = self.generator.info
        return {
            "generator": {"id": info.id, "revision": info.revision},
            "reward": {"id": self.reward.id, "revision": self.reward.revision},
            "referee": {"id": self.referee.id, "revision": self.referee.revision},
            "prompts": self.prompts.listed(),
            "settings": self.settings.digest,
            "stored": {"fields": len(self.stored), "digest": _digest([each.facts() for each in self.stored])},
        }


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
