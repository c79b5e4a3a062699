"""The probe of an audit: the scorer that decides what images show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import Generation, Ranking
from app.engine.protocols import Engine
from app.errors import InvalidRequest, ProbeRanks
from models.protocols import ScorerInfo

POINTER = "#/probe"


@dataclass(frozen=True, slots=True)
class Probe:
    """A scorer with embeddings.

    `ranks`: it took part in the audited ranking. `is_main`: it is the main scorer.
    """

    info: ScorerInfo
    ranks: bool
    is_main: bool


def choose_probe(
    engine: Engine, name: str | None, sources: Sequence[Generation], ranking: Ranking, *, force: bool
) -> Probe:
    """The scorer of that name, or one that did not rank.

    `sources` are the audited generations; without any, `ranking` is what will rank. Raises InvalidRequest for a name
    without embeddings, and ProbeRanks if it ranks and `force` is false.
    """
    main = engine.scorer.id
    known = {each.info.id: each.info for each in engine.panel if isinstance(each.info, ScorerInfo)}
    rankers = {use for each in (s.spec.ranking for s in sources) for use in _rankers(each, main)}
    if not sources:
        rankers = _rankers(ranking, main)
    if name is None:
        free = [each for each in known if each not in rankers]
        name = free[0] if free else main
    if name not in known:
        raise InvalidRequest(
            f"no scorer with embeddings is named {name!r}: use {' or '.join(repr(each) for each in known)}",
            pointer=POINTER,
        )
    if name in rankers and not force:
        raise ProbeRanks(
            f"the probe {name!r} took part in the ranking, so its errors would look like preferences: use another "
            "scorer as `probe`, ask the operator to add one with FRONTRUNNER_SCORERS, or send `force: true`",
            pointer=POINTER,
        )
    return Probe(known[name], name in rankers, name == main)


def _rankers(ranking: Ranking, main: str) -> set[str]:
    """Scorers whose numbers decide; the main one prunes, so it always takes part."""
    return {main} | {name for name, weight in ranking.weights(main).items() if weight > 0}
