"""`python -m tests.bench.ensembles`: best of N by several scorers and by one.

The outside judge compares the winners. Every way of ranking chooses from the same finished candidates, so the device
seconds of sampling are equal. The interval is a bootstrap over prompts of the paired differences. `--scorers` names
members, each way of combining them is measured; without any, `contrast` alone is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from app.domain import GenerationSpec, Ranking, ScorerUse
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Outcome, Succeeded
from app.engine.ranking import ensemble, scoring
from app.engine.ranking.near_misses import COLOURS, contrast_terms, near_misses
from models import registry
from models.ensembles import embedders
from models.load_options import LoadOptions
from models.protocols import Embedder, Embeddings, Models
from tests.bench.gain import Array, Judge
from tests.bench.kit import RESULTS, machine

UNCERTAINTIES = (0.0, 0.5, 1.0)
RESAMPLES = 10_000
SEED = 70_000


def prompts_of(names: Sequence[str], count: int) -> list[str]:
    """Prompts with a thing and a coloured background.

    The judge knows the thing, near misses exchange both.
    """
    random = np.random.default_rng(SEED)
    chosen = random.permutation(len(names))[:count]
    return [f"a {names[i]} on a {COLOURS[place % len(COLOURS)]} background" for place, i in enumerate(chosen)]


def own_scores(scorer: Embedder, images: Embeddings, prompt: str, *, contrast: bool = False) -> Array:
    """Scores (N,) of a scorer's vectors; less the similarity to near misses."""
    (text,) = scorer.embed_texts([prompt])
    none = np.zeros((0, images.shape[1]), np.float32)
    query = scoring.build_query(Ranking(), text.vector, none, [])
    scores = np.asarray([one.score for one in scoring.score_images(images, query)], np.float64)
    misses = near_misses(prompt) if contrast else ()
    if misses:
        vectors = np.stack([one.vector for one in scorer.embed_texts(misses)])
        scores -= contrast_terms(images, vectors, scorer.info.logit_scale)
    return scores


def rankings(models: Models, outcome: Outcome, prompt: str) -> dict[str, Array]:
    """Scores (N,) of one prompt's candidates by each way; `alone` is the main scorer."""
    vectors = {models.scorer.info.id: outcome.embeddings, **outcome.members}
    scorers = {models.scorer.info.id: models.scorer, **{one.info.id: one for one in embedders(models)}}
    plain = {name: own_scores(scorers[name], images, prompt) for name, images in vectors.items()}
    against = {name: own_scores(scorers[name], images, prompt, contrast=True) for name, images in vectors.items()}
    found = {"alone": plain[models.scorer.info.id], "contrast": against[models.scorer.info.id]}
    field = range(len(outcome.embeddings))
    if len(plain) > 1:
        weights = dict.fromkeys(plain, 1.0)
        for uncertainty in UNCERTAINTIES:
            found[f"ensemble, uncertainty {uncertainty:g}"] = ensemble.combine(plain, weights, uncertainty, field)
        found["ensemble, contrast"] = ensemble.combine(against, weights, 0.5, field)
    return found


def differences(judged: Sequence[Array], ranked: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The judge's value of each way's winner less that of the main scorer's."""
    ways = [way for way in ranked[0] if way != "alone"]
    return {
        way: np.asarray(
            [
                values[int(np.argmax(by[way]))] - values[int(np.argmax(by["alone"]))]
                for values, by in zip(judged, ranked, strict=True)
            ]
        )
        for way in ways
    }


def interval(paired: Array, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of the mean difference, by a bootstrap over prompts."""
    chosen = np.random.default_rng(0).integers(0, len(paired), (resamples, len(paired)))
    low, high = np.percentile(paired[chosen].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def measure(models: Models, prompts: Sequence[str], n_candidates: int, judge: Judge) -> dict[str, object]:
    """Each way's gain over the main scorer alone, with its interval."""
    uses = tuple(ScorerUse(name) for name in (models.scorer.info.id, *(one.info.id for one in embedders(models))))
    judged, ranked = list[Array](), list[dict[str, Array]]()
    for place, prompt in enumerate(prompts):
        outcome = finished(models, prompt, n_candidates, SEED + place * n_candidates, uses)
        judged.append(judge(prompt, np.stack([outcome.images[i] for i in range(n_candidates)])))
        ranked.append(rankings(models, outcome, prompt))
        print(f"{place + 1} of {len(prompts)}", flush=True)
    alone = [values[int(np.argmax(by["alone"]))] - values.mean() for values, by in zip(judged, ranked, strict=True)]
    ways = {}
    for way, paired in differences(judged, ranked).items():
        low, high = interval(paired)
        changed = int((paired != 0).sum())
        ways[way] = {"mean": float(paired.mean()), "low": low, "high": high, "other_winner": changed}
    return {
        "prompts": len(prompts),
        "with_near_misses": sum(bool(near_misses(prompt)) for prompt in prompts),
        "n_candidates": n_candidates,
        "scorers": [use.name for use in uses],
        "gain_of_the_main_scorer": float(np.mean(alone)),
        "over_the_main_scorer": ways,
    }


def finished(models: Models, prompt: str, n: int, seed: int, uses: tuple[ScorerUse, ...]) -> Outcome:
    """The finished candidates of a prompt, unpruned, with all images."""
    info, core = models.generator.info, EngineCore(models, EngineConfig())
    core.submit(
        GenerationSpec(
            id="gen_bench",
            prompt=prompt,
            negative_prompt="",
            n_candidates=n,
            n=1,
            width=info.width,
            height=info.height,
            steps=info.steps,
            guidance_scale=info.guidance_scale,
            sampler=info.sampler,
            seed=seed,
            ranking=Ranking(contrast=True, scorers=uses),
        ),
        0.0,
    )
    while not core.idle:
        for _, update in core.tick():
            if isinstance(update, Succeeded):
                return update.outcome
    raise RuntimeError(f"no result of {prompt!r}")


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ensembles", description=__doc__)
    parser.add_argument("--scorers", nargs="*", default=[], help="members beside the pack's scorer")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS / "ensembles.json")
    asked = parser.parse_args()
    from models.training.data import icons
    from tests.bench.judge import judge

    models = registry.load_models("pictogram", "pictogram", "cpu", options=LoadOptions(scorers=tuple(asked.scorers)))
    texts = prompts_of(icons.pack_names(), asked.prompts)
    found = {"machine": machine(), **measure(models, texts, asked.candidates, judge())}
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
