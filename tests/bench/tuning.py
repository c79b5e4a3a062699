"""`python -m tests.bench.tuning`: tune the embedded pack on prompts of composed attributes, and measure by pixels.

The outside judge is the referee and never rewards. `pixels` is the share of images that show every stated attribute, by
the checks of `models.training.evaluation.checks`. Settings differ in who rewards, see `SETTINGS`. Base and result are
measured on prompts and seeds that no training has seen. Everything is written to `--out`; a second call resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import registry
from models.load_options import LoadOptions
from models.protocols import Pixels, to_host
from models.training.data import icons
from models.training.evaluation import checks
from models.training.evaluation import judge as outside
from models.training.evaluation.prompts import Prompt
from models.training.trainers.autoencoder import to_tensor
from models.training.trainers.scorer import say
from models.tuning.rewards import Opinion, Scores, opinion_of
from models.tuning.run import Prompts, Report, TuningTask, tune
from models.tuning.settings import TuningSettings
from tests.bench import tuning_prompts

JUDGE = Path(__file__).parent / "judge"

_SCORE_WEIGHT = 4.0
_WIDE = TuningSettings(rate=5e-4, prompts=24, candidates=16, timesteps=3, layers="wide")

SETTINGS: dict[str, tuple[str, TuningSettings]] = {
    "scorer": ("scorer", _WIDE),
    "pixels": ("pixels", _WIDE),
    "both": ("both", _WIDE),
    "attention": ("both", replace(_WIDE, layers="attention")),
    "bon": ("both", replace(_WIDE, method="bon")),
}
"""What is tried, by name: the reward and the settings.

The reward is the pack's own scorer, the share of stated attributes by pixels, or both.
"""


def judge_of(asked: Sequence[Prompt], device: str) -> Opinion:
    """The outside judge: mean log-probability of a prompt's things among all names."""
    model, names = outside.load(JUDGE), icons.pack_names()
    things = {prompt.text: [names.index(name) for name in prompt.names] for prompt in asked}
    with torch.inference_mode():
        embedded = model.texts([say(name) for name in names]).to(device)
    model.to(device)

    def score(prompt: str, images: Pixels) -> Scores:
        with torch.inference_mode():
            pictures = to_tensor(to_host(images)).to(device)
            found = model.logits(model.image(pictures), embedded).log_softmax(1)[:, things[prompt]].mean(1)
        return np.asarray(found.double().cpu().numpy())

    return Opinion("outside judge", "judge", score, models=(model,))


def pixels_of(asked: Sequence[Prompt]) -> Opinion:
    """1 for an image that shows every stated attribute, else 0."""
    scenes = {prompt.text: prompt.scene for prompt in asked}

    def score(prompt: str, images: Pixels) -> Scores:
        scene = scenes[prompt]
        assert scene is not None
        return np.array([float(all(checks.attributes(each, scene).values())) for each in to_host(images)])

    return Opinion("pixels", "checks", score)


def share_of(asked: Sequence[Prompt]) -> Opinion:
    """The share of the stated attributes that an image shows, as a reward that rules compute."""
    scenes = {prompt.text: prompt.scene for prompt in asked}

    def score(prompt: str, images: Pixels) -> Scores:
        scene = scenes[prompt]
        assert scene is not None
        return np.array([np.mean(list(checks.attributes(each, scene).values())) for each in to_host(images)])

    return Opinion("share of attributes", "checks", score)


def both_of(scorer: Opinion, share: Opinion) -> Opinion:
    """The share of attributes plus the score, weighted to about equal deviations within a field."""

    def score(prompt: str, images: Pixels) -> Scores:
        return share.score(prompt, images) + _SCORE_WEIGHT * scorer.score(prompt, images)

    return Opinion(f"{scorer.id} + {share.id}", "both", score, scorer.embed, scorer.models)


def run(name: str, device: str, out: Path, changes: dict[str, Any], held_out: int) -> Report:
    """Tune with the settings of that name into a folder below `out`."""
    models = registry.load_models("pictogram", "pictogram", device, options=LoadOptions(dtype="float32"))
    trained, asked = tuning_prompts.read()
    asked = asked[:held_out]
    reward, settings = SETTINGS[name]
    scorer, share = opinion_of(models.scorer), share_of([*trained, *asked])
    rewards = {"scorer": scorer, "pixels": share, "both": both_of(scorer, share)}
    task = TuningTask(
        models.generator,
        rewards[reward],
        judge_of(asked, models.generator.info.device),
        Prompts(tuple(prompt.text for prompt in trained), tuple(prompt.text for prompt in asked)),
        out / name,
        replace(settings, **changes),
        others={"pixels": pixels_of(asked)},
    )
    began = time.monotonic()

    def progress(done: int, text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {done:4}  {text}", flush=True)

    return tune(task, progress)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tuning", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"), help="a folder; each setting gets its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=2.0, help="limit of each setting, without loading")
    parser.add_argument("--settings", nargs="+", default=["both"], choices=sorted(SETTINGS))
    parser.add_argument("--held-out", type=int, default=tuning_prompts.HELD_OUT, help="prompts to measure on")
    known = {"iterations": 400, "evaluate_every": 10, "rows": 384, "batch": 96, "evaluated": 16, "accumulation": 1}
    for name, value in known.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    for name in ("prompts", "candidates", "timesteps"):
        parser.add_argument(f"--{name}", type=int, default=None)
    asked = parser.parse_args()
    given = {name: getattr(asked, name) for name in (*known, "prompts", "candidates", "timesteps")}
    changes = {name: value for name, value in given.items() if value is not None} | {"minutes": asked.minutes}
    for name in asked.settings:
        report = run(name, asked.device, asked.out, changes, asked.held_out)
        shown = {key: report[key] for key in ("verdict", "stop", "iterations", "chosen", "differences")}
        print(json.dumps({"settings": name, **shown, "final": report["final"]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
