"""Own scores of each scorer of an ensemble.

They come from stored vectors, kept numbers, or images.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from app.domain import Notice, Ranking, Score
from app.engine.notices import truncation_notice
from app.engine.protocols import Engine, PanelScorer
from app.engine.ranking import scoring
from app.engine.ranking.near_misses import contrast_terms
from app.errors import FrontrunnerError
from models.errors import ScoringFailed
from models.protocols import Embeddings, ScorerInfo, ScoringInfo, TextEmbedding

log = logging.getLogger(__name__)

CACHED_TEXTS = 4096
"""Text vectors that are kept.

So ranking again by other weights asks no scorer.
"""

SMOOTHING = 0.3
"""Weight of the newest call in the moving average of a scorer's seconds per image."""

Image = NDArray[np.uint8]
Values = NDArray[np.float64]


class LeftOut(Exception):
    """A scorer does not judge: a code, and a reason as part of a sentence."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True, eq=False)
class Judgeable:
    """N candidates as scorers see them.

    `scores` are the main scorer's, None for NaN; `embeddings` (N, D) its vectors. `members` holds the vectors of other
    scorers by name, NaN for candidates that they did not see. `known` holds numbers of scorers that only score, by name
    and index; new ones are added. `images` are those at hand, by index. `left_out` says why a scorer does not judge.
    """

    scores: list[Score | None]
    embeddings: Embeddings
    members: dict[str, Embeddings] = field(default_factory=dict)
    known: dict[str, dict[int, float]] = field(default_factory=dict)
    images: Mapping[int, Image] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)


class PanelScores:
    """Scores by scorer; use in one event loop."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = perf_counter) -> None:
        self._engine = engine
        self._clock = clock
        self._texts: OrderedDict[tuple[str, str, str], TextEmbedding] = OrderedDict()
        self._seconds: dict[str, float] = {}

    def seconds(self, name: str) -> float | None:
        """Seconds per image of a scorer that only scores, a moving average.

        None before its first call.
        """
        return self._seconds.get(name)

    async def caption(self, info: ScorerInfo, prompt: str) -> str:
        """The caption that a scorer reads a prompt as; the prompt if it is read as it is."""
        (embedded,) = await self._embedded(info, [prompt])
        return prompt if embedded.reading is None else embedded.reading.understood

    async def contrast(self, images: Embeddings, misses: Sequence[str], info: ScorerInfo) -> NDArray[np.float32]:
        """What near misses subtract from the main scorer's scores: float32 (N,)."""
        vectors = await self._embedded(info, misses)
        stacked = np.stack([v.vector for v in vectors])
        return await asyncio.to_thread(contrast_terms, images, stacked, info.logit_scale)

    async def embedded(
        self, images: Embeddings, info: ScorerInfo, prompt: str, ranking: Ranking, misses: Sequence[str] = ()
    ) -> tuple[Values, list[Notice]]:
        """Scores (N,) of an embedding member by its own vectors (N, D).

        The formula is the main scorer's, without taste.

        NaN where the vectors are. Raises LeftOut.
        """
        texts = (prompt, *(n.text for n in ranking.negatives))
        try:
            vectors = await self._embedded(info, texts)
            subtracted = await self.contrast(images, misses, info) if misses else np.zeros(len(images), np.float32)
        except FrontrunnerError as error:
            raise LeftOut("failed", "it failed to read the texts") from error
        stacked = np.stack([v.vector for v in vectors])
        own = [replace(r, vector=r.members[info.id]) for r in ranking.references if info.id in r.members]
        plain = replace(ranking, references=tuple(own), taste=None)
        query = scoring.build_query(plain, stacked[0], stacked[1:], [n.weight for n in ranking.negatives])
        scored = await asyncio.to_thread(scoring.score_images, images, query)
        scores = np.asarray([s.score for s in scored], np.float64) - subtracted
        notices = [
            truncation_notice(info.id, text, vector.truncation)
            for text, vector in zip(texts, vectors, strict=True)
            if vector.truncation is not None
        ]
        if lost := len(ranking.references) - len(own):
            detail = f"{lost} references have no embedding of this scorer, so its scores are without them"
            notices.append(Notice("references_left_out", detail, {"scorer": info.id, "references": lost}))
        return scores, notices

    async def judged(self, field: Judgeable, info: ScoringInfo, prompt: str, chosen: Sequence[int]) -> Values:
        """Scores (N,) of a scorer that only scores.

        The `chosen` images at hand are scored, and their numbers are known then. Others have the known numbers.

        NaN for others. Raises LeftOut.
        """
        known = field.known.setdefault(info.id, {})
        unseen = [i for i in chosen if i in field.images and i not in known]
        if unseen:
            try:
                scores = await self.score([field.images[i] for i in unseen], prompt, info)
            except LeftOut:
                known.clear()
                raise
            known.update(zip(unseen, scores.tolist(), strict=True))
        found = np.full(len(field.scores), np.nan)
        found[list(known)] = list(known.values())
        if chosen and not np.isfinite(found[list(chosen)]).any():
            why = "it only scores images, and has no numbers for this text; generate again to use it"
            raise LeftOut("text_changed", why)
        return found

    async def score(self, images: Sequence[Image], prompt: str, info: ScoringInfo) -> Values:
        """Scores of images (H, W, 3) by a scorer that only scores. Raises LeftOut."""
        started = self._clock()
        try:
            scores = np.asarray(await self._engine.score_images(images, prompt, info.id), np.float64)
        except ScoringFailed as error:
            raise LeftOut(error.reason, str(error).rstrip(".")) from error
        except FrontrunnerError as error:
            raise LeftOut("failed", "it failed on the device") from error
        except Exception as error:
            log.exception("a scorer failed", extra={"scorer": info.id})
            raise LeftOut("failed", f"it failed ({type(error).__name__})") from error
        self._note(info.id, (self._clock() - started) / len(images))
        if not np.isfinite(scores).all():
            raise LeftOut("not_a_number", "it returned what is not a number")
        return scores

    def _note(self, name: str, seconds: float) -> None:
        known = self._seconds.get(name, seconds)
        self._seconds[name] = known + SMOOTHING * (seconds - known)

    async def vectors(self, images: Sequence[Image], info: ScorerInfo) -> Embeddings:
        """Vectors of images (H, W, 3) by an embedding member: float32 (N, D).

        Raises LeftOut.
        """
        try:
            found = await self._engine.embed_images(images, info.id)
        except FrontrunnerError as error:
            raise LeftOut("failed", "it failed on the device") from error
        if not np.isfinite(found).all():
            raise LeftOut("not_a_number", "it returned what is not a number")
        return found

    async def similarities(self, images: Embeddings, prompt: str, info: ScorerInfo) -> Values:
        """Cosines (N,) of an embedding scorer's vectors with the prompt.

        Raises FrontrunnerError.
        """
        (text,) = await self._embedded(info, [prompt])
        return np.asarray(np.multiply(images, text.vector).sum(axis=1), np.float64)

    async def _embedded(self, info: ScorerInfo, texts: Sequence[str]) -> list[TextEmbedding]:
        """Vectors of texts; only new ones take a call."""
        keys = [(info.id, info.revision, text) for text in texts]
        new = list(dict.fromkeys(key for key in keys if key not in self._texts))
        if new:
            vectors = await self._engine.embed_texts([text for _, _, text in new], info.id)
            self._texts.update(zip(new, vectors, strict=True))
        found = [self._texts[key] for key in keys]
        for key in keys:
            self._texts.move_to_end(key)
        while len(self._texts) > CACHED_TEXTS:
            self._texts.popitem(last=False)
        return found


class MemberCollector:
    """Vectors and numbers of members for images that come in batches; keeps no image.

    A member that fails sees no further batch.
    """

    def __init__(self, panel: PanelScores, members: Sequence[PanelScorer], prompt: str) -> None:
        self._panel = panel
        self._members = members
        self._prompt = prompt
        self._vectors: dict[str, list[Embeddings]] = {}
        self._numbers: dict[str, dict[int, float]] = {}
        self._left_out: dict[str, LeftOut] = {}
        self._count = 0

    async def add(self, images: Sequence[Image]) -> None:
        """Judge the next images (H, W, 3)."""
        for member in self._members:
            name = member.info.id
            if name in self._left_out:
                continue
            try:
                if isinstance(member.info, ScorerInfo):
                    self._vectors.setdefault(name, []).append(await self._panel.vectors(images, member.info))
                else:
                    scores = await self._panel.score(images, self._prompt, member.info)
                    self._numbers.setdefault(name, {}).update(enumerate(scores.tolist(), self._count))
            except LeftOut as left:
                self._left_out[name] = left
        self._count += len(images)

    def field(self, scores: list[Score | None], embeddings: Embeddings) -> Judgeable:
        """All images, with the main scorer's scores and vectors."""
        members = {name: np.concatenate(vectors) for name, vectors in self._vectors.items()}
        return Judgeable(scores, embeddings, members, self._numbers, left_out=self._left_out)
