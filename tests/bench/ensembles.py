"""`python -m tests.bench.ensembles`: best of N by several scorers and by one, by the outside judge and by pixels.

`--part paired`: every way of ranking chooses from the same 16 finished candidates of a prompt. The main scorer alone
also chooses from as many as equal device seconds allow: members cost time that could make candidates. `--part large`:
the judge's value of the winner among more and more candidates, up to 1,024 of a prompt. Scores go to `--rows`, a line
a field; a run takes the fields that it lacks, at most `--take` of them, so that the work can be cut in pieces.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from app.domain import GenerationSpec, Ranking
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Outcome
from app.engine.ranking import scoring
from app.engine.ranking.near_misses import COLOURS, contrast_terms, near_misses
from app.engine.trajectories import run_generation
from models import registry
from models.load_options import LoadOptions
from models.protocols import Embedder, Embeddings, Images, Models, Scorer, embeds
from models.training.evaluation import checks
from tests.bench import plots
from tests.bench.ensemble_figures import Field, curves, paired
from tests.bench.gain import Array, Judge
from tests.bench.kit import RESULTS, machine

SEED = 70_000
PAIRED, EXTRA = 16, 1
"""Candidates that all ways choose from, and further ones for equal device seconds."""

LARGE, CHUNK = 1024, 64
"""Candidates of a prompt of the large part, and of one of its fields."""


def prompts_of(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Prompts with a thing and a coloured background, each with its colour.

    The judge knows the thing, pixels show the colour, near misses exchange both.
    """
    random = np.random.default_rng(SEED)
    usable = [name for name in names if " on a" not in name]
    chosen = random.permutation(len(usable))[:count]
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(chosen))]
    return [
        (f"{_with_article(usable[i])} on {_with_article(colour)} background", colour)
        for i, colour in zip(chosen, colours, strict=True)
    ]


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def embedded_scores(scorer: Embedder, images: Embeddings, prompt: str) -> tuple[Array, Array]:
    """Scores (N,) of a scorer's vectors, plain and less the similarity to near misses."""
    (text,) = scorer.embed_texts([prompt])
    none = np.zeros((0, images.shape[1]), np.float32)
    query = scoring.build_query(Ranking(), text.vector, none, [])
    plain = np.asarray([one.score for one in scoring.score_images(images, query)], np.float64)
    misses = near_misses(prompt)
    if not misses:
        return plain, plain
    vectors = np.stack([one.vector for one in scorer.embed_texts(misses)])
    return plain, plain - contrast_terms(images, vectors, scorer.info.logit_scale)


def measured(models: Models, core: EngineCore, prompt: str, colour: str, seed: int, n: int, judge: Judge) -> Field:
    """One field of a prompt: all scores, both referees, and what each part took."""
    began = perf_counter()
    outcome = finished(models, core, prompt, n, seed)
    seconds = {"sampling": perf_counter() - began}
    images = np.stack([outcome.images[i] for i in range(n)])
    main = models.scorer.info.id
    scores, against = dict[str, Array](), dict[str, Array]()
    scores[main], against[main] = embedded_scores(models.scorer, outcome.embeddings, prompt)
    only_score = []
    for member in models.members:
        name, began = member.info.id, perf_counter()
        scores[name], against[name] = _member_scores(member, images, prompt)
        seconds[name] = perf_counter() - began
        only_score += [] if embeds(member) else [name]
    return Field(
        prompt=prompt,
        main=main,
        only_score=tuple(only_score),
        scores=scores,
        against=against,
        judged=judge(prompt, images),
        pixels=np.asarray([checks.background(image) == colour for image in images], np.float64),
        seconds=seconds,
    )


def _member_scores(member: Embedder | Scorer, images: Images, prompt: str) -> tuple[Array, Array]:
    if embeds(member):
        return embedded_scores(member, member.embed_images(images), prompt)
    values = np.asarray(member.score(images, prompt), np.float64)
    return values, values


def finished(models: Models, core: EngineCore, prompt: str, n: int, seed: int) -> Outcome:
    """The finished candidates of a prompt, unpruned, with all images."""
    info = models.generator.info
    spec = GenerationSpec(
        id="gen_bench",
        prompt=prompt,
        negative_prompt="",
        n_candidates=n,
        n=n,
        width=info.width,
        height=info.height,
        steps=info.steps,
        guidance_scale=info.guidance_scale,
        sampler=info.sampler,
        seed=seed,
    )
    return run_generation(core, spec)


def stored_fields(path: Path, asked: argparse.Namespace, key: str) -> dict[tuple[int, int], Field]:
    """The fields of this part and these models that are in the file, by prompt and first candidate."""
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return {
        (row["place"], row["first"]): Field.from_json(row["field"])
        for row in rows
        if row["part"] == asked.part and row["models"] == key and row["place"] < asked.prompts
    }


def fill(models: Models, asked: argparse.Namespace, texts: Sequence[tuple[str, str]], key: str, judge: Judge) -> bool:
    """Measure fields that the file lacks; return whether it now holds all."""
    core = EngineCore(models, EngineConfig())
    size, total = (PAIRED + EXTRA, PAIRED + EXTRA) if asked.part == "paired" else (CHUNK, asked.candidates)
    wanted = [(place, first) for place in range(len(texts)) for first in range(0, total, size)]
    missing = [each for each in wanted if each not in stored_fields(asked.rows, asked, key)]
    with asked.rows.open("a") as file:
        for place, first in missing[: asked.take]:
            seed = SEED + place * LARGE + first
            field = measured(models, core, *texts[place], seed, min(size, total - first), judge)
            row = {"part": asked.part, "models": key, "place": place, "first": first, "field": field.to_json()}
            print(json.dumps(row), file=file, flush=True)
            print(f"prompt {place + 1} of {len(texts)}, candidates from {first}", flush=True)
    return asked.take is None or len(missing) <= asked.take


def main() -> None:
    """Measure the fields that are missing; then print, store and draw the whole."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ensembles", description=__doc__)
    parser.add_argument("--part", choices=("paired", "large"), default="paired")
    parser.add_argument("--scorers", nargs="*", default=[], help="members beside the pack's scorer")
    parser.add_argument("--prompts", type=int, default=None, help="default: 200, in the large part 20")
    parser.add_argument("--candidates", type=int, default=LARGE, help="candidates of a prompt in the large part")
    parser.add_argument("--take", type=int, default=None, help="fields of this run; default: all that are missing")
    parser.add_argument("--rows", type=Path, default=Path("runs/ensembles.jsonl"), help="the file of measured fields")
    parser.add_argument("--out", type=Path, default=RESULTS / "ensembles.json")
    asked = parser.parse_args()
    asked.prompts = asked.prompts or (200 if asked.part == "paired" else 20)
    from models.training.data import icons
    from tests.bench.judge import judge

    models = registry.load_models("pictogram", "pictogram", "cpu", options=LoadOptions(scorers=tuple(asked.scorers)))
    panel = {each.info.id: each.info.revision for each in (models.scorer, *models.members)}
    key = json.dumps({"generator": models.generator.info.revision, **panel})
    asked.rows.parent.mkdir(parents=True, exist_ok=True)
    if not fill(models, asked, prompts_of(icons.pack_names(), asked.prompts), key, judge()):
        print("run it again for the other fields")
        return
    fields = stored_fields(asked.rows, asked, key)
    result: dict[str, Any] = {"machine": machine(), "models": json.loads(key)}
    if asked.part == "paired":
        result |= paired(list(fields.values()), PAIRED)
    else:
        result |= curves(fields)
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    asked.out.write_text(json.dumps(known | {asked.part: result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if asked.part == "large":
        print(plots.draw_over_optimisation(asked.out, result))


if __name__ == "__main__":
    main()
