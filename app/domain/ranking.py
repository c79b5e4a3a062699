"""How candidates are compared, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from models.protocols.scoring import LAYOUT


@dataclass(frozen=True, slots=True)
class Negative:
    """A text whose similarity lowers the score. `weight` > 0 is relative to others."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that candidates should resemble (`weight` > 0) or not (`weight` < 0).

    `vector` is the scorer's embedding, L2-normalised; `members` holds those of members, by name. `generation` and
    `index` name the source candidate; they are None for an upload, of which only the embeddings are stored.
    """

    weight: float
    vector: tuple[float, ...]
    generation: str | None = None
    index: int | None = None
    members: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taste:
    """A taste profile snapshot; adds `bound * tanh(vector . image - offset)`.

    The bound has the score's unit and already includes the requested weight.
    """

    profile: str
    weight: float
    bound: float
    offset: float
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScorerUse:
    """A scorer of an ensemble. A `weight` of 0 judges and does not count."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Balance:
    """Shares of the returned images by the values of an attribute.

    Values are texts, of which one fits an image.

    The shares sum to 1.
    """

    attribute: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How candidates are compared. `diversity` in [0, 1].

    `min_score` and `min_probability` exclude candidates from the result. `balance` picks the best within shares.

    `prompt` None compares with the prompt used for sampling. `negatives` holds every text of the penalty. Without
    `scorers` the main scorer ranks alone. With several, `uncertainty` weighs their disagreement, and those that only
    score see the best `cascade` candidates of the others; None: by their cost. `contrast` subtracts the similarity to
    near misses of the prompt. See `app.engine.ranking.ensemble`. Candidates with a flag in `veto` are not returned.
    """

    negative_weight: float = 0.5
    negatives: tuple[Negative, ...] = ()
    min_score: float | None = None
    diversity: float = 0.0
    prompt: str | None = None
    references: tuple[Reference, ...] = ()
    taste: Taste | None = None
    veto: tuple[str, ...] = ()
    scorers: tuple[ScorerUse, ...] = ()
    uncertainty: float = 0.5
    contrast: bool = False
    cascade: int | None = None
    min_probability: float | None = None
    balance: Balance | None = None

    @property
    def wants_finalists(self) -> bool:
        """Whether it chooses among finalists by more than the scores of scorers."""
        return self.diversity > 0 or self.contrast or self.balance is not None

    @property
    def judges_positions(self) -> bool:
        """Whether a scorer that judges where things are has a weight."""
        return any(use.weight > 0 and use.name.startswith(LAYOUT) for use in self.scorers)

    def weights(self, main: str) -> dict[str, float]:
        """The weight of each scorer by name; `main` is the main scorer's name."""
        return {use.name: use.weight for use in self.scorers} or {main: 1.0}

    def with_negative_prompt(self, text: str) -> Ranking:
        """Return a copy with `text` as first negative of weight 1, unless it is empty."""
        return replace(self, negatives=(Negative(text), *self.negatives)) if text else self

    def without_negative_prompt(self, text: str) -> Ranking:
        """Return a copy without the entry that `with_negative_prompt` adds for `text`."""
        return replace(self, negatives=self.negatives[1:]) if self.negatives[:1] == (Negative(text),) else self


@dataclass(frozen=True, slots=True)
class Flag:
    """What a guard found in an image: its name, and what is wrong in words."""

    guard: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """`score = similarity - negative_weight * penalty + taste - contrast`.

    Every cosine is in [-1, 1]. `negatives` and `references` are cosines in the ranking's order. `prompt` is the cosine
    with the text alone; None if it equals the similarity. In an ensemble, `score` is the combined one, `members` holds
    each scorer's own by name, and the other fields are the main scorer's.
    """

    score: float
    similarity: float
    penalty: float
    negatives: tuple[float, ...] = ()
    references: tuple[float, ...] = ()
    prompt: float | None = None
    taste: float = 0.0
    contrast: float = 0.0
    members: Mapping[str, float] = field(default_factory=dict)

    @property
    def prompt_similarity(self) -> float:
        """The cosine with the text alone."""
        return self.similarity if self.prompt is None else self.prompt
