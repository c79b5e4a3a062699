"""How requests say how images are ranked, and the conversion to the domain."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from pydantic import Field, model_validator

from app.api.schemas.base import (
    MAX_ITEMS,
    Between,
    FiniteFloat,
    Index,
    ModelName,
    NonBlankText,
    ProfileName,
    RequestModel,
    Share,
)
from app.api.schemas.flags import FlagName
from app.domain import Balance, Negative, Ranking, ScorerUse

Weight: TypeAlias = Annotated[FiniteFloat, Between(0, 10)]


class NegativeInput(RequestModel):
    """A text that lowers the score of images that match it."""

    text: NonBlankText
    weight: Annotated[FiniteFloat, Between(0.001, 100)] = Field(
        1.0, description="Weight relative to the other negatives."
    )

    def to_domain(self) -> Negative:
        """Convert to the domain."""
        return Negative(self.text, self.weight)


class ReferenceInput(RequestModel):
    """An image to resemble, or to avoid with a weight below 0.

    Either an upload (`image`) or a candidate (`generation` and `index`).
    """

    image: str | None = Field(None, description="An image, as a data: URI or bare base64.")
    generation: str | None = Field(None, max_length=64, description="Id of the candidate's generation.")
    index: Index | None = Field(None, description="Index of the candidate.")
    weight: Annotated[FiniteFloat, Between(-10, 10)] = Field(
        0.5, description="Relative to the prompt, which has weight 1; not 0."
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> ReferenceInput:
        if (self.image is None) == (self.generation is None) or (self.index is None) != (self.generation is None):
            raise ValueError("send either `image`, or `generation` and `index`")
        return self


class TasteInput(RequestModel):
    """A taste profile whose term is added to the score."""

    profile: ProfileName
    weight: Share = Field(1.0, description="1 is the maximum influence of a taste.")


class ScorerInput(RequestModel):
    """A scorer of an ensemble."""

    name: ModelName = Field(description="Id of a loaded scorer; GET /v1/models lists them.")
    weight: Annotated[FiniteFloat, Between(0, 100)] = Field(
        1.0, description="Relative to the other scorers; 0 has no effect."
    )

    def to_domain(self) -> ScorerUse:
        """Convert to the domain."""
        return ScorerUse(self.name, self.weight)


class BalanceInput(RequestModel):
    """Shares of the returned images by the values of an attribute."""

    attribute: NonBlankText = Field(max_length=100, description="Name of the attribute, for you.")
    values: dict[NonBlankText, Share] = Field(
        min_length=2,
        max_length=16,
        description="Share of each value, a text of which one fits an image; they sum to 1.",
    )

    def to_domain(self) -> Balance:
        """Convert to the domain."""
        return Balance(self.attribute, tuple(self.values.items()))


class RankingInput(RequestModel):
    """How images are ranked.

    score = similarity - negative_weight * penalty + taste - contrast.

    Every field is optional. An omitted field keeps its value: that of the source generation in rerank and refine,
    else the default. `null` resets a field to its default.
    """

    prompt: NonBlankText | None = Field(
        None, description="Text to score against. Default: the prompt that was sampled."
    )
    negatives: list[NegativeInput] | None = Field(
        None,
        max_length=MAX_ITEMS,
        fail_fast=True,
        description="Texts in the penalty; they do not affect sampling. Default: none.",
    )
    negative_weight: Weight | None = Field(None, description="Weight of the penalty. Default: 0.5.")
    references: list[ReferenceInput] | None = Field(
        None, max_length=MAX_ITEMS, fail_fast=True, description="Images to resemble or to avoid. Default: none."
    )
    taste: TasteInput | None = Field(None, description="Taste profile added to the score. Default: none.")
    diversity: Share | None = Field(
        None, description="Above 0, returned images also differ from each other. Default: 0."
    )
    min_score: Annotated[FiniteFloat, Between(-20, 20)] | None = Field(
        None, description="Candidates with a lower score are not returned. Default: no limit."
    )
    min_probability: Share | None = Field(
        None,
        description="Candidates that show the prompt with a lower probability are not returned. Default: no limit.",
    )

    veto: list[FlagName] | None = Field(
        None, max_length=8, description="Images with one of these flags are not returned. Default: none."
    )
    scorers: list[ScorerInput] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Scorers that rank together. Default: those of the server.",
    )
    uncertainty: Weight | None = Field(
        None, description="Weight of the scorers' disagreement, with several. Default: 0.5."
    )
    contrast: bool | None = Field(
        None, description="Subtract the similarity to near misses of the prompt. Default: false."
    )
    cascade: Annotated[int, Between(1, 1024)] | None = Field(
        None,
        description="Candidates that scorers without embeddings see, the best of the others. Default: by their cost.",
    )

    balance: BalanceInput | None = Field(
        None, description="Pick the best within shares of an attribute, by the main scorer. Default: none."
    )

    def to_domain(self, base: Ranking) -> Ranking:
        """`base` with the fields of this request, except `references` and `taste`.

        Those need a lookup: see `ranking_inputs.resolve_ranking`.
        """
        changes: dict[str, Any] = {
            name: getattr(_DEFAULT, name) if (value := getattr(self, name)) is None else value
            for name in (
                "prompt",
                "negative_weight",
                "diversity",
                "min_score",
                "min_probability",
                "uncertainty",
                "contrast",
                "cascade",
            )
            if name in self.model_fields_set
        }
        if "negatives" in self.model_fields_set:
            changes["negatives"] = tuple(n.to_domain() for n in self.negatives or ())
        if "balance" in self.model_fields_set:
            changes["balance"] = self.balance.to_domain() if self.balance is not None else None
        if "veto" in self.model_fields_set:
            changes["veto"] = tuple(dict.fromkeys(self.veto or ()))
        if "scorers" in self.model_fields_set:
            changes["scorers"] = tuple(s.to_domain() for s in self.scorers or ())
        return replace(base, **changes)


_DEFAULT = Ranking()
