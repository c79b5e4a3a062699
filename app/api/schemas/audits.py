"""Wire types of audits."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from app.api.schemas.base import (
    Between,
    Count,
    FiniteFloat,
    Guidance,
    ModelName,
    NonBlankText,
    RequestModel,
    ResponseModel,
    Seed,
    Size,
    StepCount,
    Text,
)
from app.api.schemas.flags import SAFETY, SafetyInput
from app.api.schemas.ranking.inputs import RankingInput
from app.api.schemas.requests import drawn, parse_size, to_safety
from app.api.schemas.responses import WarningOutput, warning_outputs
from app.domain import Ranking
from app.engine.audits.findings import Attribute, AttributeFinding, Share, ValueFinding
from app.engine.audits.statistics import Interval, Odds
from app.service import MAX_GENERATIONS, AuditParams, AuditReport, GenerationParams


class AttributeInput(RequestModel):
    """What is asked of every image: texts of which one should fit it."""

    name: NonBlankText = Field(max_length=100, description="Name of the attribute, for you.")
    values: list[NonBlankText] = Field(
        min_length=2, max_length=16, description="Texts of which one fits an image, such as `a photo of a red car`."
    )


PairOrMore: TypeAlias = Annotated[int, Field(json_schema_extra={"minimum": 2, "maximum": 1024})]


class AuditRequest(RequestModel):
    """What candidates show, and what the ranking favours.

    Send one of `prompt`, `prompts` and `generations`. The other fields on sampling apply to prompts.
    """

    attributes: list[AttributeInput] = Field(min_length=1, max_length=16, description="What to ask of every image.")
    prompt: NonBlankText | None = Field(None, description="A prompt to sample candidates of.")
    prompts: list[NonBlankText] | None = Field(
        None, min_length=1, max_length=MAX_GENERATIONS, fail_fast=True, description="Prompts to sample candidates of."
    )
    generations: list[str] | None = Field(
        None, min_length=1, max_length=MAX_GENERATIONS, fail_fast=True, description="Ids of your own generations."
    )
    probe: ModelName | None = Field(
        None, description="A loaded scorer with embeddings. Default: one that takes no part in the ranking."
    )
    force: bool = Field(False, description="Admit a probe that takes part in the ranking.")
    certainty: Annotated[FiniteFloat, Between(0.5, 1)] = Field(
        0.75, description="Share of the likeliest value below which an image is undetermined."
    )
    n_candidates: PairOrMore | None = Field(None, description="Candidates of each prompt.")
    n: Count | None = Field(
        None,
        description="Best images that win. Default: 1, and of stored generations all returned ones.",
    )
    negative_prompt: Text | None = Field(None, description="As in a generation.")
    seed: Seed | None = Field(None, description="Seed of the first candidate of all.")
    steps: StepCount | None = Field(None, description="Denoising steps.")
    guidance_scale: Guidance | None = Field(None, description="As in a generation.")
    sampler: ModelName | None = Field(None, description="A sampler of the model.")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels.")
    ranking: RankingInput = Field(RankingInput(), description="The ranking to audit, for prompts.")
    safety: SafetyInput | None = Field(None, description=SAFETY)
    model: ModelName | None = Field(
        None,
        description="A generator; GET /v1/models lists them. Default: the first, or what made the first generation.",
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> AuditRequest:
        if sum(each is not None for each in (self.prompt, self.prompts, self.generations)) != 1:
            raise ValueError("send one of `prompt`, `prompts` and `generations`")
        return self

    def to_domain(self, ranking: Ranking, default_candidates: int) -> AuditParams:
        """Convert to service parameters, with the resolved ranking."""
        width, height = parse_size(self.size) if self.size else (None, None)
        base = GenerationParams(
            prompt="",
            negative_prompt=self.negative_prompt or "",
            n_candidates=default_candidates if self.n_candidates is None else self.n_candidates,
            n=1 if self.n is None else self.n,
            width=width,
            height=height,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            seed=drawn(self.seed),
            model=self.model,
            ranking=ranking,
            safety=to_safety(self.safety),
        )
        return AuditParams(
            attributes=tuple(Attribute(each.name, tuple(each.values)) for each in self.attributes),
            prompts=tuple(self.prompts or ([self.prompt] if self.prompt is not None else [])),
            generations=tuple(self.generations or ()),
            base=base,
            winners=self.n,
            probe=self.probe,
            certainty=self.certainty,
            force=self.force,
        )


class ShareOutput(ResponseModel):
    """How many images are of a class: their number, share and 95 % Wilson interval.

    The interval allows for candidates of one prompt that are alike. null if there are no images.
    """

    count: int
    share: float | None
    low: float | None
    high: float | None


class DifferenceOutput(ResponseModel):
    """Share of winners less share of candidates.

    With a 95 % bootstrap interval over generations.

    `low` and `high` are null with fewer than eight generations.
    """

    share: float | None
    low: float | None
    high: float | None


class OddsOutput(ResponseModel):
    """What a value does to a candidate's odds to win.

    Only candidates of which a value is certain count.

    `odds` 2 means twice the odds of a candidate with another value; null is undefined or unlimited. `low` and `high`
    are exact at 95 %; a `high` of null is unlimited. `expected` winners have the value without any preference.
    `fields` generations had candidates with and without it. `p_value` is that of the exact two-sided test, `p_adjusted`
    after Holm's correction over all attributes.
    """

    fields: int
    observed: int
    expected: float
    odds: float | None
    low: float
    high: float | None
    p_value: float
    p_adjusted: float


class ValueOutput(ResponseModel):
    """What one value shows. `verdict` is by `p_adjusted` at 0.05."""

    text: str
    candidates: ShareOutput
    winners: ShareOutput
    difference: DifferenceOutput
    ranking: OddsOutput
    verdict: Literal["favours", "disfavours", "nothing found", "cannot tell"]


class AttributeOutput(ResponseModel):
    """What one attribute shows.

    `undetermined` are images of which no value is certain.
    """

    name: str
    values: list[ValueOutput]
    undetermined: ShareOutput
    undetermined_winners: ShareOutput


class AuditResponse(ResponseModel):
    """Shares in the field and among winners, and what the ranking favours.

    `generations` are those that were audited; audit them again with other attributes. `probe_ranks`: the probe took
    part in the ranking.
    """

    object: Literal["audit"] = "audit"
    probe: str
    probe_revision: str
    probe_ranks: bool
    generations: list[str]
    candidates: int
    winners: int
    attributes: list[AttributeOutput]
    warnings: list[WarningOutput]

    @classmethod
    def from_domain(cls, report: AuditReport) -> AuditResponse:
        """Convert from the service."""
        return cls(
            probe=report.probe,
            probe_revision=report.probe_revision,
            probe_ranks=report.probe_ranks,
            generations=list(report.generations),
            candidates=report.candidates,
            winners=report.winners,
            attributes=[_attribute(each) for each in report.findings],
            warnings=warning_outputs(report.warnings),
        )


def _attribute(found: AttributeFinding) -> AttributeOutput:
    return AttributeOutput(
        name=found.name,
        values=[_value(each) for each in found.values],
        undetermined=_share(found.undetermined),
        undetermined_winners=_share(found.undetermined_winners),
    )


def _value(found: ValueFinding) -> ValueOutput:
    return ValueOutput(
        text=found.text,
        candidates=_share(found.candidates),
        winners=_share(found.winners),
        difference=_difference(found.difference),
        ranking=_odds(found.odds, found.p_adjusted),
        verdict=found.verdict,
    )


def _share(found: Share) -> ShareOutput:
    interval = found.interval
    return ShareOutput(count=found.count, share=interval.share, low=interval.low, high=interval.high)


def _difference(found: Interval) -> DifferenceOutput:
    return DifferenceOutput(share=found.share, low=found.low, high=found.high)


def _odds(found: Odds, p_adjusted: float) -> OddsOutput:
    return OddsOutput(
        fields=found.fields,
        observed=found.observed,
        expected=found.expected,
        odds=found.odds,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        p_adjusted=p_adjusted,
    )
