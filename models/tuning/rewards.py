"""Rewards: scores of a field as optimalities, and models as opinions.

Owns the check that reward and referee are different models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from models.prompt_weights import without_marks
from models.protocols import Embedder, Embeddings, GeneratorInfo, Pixels, Scorer, embeds
from models.runtime.weights import modules_of
from models.scorers.deferred import DeferredScorer
from models.tuning.settings import TuningError

Scores: TypeAlias = NDArray[np.float64]

CLIP = 5.0
"""Largest advantage, in standard deviations of the field."""

_FLAT = 1e-9
_FEWEST_VALUES = 64
_SAMPLED = 64
_ROUNDING = 2.0**-8
"""Largest difference of equal weights in 16-bit formats.

It is relative to the range of a tensor's values.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """A model that judges images.

    `score` maps prompt and images to (B,), higher is better.

    `embed` maps images to unit vectors; None if it has none. `models` are what it runs, for the check of weights.
    `personal`: it states a taste, not quality.
    """

    id: str
    revision: str
    score: Callable[[str, Pixels], Scores]
    embed: Callable[[Pixels], Embeddings] | None = None
    models: tuple[Any, ...] = ()
    personal: bool = False


def opinion_of(model: Embedder | Scorer) -> Opinion:
    """A scorer as an opinion: the cosine of an embedder, the score of any other."""
    if not embeds(model):
        return Opinion(
            model.info.id,
            model.info.revision,
            lambda prompt, images: np.asarray(model.score(images, prompt), np.float64),
            models=(model,),
        )

    def cosine(prompt: str, images: Pixels) -> Scores:
        return np.asarray(model.embed_images(images) @ model.embed_texts([prompt])[0].vector, np.float64)

    return Opinion(model.info.id, model.info.revision, cosine, model.embed_images, (model,))


def without_weights(opinion: Opinion, info: GeneratorInfo) -> Opinion:
    """The opinion on prompts without weights that the generator applies.

    Weights are marks such as `(red:1.4)`.
    """
    if info.prompt_weights != "applied":
        return opinion
    return replace(opinion, score=lambda prompt, images: opinion.score(without_marks(prompt), images))


def check_independent(reward: Opinion, referee: Opinion) -> None:
    """Raise TuningError if reward and referee are the same model, or share weights.

    Revisions are compared first. Deferred scorers are loaded to compare their weights. Raises the errors of
    `models.errors` if that fails.
    """
    advice = "name another model as referee, of different pre-training"
    alike = (reward.embed is None) == (referee.embed is None)
    if reward.id == referee.id or (alike and reward.revision == referee.revision):
        raise TuningError(f"{referee.id!r} is both reward and referee, so it would confirm itself: {advice}")
    if _revisions(reward) & _revisions(referee) or _share_weights(reward, referee):
        raise TuningError(f"{reward.id!r} and {referee.id!r} share weights, so one would confirm the other: {advice}")


def _revisions(opinion: Opinion) -> set[tuple[bool, str]]:
    """Kinds and revisions of the scorers that an opinion runs.

    Revisions follow from weights.
    """
    scorers = (model for model in opinion.models if hasattr(model, "info"))
    return {(embeds(scorer), scorer.info.revision) for scorer in scorers}


def _share_weights(one: Opinion, other: Opinion) -> bool:
    """Whether a tensor of one is among those of the other, in whatever number formats."""
    known = _samples(other)
    return any(
        bool((np.abs(values - known[shape]).max(1) <= _ROUNDING * np.ptp(values)).any())
        for shape, found in _samples(one).items()
        if shape in known
        for values in found
    )


def _samples(opinion: Opinion) -> dict[tuple[int, ...], Scores]:
    """Values (T, S) of the tensors of an opinion's models, by shape.

    Small and constant tensors are left out.
    """
    models = (each.loaded() if isinstance(each, DeferredScorer) else each for each in opinion.models)
    found = dict[tuple[int, ...], list[Scores]]()
    for module in modules_of(*models):
        for tensor in module.state_dict().values():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel() >= _FEWEST_VALUES:
                values = tensor.detach().flatten()[:: max(1, tensor.numel() // _SAMPLED)][:_SAMPLED].double().cpu()
                if float(values.max() - values.min()) > _FLAT:
                    found.setdefault(tuple(tensor.shape), []).append(np.asarray(values.numpy()))
    return {shape: np.stack(values) for shape, values in found.items()}


def advantages(scores: Scores) -> Scores:
    """Scores (N,) of one field in its standard deviations from its mean.

    Scores that are no numbers stay so. NaN for all if the field has no spread.
    """
    known = np.isfinite(scores)
    if known.sum() < 2:
        return np.full(len(scores), np.nan)
    mean, spread = float(scores[known].mean()), float(scores[known].std())
    if spread <= _FLAT * max(1.0, abs(mean)):
        return np.full(len(scores), np.nan)
    return np.where(known, (scores - mean) / spread, np.nan)


def optimality(scores: Scores, votes: Mapping[int, bool]) -> Scores:
    """Optimalities (N,) in [0, 1] of a field's candidates; NaN for unusable ones.

    0.5 plus a tenth of the advantage, which is clipped. `votes` override: True, a like, is 1, and False is 0.
    """
    made = 0.5 + np.clip(advantages(scores), -CLIP, CLIP) / (2 * CLIP)
    for index, liked in votes.items():
        made[index] = float(liked)
    return made


def distillation_weights(scores: Scores, votes: Mapping[int, bool]) -> Scores:
    """Weights (N,) of best-of-N distillation: by advantage, 0 below the mean.

    The mean of the positive ones is 1. `votes` override: a like weighs as much as the best, a dislike nothing. NaN for
    unusable candidates.
    """
    found = advantages(scores)
    made = np.where(found > 0, np.exp(np.minimum(found, CLIP)), np.where(np.isnan(found), np.nan, 0.0))
    best = float(np.nanmax(made)) if np.isfinite(made).any() else 1.0
    for index, liked in votes.items():
        made[index] = best if liked else 0.0
    positive = made[np.nan_to_num(made) > 0]
    return made / positive.mean() if len(positive) else made
