"""The scorers of a process by name and role.

Members and referee embed finalists on the device. Engine thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from app.domain import GenerationSpec
from app.engine.members.waves import member_query, needs_wave
from app.engine.protocols import PanelScorer
from app.engine.state import ActiveGeneration, Row
from models.protocols import Embedder, Models, OutOfMemory, Pixels, Scorer, embeds

log = logging.getLogger(__name__)


def panel_of(models: Models) -> tuple[PanelScorer, ...]:
    """The scorers of a process: the main one, members, the referee."""
    referee = () if models.referee is None else (PanelScorer(models.referee.info, "referee"),)
    members = (PanelScorer(each.info, "member") for each in models.members)
    return (PanelScorer(models.scorer.info, "main"), *members, *referee)


def find_embedder(models: Models, name: str | None) -> Embedder:
    """The main scorer, or the embedding scorer of that name, which is loaded."""
    return next(each for each in _scorers(models) if embeds(each) and name in (None, each.info.id))


def find_judge(models: Models, name: str) -> Scorer:
    """The scorer of that name, which is loaded and only scores."""
    return next(each for each in _scorers(models) if not embeds(each) and each.info.id == name)


def _scorers(models: Models) -> tuple[Embedder | Scorer, ...]:
    referee = () if models.referee is None else (models.referee,)
    return (models.scorer, *models.members, *referee)


def keeps_field(spec: GenerationSpec, main: str, referee_only_scores: bool) -> bool:
    """Whether finalists' images are needed after the engine, given the loaded scorers."""
    ranking = spec.ranking
    other = ranking.contrast or ranking.balance is not None or any(use.name != main for use in ranking.scorers)
    return other or referee_only_scores


class Panel:
    """Embeds finalists with the members that a generation names, and with the referee."""

    def __init__(self, models: Models) -> None:
        self._members = {each.info.id: each for each in models.members if embeds(each)}
        self._referee = models.referee
        if models.referee is not None and embeds(models.referee):
            self._members[models.referee.info.id] = models.referee
        self._main = models.scorer.info.id

    def keeps_field(self, spec: GenerationSpec) -> bool:
        """Whether every finalist's image is needed until the generation has ended."""
        return keeps_field(spec, self._main, self._referee is not None and not embeds(self._referee))

    def prepare(self, run: ActiveGeneration) -> None:
        """Embed the texts of a generation in waves with its members.

        One that fails is left out of the generation.
        """
        if run.spec.wave is None:
            return
        for use in run.spec.ranking.scorers:
            member = self._members.get(use.name)
            if member is None or not self._is_wanted(use.name, run):
                continue
            try:
                run.member_queries[use.name] = member_query(member, run.spec)
            except Exception as error:
                log.exception("a scorer failed", extra={"scorer": use.name})
                _leave_out([run], use.name, f"it failed to read the texts ({type(error).__name__})")

    def needs_wave(self, run: ActiveGeneration) -> bool:
        """Whether another wave is worthwhile, once all rows so far are done or pruned."""
        return needs_wave(run, self._main)

    def judge(self, rows: Sequence[Row], pixels: Pixels, size: int) -> None:
        """Embed finished rows with the members of their generations.

        `pixels` (B, H, W, 3) are those of the rows. Deterministic rows are padded to `size`. A member that fails or
        returns what is no number is left out of the generation. Raises OutOfMemory where fewer rows may fit.
        """
        for name, member in self._members.items():
            places = [place for place, row in enumerate(rows) if self._is_wanted(name, row.generation)]
            if places:
                self._embed(name, member, rows, places, pixels, size)

    def _is_wanted(self, name: str, run: ActiveGeneration) -> bool:
        is_referee = self._referee is not None and name == self._referee.info.id
        return name not in run.left_out and (is_referee or name in run.spec.ranking.weights(self._main))

    def _embed(
        self, name: str, member: Embedder, rows: Sequence[Row], places: list[int], pixels: Pixels, size: int
    ) -> None:
        runs = dict.fromkeys(rows[place].generation for place in places)
        padded = [*places, *places[-1:] * (size - len(places))]
        try:
            vectors = member.embed_images(pixels if padded == list(range(len(rows))) else pixels[padded])
        except OutOfMemory:
            if len(rows) > 1 and not size:
                raise
            _leave_out(runs, name, "the device memory is too small")
            return
        except Exception as error:
            log.exception("a scorer failed", extra={"scorer": name})
            _leave_out(runs, name, f"it failed on the device ({type(error).__name__})")
            return
        for place, vector in zip(places, vectors, strict=False):
            rows[place].member_embeddings[name] = vector
            if not np.isfinite(vector).all():
                _leave_out([rows[place].generation], name, NOT_A_NUMBER)


NOT_A_NUMBER = "it returned what is not a number"


def _leave_out(runs: Sequence[ActiveGeneration] | dict[ActiveGeneration, None], name: str, reason: str) -> None:
    for run in runs:
        run.left_out[name] = reason
