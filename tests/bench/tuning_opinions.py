"""Opinions of the tuning bench: the outside judge, and checks by pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from models.protocols import Pixels, to_host
from models.training.data import icons
from models.training.evaluation import checks
from models.training.evaluation import judge as outside
from models.training.evaluation.prompts import Prompt
from models.training.trainers.autoencoder import to_tensor
from models.training.trainers.scorer import say
from models.tuning.rewards import Opinion, Scores

JUDGE = Path(__file__).parent / "judge"

_SCORE_WEIGHT = 4.0


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


def printed() -> Callable[[int, str], None]:
    """A progress that prints seconds, iterations and a text."""
    began = time.monotonic()

    def progress(done: int, text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {done:4}  {text}", flush=True)

    return progress
