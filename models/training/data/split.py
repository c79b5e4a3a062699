"""The icon sets that each network trains on, and those of its own figure.

No set of the judge trains a scorer, and the two scorers share one set. So a preference of one network is not copied by
another one. Every set that the generator draws has also been seen by one of the scorers or by the judge. The sets in
`measured` are never part of the training of the same network. This module does not import torch.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Sets:
    """The icon sets of one network.

    It trains on `trained`. Its own figure is measured on `measured`, which it never sees.
    """

    trained: tuple[str, ...]
    measured: tuple[str, ...] = ()


GENERATOR_SHARES = {
    "noto": 0.18,
    "twemoji": 0.18,
    "noto-v1": 0.17,
    "fluent-emoji": 0.17,
    "fluent-emoji-flat": 0.17,
    "fxemoji": 0.13,
}
"""Share of each set in the generator's pictures.

The first two are the sets of earlier generators: with less than a third of the pictures, their drawings became dull.
fxemoji has half of the names.
"""
GENERATOR = Sets(tuple(GENERATOR_SHARES))
SCORER = Sets(
    (
        *("noto", "twemoji", "fluent-emoji", "fluent-emoji-high-contrast", "game-icons", "mdi"),
        *("hugeicons", "fa7-solid", "boxicons", "dinkie-icons"),
    ),
    ("emojione",),
)
SECOND = Sets(
    ("twemoji", "noto-v1", "fluent-emoji-3d", "icon-park", "ph", "mingcute", "tabler", "lucide"),
    ("emojione",),
)
JUDGE = Sets(("emojione", "fluent-emoji-flat", "fxemoji", "streamline-emojis"), ("noto", "twemoji"))

Scorer = Literal["scorer", "second"]
SCORERS: dict[Scorer, Sets] = {"scorer": SCORER, "second": SECOND}
"""The embedded scorer, and one of another architecture for ensembles."""
