"""How candidates are compared, and their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Negative:
    """A text whose similarity lowers the score. `weight` > 0 is relative to others."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that candidates should resemble (`weight` > 0) or not (`weight` < 0).

    `vector` is the scorer's embedding, L2-normalised. `generation` and `index` name the source candidate; they are
    None for an upload, of which only the embedding is stored.
    """

    weight: float
    vector: tuple[float, ...]
    generation: str | None = None
    index: int | None = None


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
class Ranking:
    """How candidates are compared. `diversity` in [0, 1]; `min_score` filters results.

    `prompt` None compares with the prompt used for sampling. `negatives` holds every text of the penalty. Candidates
    with a flag in `veto` are not returned.
    """

    negative_weight: float = 0.5
    negatives: tuple[Negative, ...] = ()
    min_score: float | None = None
    diversity: float = 0.0
    prompt: str | None = None
    references: tuple[Reference, ...] = ()
    taste: Taste | None = None
    veto: tuple[str, ...] = ()

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
    """`score = similarity - negative_weight * penalty + taste`.

    Every cosine is in [-1, 1]. `negatives` and `references` are cosines in the ranking's order. `prompt` is the cosine
    with the text alone; None if it equals the similarity.
    """

    score: float
    similarity: float
    penalty: float
    negatives: tuple[float, ...] = ()
    references: tuple[float, ...] = ()
    prompt: float | None = None
    taste: float = 0.0

    @property
    def prompt_similarity(self) -> float:
        """The cosine with the text alone."""
        return self.similarity if self.prompt is None else self.prompt
