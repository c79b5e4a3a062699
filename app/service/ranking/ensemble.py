"""Ensembles in use.

This module owns which scorers judge, what becomes of those that cannot, and the combined scores.

The formula is in `app.engine.ranking.ensemble`. One path for finished generations, re-rankings and uploads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.domain import Notice, Ranking, Score, ScorerUse
from app.engine.protocols import Engine, PanelScorer
from app.engine.ranking import ensemble
from app.engine.ranking.near_misses import near_misses
from app.engine.ranking.probability import known_match
from app.engine.ranking.scoring import rank_order
from app.errors import EngineFailed, InvalidRequest
from app.service.ranking.panel_scores import Judgeable, LeftOut, MemberCollector, PanelScores, Values
from app.service.ranking.referee import Referee
from models.protocols import ScorerInfo, ScoringInfo
from models.protocols.scoring import LAYOUT

JUDGING_SHARE = 0.25
"""Share of a generation's time that scorers without embeddings may add."""

MIN_JUDGED = 4
"""Least candidates that they see; agreement means nothing of fewer."""

MAX_JUDGED = 1024
"""Most candidates that they see; no generation has more."""

FIRST_JUDGED = 8
"""Candidates that a scorer of unknown cost sees."""

LEFT_OUT = "scorer_left_out"
"""Code of the notice about a scorer that did not judge."""

LACKING = {"not_stored", "text_changed", "not_loaded", "no_positions"}
"""Reasons to leave a scorer out that a repeat cannot change; others are failures."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """Scores after all scorers judged.

    `pool` holds the candidates that compete: a cascade leaves the best ones. `combined`: `scores` are an ensemble's.
    `judged` is how many the scorers without embeddings were shown; None without such scorers.
    """

    scores: tuple[Score | None, ...]
    pool: list[int]
    combined: bool
    agreement: float | None
    notices: tuple[Notice, ...]
    judged: int | None = None


class Ensembles:
    """See the module. With `always`, rankings that name no scorers use all of them."""

    def __init__(self, engine: Engine, always: bool = False) -> None:
        self._engine = engine
        self.always = always
        self.panel = PanelScores(engine)
        self.referee = Referee(engine, self.panel)

    @property
    def scorers(self) -> tuple[PanelScorer, ...]:
        """The loaded scorers, the main one first. Raises Loading."""
        return self._engine.panel

    def completed(self, ranking: Ranking) -> Ranking:
        """The ranking, with all scorers if it names none and the server uses all.

        Not those that judge positions: few prompts state any. Raises Loading.
        """
        if ranking.scorers or not self.always:
            return ranking
        rankers = [name for name in self._rankers() if not name.startswith(LAYOUT)]
        return replace(ranking, scorers=tuple(ScorerUse(name) for name in rankers)) if len(rankers) > 1 else ranking

    def check_probability(self, ranking: Ranking) -> None:
        """Reject a `min_probability` if none was calibrated.

        Raises InvalidRequest and Loading.
        """
        engine = self._engine
        if ranking.min_probability is None:
            return
        if known_match(engine.calibration, engine.generator, engine.scorer) is None:
            raise InvalidRequest(
                "these models have no calibrated probability: use `min_score`, or ask the operator to run "
                "`frontrunner calibrate`",
                pointer="#/ranking/min_probability",
            )

    def check(self, uses: Sequence[ScorerUse]) -> None:
        """Reject scorers that a request cannot name. Raises InvalidRequest and Loading."""
        rankers = self._rankers() if uses else []
        names = [use.name for use in uses]
        for place, use in enumerate(uses):
            if use.name not in rankers:
                raise InvalidRequest(
                    f"no scorer is named {use.name!r}: use {' or '.join(repr(name) for name in rankers)}",
                    pointer=f"#/ranking/scorers/{place}/name",
                )
            if names.index(use.name) != place:
                raise InvalidRequest(
                    "the scorer is named twice: name each once", pointer=f"#/ranking/scorers/{place}/name"
                )
        if uses and not any(use.weight > 0 for use in uses):
            raise InvalidRequest(
                "every weight is 0: give at least one scorer a weight above 0", pointer="#/ranking/scorers"
            )

    def _rankers(self) -> list[str]:
        return [each.info.id for each in self._engine.panel if each.role != "referee"]

    @property
    def embedders(self) -> list[str]:
        """Names of the members that embed."""
        return [each.info.id for each in self._engine.panel if each.role == "member" and each.embeds]

    def collector(self, ranking: Ranking, prompt: str) -> MemberCollector:
        """What the scorers of a ranking see of uploads, batch by batch."""
        return MemberCollector(self.panel, self.members_of(ranking), prompt)

    def members_of(self, ranking: Ranking) -> list[PanelScorer]:
        """The loaded members that a ranking names. Raises Loading."""
        return [each for each in map(self._member, ranking.weights(self._engine.scorer.id)) if each is not None]

    async def judge(self, field: Judgeable, prompt: str, ranking: Ranking, pool: Sequence[int], n: int) -> Verdict:
        """Judge candidates by the scorers of a ranking.

        `n` of the `pool` are to be returned.
        """
        main = self._engine.scorer
        notices, misses = await self._near_misses(ranking, prompt)
        scores = await self._contrasted(field, misses, main)
        pool = [i for i in pool if scores[i] is not None]
        own: dict[str, Values] = {main.id: np.asarray([np.nan if s is None else s.score for s in scores])}
        own |= await self._compared(field, prompt, ranking, misses, notices)
        weights, judges = ranking.weights(main.id), self._judges(ranking)
        if judges and ranking.cascade is not None:
            most = max(n, ranking.cascade)
            pool = await asyncio.to_thread(self._best, own, weights, ranking, pool, most)
        for info in judges:
            try:
                if info.id in field.left_out:
                    raise field.left_out[info.id]
                own[info.id] = await self.panel.judged(field, info, prompt, pool)
            except LeftOut as left:
                field.left_out[info.id] = left
                notices.append(_left_out(info.id, left))
        verdict = await asyncio.to_thread(self._verdict, scores, own, weights, ranking, pool, notices, field.known)
        return replace(verdict, judged=len(pool) if judges else None)

    def require_judge(self, verdict: Verdict, ranking: Ranking, field: Judgeable) -> None:
        """Reject a ranking of whose scorers with a weight above 0 none judged.

        Raises InvalidRequest if they lack what they need, EngineFailed if one failed.
        """
        left = {notice.data["scorer"]: notice for notice in verdict.notices if notice.code == LEFT_OUT}
        asked = [use.name for use in ranking.scorers if use.weight > 0]
        if not asked or not left.keys() >= set(asked):
            return
        main, reasons = self._engine.scorer.id, {left[name].data["reason"] for name in asked}
        judged = [
            name for name in self._rankers() if name not in left and (name in field.members or field.known.get(name))
        ]
        use = " or ".join(repr(name) for name in dict.fromkeys([main, *judged]))
        why = "; ".join(left[name].detail for name in asked)
        if not reasons <= LACKING:
            raise EngineFailed(f"{why}; send the request again, or use {use}", pointer="#/ranking/scorers")
        elsewhere = "" if reasons & {"not_loaded", "no_positions"} else ", or send the image files to `POST /v1/rank`"
        raise InvalidRequest(f"{why}; use {use}{elsewhere}", pointer="#/ranking/scorers")

    def cascade(self, ranking: Ranking, seconds: float) -> int | None:
        """How many candidates the scorers without embeddings may see, by what they cost.

        Together they may take `JUDGING_SHARE` of the `seconds` that the generation took, but they see at least
        `MIN_JUDGED`. None without such scorers, or if all are light.
        """
        judges = [info for info in self._judges(ranking) if not info.light]
        costs = [self.panel.seconds(info.id) for info in judges]
        if not judges:
            return None
        known = sum(cost for cost in costs if cost is not None)
        affordable = int(JUDGING_SHARE * seconds / known) if known > 0 else MAX_JUDGED
        return max(MIN_JUDGED, min(affordable, FIRST_JUDGED if None in costs else MAX_JUDGED))

    def _judges(self, ranking: Ranking) -> list[ScoringInfo]:
        """The members of a ranking that only score."""
        return [each.info for each in self.members_of(ranking) if isinstance(each.info, ScoringInfo)]

    async def _compared(
        self, field: Judgeable, prompt: str, ranking: Ranking, misses: Sequence[str], notices: list[Notice]
    ) -> dict[str, Values]:
        """Own scores of the other scorers of a ranking that embed.

        Adds notices about those that cannot judge.
        """
        judges, main = {info.id for info in self._judges(ranking)}, self._engine.scorer.id
        own: dict[str, Values] = {}
        for name in ranking.weights(main):
            if name == main or name in judges:
                continue
            try:
                member = self._member(name)
                if name in field.left_out:
                    raise field.left_out[name]
                if member is None:
                    raise LeftOut("not_loaded", self._why_absent(name))
                if name not in field.members:
                    raise LeftOut("not_stored", "no embeddings of it are stored for these candidates")
                assert isinstance(member.info, ScorerInfo)
                vectors = field.members[name]
                own[name], told = await self.panel.embedded(vectors, member.info, prompt, ranking, misses)
                notices += told
            except LeftOut as left:
                notices.append(_left_out(name, left))
        return own

    def _verdict(
        self,
        scores: Sequence[Score | None],
        own: Mapping[str, Values],
        weights: Mapping[str, float],
        ranking: Ranking,
        pool: Sequence[int],
        notices: list[Notice],
        known: Mapping[str, Mapping[int, float]],
    ) -> Verdict:
        """Combine the own scores of all scorers that judged.

        `known` numbers of others are kept.
        """
        main = self._engine.scorer.id
        used = {name: values for name, values in own.items() if name in weights}
        combined = any(weights[name] > 0 for name in used if name != main)
        judged = ensemble.judged_by_all(list(own.values()), pool)
        if combined:
            total = ensemble.combine(used, weights, ranking.uncertainty, judged)
            if skipped := sorted(set(pool) - set(judged)):
                detail = "not every scorer judged these candidates, so their scores are of the others"
                notices.append(Notice("not_judged_by_all", detail, {"indices": skipped}))
        alike = ensemble.agreement([values for name, values in used.items() if weights[name] > 0], judged)
        if alike is not None and alike < (limit := ensemble.chance_agreement(len(judged))):
            detail = "the scorers order the candidates no more alike than chance does"
            notices.append(Notice("scorers_disagree", detail, {"agreement": alike, "limit": limit}))
        found = list[Score | None]()
        for i, score in enumerate(scores):
            if score is None:
                found.append(None)
                continue
            each = {name: numbers[i] for name, numbers in known.items() if i in numbers}
            each |= {name: float(values[i]) for name, values in own.items() if np.isfinite(values[i])}
            if combined:
                found.append(replace(score, score=float(total[i]), members=each) if np.isfinite(total[i]) else None)
            else:
                found.append(replace(score, members=each) if len(each) > 1 else score)
        agreed = ensemble.agreement(list(own.values()), judged)
        return Verdict(tuple(found), list(pool), combined, agreed, tuple(notices))

    def _best(
        self,
        own: Mapping[str, Values],
        weights: Mapping[str, float],
        ranking: Ranking,
        pool: Sequence[int],
        most: int,
    ) -> list[int]:
        """The best candidates of the pool by the scorers that judged all of it."""
        used = {name: values for name, values in own.items() if weights.get(name, 0) > 0}
        if not used:
            used, weights = {name: own[name] for name in list(own)[:1]}, dict.fromkeys(own, 1.0)
        judged = ensemble.judged_by_all(list(used.values()), pool)
        total = ensemble.combine(used, weights, ranking.uncertainty, judged)
        order = rank_order([float(total[i]) for i in pool])[:most]
        return sorted(pool[place] for place in order)

    async def _contrasted(self, field: Judgeable, misses: Sequence[str], main: ScorerInfo) -> list[Score | None]:
        """The main scorer's scores, less the similarity to near misses."""
        if not misses:
            return list(field.scores)
        terms = await self.panel.contrast(field.embeddings, misses, main)
        return [
            None if s is None else replace(s, score=s.score - float(term), contrast=float(term))
            for s, term in zip(field.scores, terms, strict=True)
        ]

    async def _near_misses(self, ranking: Ranking, prompt: str) -> tuple[list[Notice], tuple[str, ...]]:
        """Near misses of the caption that the main scorer reads the prompt as."""
        if not ranking.contrast:
            return [], ()
        misses = near_misses(await self.panel.caption(self._engine.scorer, prompt))
        if misses:
            return [], misses
        detail = "the prompt names no colours and no two things in English, so `contrast` has no effect"
        return [Notice("contrast_without_near_misses", detail, {"text": prompt})], ()

    def _member(self, name: str) -> PanelScorer | None:
        return next((each for each in self._engine.panel if each.info.id == name and each.role == "member"), None)

    def _why_absent(self, name: str) -> str:
        """Why no member has this name."""
        if any(each.info.id == name for each in self._engine.panel):
            return "it is the referee of this replica, which never ranks"
        return "it is not loaded on this replica"


def _left_out(name: str, left: LeftOut) -> Notice:
    return Notice(LEFT_OUT, f"the scorer {name!r} did not judge: {left}", {"scorer": name, "reason": left.code})
