"""Placement without the images that safety withholds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from app.domain import Generation, SafetyVerdict
from app.engine.ranking.placement import Placements
from app.service.candidates.images import CandidateImages
from app.service.candidates.safety import all_flagged

Place: TypeAlias = Callable[[Sequence[int]], Awaitable[Placements]]
"""Places the candidates of a pool."""


async def place_unflagged(
    images: CandidateImages, source: Generation, pool: Sequence[int], place: Place
) -> tuple[Placements, dict[int, SafetyVerdict]]:
    """Place the pool without withheld images; also return the verdicts.

    Images that were not classified are decoded and classified, the returned ones only. Raises AllFlagged.
    """
    verdicts: dict[int, SafetyVerdict] = {}
    left = list(pool)
    while True:
        placements = await place(left)
        for index in placements.returned:
            if index not in verdicts and (found := await images.verdict(source, index)) is not None:
                verdicts[index] = found
        flagged = {index for index in placements.returned if index in verdicts and verdicts[index].flagged}
        if not flagged:
            return placements, verdicts
        left = [index for index in left if index not in flagged]
        if not left:
            raise all_flagged(len(pool))
