"""What the benches of ensembles and of steering share: the models on a device, fields of many prompts, a limit of time.

On an accelerator the fields of many prompts are sampled together, since calls of a few rows cost as much as large ones.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain import GenerationSpec, Ranking
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.ranking import scoring
from app.engine.ranking.near_misses import contrast_terms, near_misses
from app.engine.trajectories import default_spec, run_generations
from models import registry
from models.load_options import LoadOptions
from models.protocols import Embedder, Embeddings, GeneratorInfo, Images, Models, Scorer, embeds
from models.training.data import icons
from models.training.evaluation import checks
from tests.bench.ensemble_figures import Field
from tests.bench.gain import Array

if TYPE_CHECKING:
    from tests.bench.judge import OutsideJudge

TOGETHER = 4096
"""Candidates that are sampled together on an accelerator."""

LARGEST_CALL = 1024
"""Rows of a call there."""


class Deadline:
    """A limit of minutes from its making; None for none."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else perf_counter() + 60 * minutes

    @property
    def is_over(self) -> bool:
        """Whether nothing further begins."""
        return self._end is not None and perf_counter() >= self._end


@dataclass(frozen=True, slots=True)
class Wanted:
    """A field to measure. `colour` is that of the stated background, `wordings` are as in `GenerationSpec`."""

    place: int
    first: int
    arm: str
    prompt: str
    colour: str
    count: int
    seed: int
    wordings: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[int, int, str]:
        """What it is called in a file of fields."""
        return self.place, self.first, self.arm


@dataclass(frozen=True)
class Bench:
    """The models on their device; `together` candidates are sampled at once."""

    models: Models
    core: EngineCore
    judge: OutsideJudge
    together: int

    @classmethod
    def load(cls, asked: argparse.Namespace, scorers: Sequence[str] = ()) -> Bench:
        """Load in float32, and make the first calls, which are slower than others."""
        from tests.bench.judge import OutsideJudge

        options = LoadOptions(dtype="float32", scorers=tuple(scorers))
        models = registry.load_models(asked.pack, asked.pack, asked.device, options=options)
        info = models.generator.info
        together = asked.together or (1 if info.device == "cpu" else TOGETHER)
        core = EngineCore(models, engine_config(together, info))
        bench = cls(models, core, OutsideJudge(info.device), together)
        bench.measured([Wanted(0, 0, "", f"a {icons.pack_names()[0]}", "white", min(together, LARGEST_CALL), 0)])
        return bench

    def measured(self, wanted: Sequence[Wanted]) -> list[Field]:
        """The fields, sampled together: all scores, both referees, and what each part took, shared by candidates."""
        began = perf_counter()
        specs = [_spec(self.models.generator.info, each) for each in wanted]
        outcomes = run_generations(self.core, specs)
        whole = {"sampling": perf_counter() - began}
        images = [np.stack([o.images[i] for i in range(w.count)]) for o, w in zip(outcomes, wanted, strict=True)]
        main = self.models.scorer
        scores = [{main.info.id: _plain(main, o.embeddings, w.prompt)} for o, w in zip(outcomes, wanted, strict=True)]
        against = [
            {main.info.id: _contrasted(main, o.embeddings, w.prompt)} for o, w in zip(outcomes, wanted, strict=True)
        ]
        for member in self.models.members:
            name, began = member.info.id, perf_counter()
            plain, contrasted, paused = _member(member, images, wanted)
            whole[name] = perf_counter() - began - paused
            for place in range(len(wanted)):
                scores[place][name], against[place][name] = plain[place], contrasted[place]
        total = sum(each.count for each in wanted)
        return [
            Field(
                prompt=each.prompt,
                main=main.info.id,
                only_score=tuple(m.info.id for m in self.models.members if not embeds(m)),
                scores=scores[place],
                against=against[place],
                judged=self.judge(each.prompt, images[place]),
                pixels=np.asarray([checks.background(image) == each.colour for image in images[place]], np.float64),
                seconds={name: spent * each.count / total for name, spent in whole.items()},
            )
            for place, each in enumerate(wanted)
        ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, if there is one.

    A last line that a killed run left torn is cut off, since the next row would be appended to it.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def engine_config(together: int, info: GeneratorInfo) -> EngineConfig:
    """The engine's own limits for fields one by one; else calls of one large size."""
    if together <= 1:
        return EngineConfig()
    rows = min(together, LARGEST_CALL)
    return EngineConfig(
        buckets=(rows,), capacity=2 * together, live_rows=4 * together, decode_pixels=rows * info.width * info.height
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both benches."""
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda[:n]; the number format is float32")
    parser.add_argument("--pack", default="pictogram", help="name or folder of the pack")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of rows and results")
    parser.add_argument("--minutes", type=float, default=None, help="begin nothing new after these; rows are kept")
    parser.add_argument("--take", type=int, default=None, help="fields or prompts of this run; default: all missing")
    parser.add_argument(
        "--together", type=int, default=None, help=f"candidates sampled at once; default: one field, {TOGETHER} on GPUs"
    )


def _spec(info: GeneratorInfo, wanted: Wanted) -> GenerationSpec:
    name = f"bench_{wanted.place}_{wanted.first}_{wanted.arm}"
    return replace(default_spec(info, name, wanted.prompt, wanted.count, wanted.seed), wordings=wanted.wordings)


def _member(
    member: Embedder | Scorer, images: Sequence[Images], wanted: Sequence[Wanted]
) -> tuple[list[Array], list[Array], float]:
    """Scores of each field, plain and less near misses, and the seconds for near misses, which are no part of it."""
    if not embeds(member):
        plain = [np.asarray(member.score(each, w.prompt), np.float64) for each, w in zip(images, wanted, strict=True)]
        return plain, plain, 0.0
    vectors = np.split(
        member.embed_images(np.concatenate(images)), np.cumsum([len(each) for each in images])[:-1].tolist()
    )
    plain = [_plain(member, each, w.prompt) for each, w in zip(vectors, wanted, strict=True)]
    paused = perf_counter()
    contrasted = [_contrasted(member, each, w.prompt) for each, w in zip(vectors, wanted, strict=True)]
    return plain, contrasted, perf_counter() - paused


def _plain(scorer: Embedder, images: Embeddings, prompt: str) -> Array:
    """Scores (N,) of a scorer's vectors."""
    (text,) = scorer.embed_texts([prompt])
    none = np.zeros((0, images.shape[1]), np.float32)
    query = scoring.build_query(Ranking(), text.vector, none, [])
    return np.asarray([one.score for one in scoring.score_images(images, query)], np.float64)


def _contrasted(scorer: Embedder, images: Embeddings, prompt: str) -> Array:
    """The same less the similarity to near misses."""
    plain, misses = _plain(scorer, images, prompt), near_misses(prompt)
    if not misses:
        return plain
    vectors = np.stack([one.vector for one in scorer.embed_texts(misses)])
    return plain - contrast_terms(images, vectors, scorer.info.logit_scale)
