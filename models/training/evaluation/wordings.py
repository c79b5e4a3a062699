"""Figures of texts: Russian prompts, spread fields, names in other languages.

The first two are paired: a prompt has the same seeds in either form.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from models.bootstrap import interval
from models.training.data.palette import U8
from models.training.data.scenes import Icons
from models.training.evaluation import fields, prompts, russian
from models.training.evaluation.sampling import Pack

CANDIDATES = 16
SEED = 31


class Run(Protocol):
    """What a part of the figures is measured with, see `evaluate.Evaluation`."""

    pack: Pack

    def some(self, every: list[Any]) -> list[Any]:
        """The share of a list that is measured."""
        ...

    def judged(self, pictures: U8) -> torch.Tensor:
        """Log-probabilities (B, names) by the judge."""
        ...

    def holds(self, logp: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        """Whether the judge's top five contain every name: bool (B,)."""
        ...


def measure_russian(run: Run) -> dict[str, Any]:
    """The judge's top five contain the thing, best of 16: Russian beside English.

    `alike` is the share of all `pairs` whose understood text equals the English prompt. Such fields are equal to the
    bit, so that only the others can differ. `prompts` pairs are sampled.
    """
    pairs = russian.pairs()
    understood = [pair.russian if (r := run.pack.read(pair.russian)) is None else r.understood for pair in pairs]
    alike = [text == pair.english for text, pair in zip(understood, pairs, strict=True)]
    found = list[tuple[bool, bool]]()
    for place, (pair, text) in enumerate(run.some(list(zip(pairs, understood, strict=True)))):
        english = _best_holds(run, place, pair.english, pair.name)
        found.append((english, english if alike[place] else _best_holds(run, place, text, pair.name)))
    english_top5, russian_top5 = np.mean(found, axis=0).tolist()
    return {
        "pairs": len(pairs),
        "alike": float(np.mean(alike)),
        "differing": [pair.russian for pair, same in zip(pairs, alike, strict=True) if not same],
        "prompts": len(found),
        "english_top5": english_top5,
        "russian_top5": russian_top5,
        "ratio": russian_top5 / english_top5 if english_top5 else None,
    }


def _best_holds(run: Run, place: int, text: str, name: str) -> bool:
    pictures = run.pack.draw(text, CANDIDATES, CANDIDATES * place).pictures
    best = int(run.pack.scores(pictures, text).argmax())
    return bool(run.holds(run.judged(pictures), (name,))[best])


def measure_spread(run: Run, names: Sequence[str], sets: Icons) -> dict[str, Any]:
    """Fields of 16 without a stated style, as asked and spread over the styles.

    Both are ranked by the prompt that was asked. `distinct` counts the true drawings that are the nearest of some
    candidate. `best_top5` is of the judge; `difference` is spread minus asked with a 95 % interval over prompts, and
    `preferred` the mean difference of the judge's log-probability of the best.
    """
    phrases = run.pack.meta["generator"]["styles"]["phrases"]
    rows: dict[str, list[tuple[float, bool, float, float]]] = {"asked": [], "spread": []}
    for place, prompt in enumerate(run.some(prompts.open_background(names, 200))):
        seed, spread = CANDIDATES * place, [f"{prompt.text}, {phrase}" for phrase in phrases]
        drawn = {
            "asked": run.pack.draw(prompt.text, CANDIDATES, seed, wordings=()).pictures,
            "spread": run.pack.draw(prompt.text, CANDIDATES, seed, wordings=spread).pictures,
        }
        for kind, pictures in drawn.items():
            rows[kind].append(_field(run, prompt, pictures, names, sets))
    asked, varied = (np.asarray(rows[kind], np.float64) for kind in ("asked", "spread"))
    gain, preferred = (varied - asked)[:, 1], (varied - asked)[:, 2]
    columns = ("distinct", "best_top5", "best_log_probability", "random_top5")
    return {
        "prompts": len(asked),
        "asked": dict(zip(columns, asked.mean(0).tolist(), strict=True)),
        "spread": dict(zip(columns, varied.mean(0).tolist(), strict=True)),
        "difference": float(gain.mean()),
        "interval": list(interval(gain, seed=SEED)),
        "preferred": float(preferred.mean()),
        "preferred_interval": list(interval(preferred, seed=SEED)),
    }


OTHERS = ("de", "fr", "es")
"""Languages that the text path does not translate."""


class Texts(Protocol):
    """What embeds texts, see `sampling.Pack`."""

    def embed_texts(self, captions: Sequence[str]) -> torch.Tensor:
        """float32 (B, D), normalised."""
        ...


def measure_languages(pack: Texts, names: Sequence[str], labels: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Whether names in other languages are embedded like the English ones.

    `labels` are names by language and English name. A name counts for `r1` if the English name nearest to it is its
    own, for `r5` if that is among the nearest five. `unchanged` is the share that is spelt as in English.
    """
    english = pack.embed_texts(names)
    found = dict[str, Any]()
    for language in OTHERS:
        texts = [labels[language][name] for name in names]
        ranked = (pack.embed_texts(texts) @ english.T).argsort(dim=1, descending=True)
        right = ranked == torch.arange(len(names), device=ranked.device)[:, None]
        found[language] = {
            "names": len(names),
            "r1": float(right[:, 0].float().mean()),
            "r5": float(right[:, :5].any(1).float().mean()),
            "unchanged": float(np.mean([text == name for text, name in zip(texts, names, strict=True)])),
        }
    return found


def _field(
    run: Run, prompt: prompts.Prompt, pictures: U8, names: Sequence[str], sets: Icons
) -> tuple[float, bool, float, float]:
    logp = run.judged(pictures)
    holds = run.holds(logp, prompt.names)
    best = int(run.pack.scores(pictures, prompt.text).argmax())
    own = logp[:, list(names).index(prompt.names[0])]
    nearest = set(fields.nearest(pictures, prompt.names[0], sets))
    return float(len(nearest)), bool(holds[best]), float(own[best]), float(holds.float().mean())
