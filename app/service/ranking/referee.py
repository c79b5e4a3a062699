"""The referee: a scorer that never ranks, and its opinion of the winners.

For each generation it scores the winner and the field by the prompt alone. A winner above the field's median is a
verdict for the ranking, one below is a verdict against it. A winner picked at random would be above as often as below,
so the verdicts of an owner's last `WINDOW` generations are put to a one-sided sign test. After `MIN_VERDICTS` the
gains count as confirmed only if it rejects chance at `SIGNIFICANCE`. A warning depends on the generations of its own
owner alone; the counters of all owners are for the operator.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

from app.domain import Notice, RefereeOpinion
from app.engine.protocols import Engine
from app.errors import FrontrunnerError
from app.service.ranking.panel_scores import Judgeable, LeftOut, PanelScores, Values
from models.protocols import ScorerInfo, ScoringInfo

WINDOW = 200
"""Verdicts of an owner that the test looks back on, of this replica."""

MAX_OWNERS = 1024
"""Owners whose verdicts are kept: those of the latest generations."""

MIN_VERDICTS = 100
"""Verdicts before the test says anything.

With 100 it finds a true share of 0.65 in nine of ten cases.
"""

SIGNIFICANCE = 0.05
"""Largest probability under chance at which gains count as confirmed."""

JUDGED = 5
"""Candidates that a referee without embeddings sees.

They are evenly spaced over the ranking, the winner first.
"""


class Referee:
    """See the module. Use in one event loop."""

    def __init__(self, engine: Engine, panel: PanelScores) -> None:
        self._engine = engine
        self._panel = panel
        self._windows: OrderedDict[str, deque[bool]] = OrderedDict()
        self._verdicts: Counter[str] = Counter({"better": 0, "equal": 0, "worse": 0})

    @property
    def verdicts(self) -> Mapping[str, int]:
        """Generations of all owners since the start by verdict on the winner.

        Better, equal, worse than the median.
        """
        return dict(self._verdicts) if any(self._verdicts.values()) else {}

    async def opinion(
        self, field: Judgeable, prompt: str, best_first: Sequence[int], owner: str
    ) -> tuple[RefereeOpinion | None, tuple[Notice, ...]]:
        """The opinion of the first of the finalists, and what to tell the `owner`.

        None without a referee, with one finalist, or if it fails.
        """
        info = next((each.info for each in self._engine.panel if each.role == "referee"), None)
        if info is None or len(best_first) < 2:
            return None, ()
        try:
            scores = await self._scores(field, prompt, best_first, info)
        except LeftOut as left:
            detail = f"the referee {info.id!r} has no opinion: {left}"
            return None, (Notice("referee_left_out", detail, {"scorer": info.id, "reason": left.code}),)
        winner, median = float(scores[0]), float(np.median(scores))
        self.count(owner, winner, median)
        return RefereeOpinion(info.id, winner, median), self.unconfirmed(owner, info.id)

    def count(self, owner: str, winner: float, median: float) -> None:
        """Count a verdict; an equal one says nothing about the ranking."""
        self._verdicts["better" if winner > median else "worse" if winner < median else "equal"] += 1
        if winner != median:
            window = self._windows.setdefault(owner, deque(maxlen=WINDOW))
            window.append(winner > median)
            self._windows.move_to_end(owner)
            if len(self._windows) > MAX_OWNERS:
                self._windows.popitem(last=False)

    async def _scores(
        self, field: Judgeable, prompt: str, best_first: Sequence[int], info: ScorerInfo | ScoringInfo
    ) -> Values:
        """Scores of finalists, the winner's first."""
        if isinstance(info, ScoringInfo):
            places = np.linspace(0, len(best_first) - 1, min(JUDGED, len(best_first))).round().astype(int)
            return await self._panel.score([field.images[best_first[place]] for place in places], prompt, info)
        if info.id not in field.members:
            raise field.left_out.get(info.id, LeftOut("failed", "it did not see the finalists"))
        try:
            return await self._panel.similarities(field.members[info.id][list(best_first)], prompt, info)
        except FrontrunnerError as error:
            raise LeftOut("failed", "it failed to read the prompt") from error

    def unconfirmed(self, owner: str, name: str) -> tuple[Notice, ...]:
        """The warning for an owner whose winners the referee `name` does not prefer."""
        window = self._windows.get(owner, ())
        count, better = len(window), sum(window)
        if count < MIN_VERDICTS or (chance := sign_test(better, count)) <= SIGNIFICANCE:
            return ()
        detail = f"over your last {count} generations the referee {name!r} does not prefer the winners to the median"
        data = {"scorer": name, "better": better, "generations": count, "p_value": chance, "limit": SIGNIFICANCE}
        return (Notice("ranking_gains_not_confirmed", detail, data),)


def sign_test(better: int, count: int) -> float:
    """The probability of at least `better` of `count` verdicts of a fair coin."""
    return float(sum(comb(count, k) for k in range(better, count + 1)) / 2**count)
