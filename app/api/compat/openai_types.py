"""Requests and responses of OpenAI's Images API, with additional fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from app.api.schemas.base import SIZE_HELP, Between, Count, NonBlankText, ResponseModel, Share, is_absent
from app.api.schemas.messages import described
from app.api.schemas.ranking.outputs import NegativeOutput
from app.api.schemas.requests import ImageFormat, ResponseFormat, SamplingRequest
from app.api.schemas.responses import WarningOutput
from app.service import GenerationParams

SUPPORTED_VALUES: dict[str, set[object]] = {
    "background": {"opaque", "auto"},
    "style": set(),
    "moderation": {"auto"},
    "user": set(),
    "safety_identifier": set(),
    "output_compression": {100},
    "complexity": set(),
    "frame_count": set(),
    "frame_duration_ms": set(),
    "svg": set(),
    "input_fidelity": {"low"},
}
"""OpenAI's fields without effect, with the values that request no effect."""

QUALITIES: dict[str, Literal["draft", "standard", "best"]] = {
    **dict.fromkeys(("low", "draft"), "draft"),
    **dict.fromkeys(("auto", "medium", "standard"), "standard"),
    **dict.fromkeys(("high", "xhigh", "max", "hd", "best"), "best"),
}  # fmt: skip
"""The quality that each of OpenAI's values selects."""

SIZE_OR_AUTO = described(r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$", f"auto, or WIDTHxHEIGHT in pixels, {SIZE_HELP}")

MAX_IMAGES = 16
"""Maximum images of one edit."""


class ImagesRequest(SamplingRequest):
    """The request of OpenAI's API with additional fields of Frontrunner."""

    n: Count | None = Field(None, description="Images to return, best first. Default: 1.")
    size: Annotated[str, StringConstraints(pattern=SIZE_OR_AUTO)] | None = Field(
        None,
        description="WIDTHxHEIGHT in pixels, or auto for the model's default. "
        "An unsupported size is sampled near it and resized.",
    )
    fit: Literal["exact", "nearest"] = Field(
        "nearest", description="exact refuses a size that the model does not support."
    )
    response_format: ResponseFormat | None = Field(
        None, description="Default: b64_json for the model names gpt-image-* and chatgpt-image-*, else url."
    )
    output_format: ImageFormat | None = Field(None, description="File format of the images. Default: png.")
    stream: bool | None = Field(None, description="Respond with server-sent events.")
    partial_images: Annotated[int, Between(0, 3)] | None = Field(None, description="Maximum previews in the stream.")
    quality: Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto", "draft", "best"] | None = Field(
        None, description="Selects candidates and steps that the request omits: low a draft, hd and high the best."
    )
    background: Literal["transparent", "opaque", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["low", "auto"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    output_compression: Annotated[int, Between(0, 100)] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    frame_count: int | None = None
    frame_duration_ms: int | None = None
    svg: dict[str, Any] | None = None

    @property
    def delivery(self) -> ResponseFormat:
        """Whether images are links or base64.

        Clients of OpenAI's newer models expect base64.
        """
        inline = (self.model or "").startswith(("gpt-image-", "chatgpt-image-"))
        return self.response_format or ("b64_json" if inline else "url")

    def to_domain(self) -> GenerationParams:
        """Convert to service parameters."""
        return self.build_params(
            n=1 if self.n is None else self.n,
            size=None if self.size == "auto" else self.size,
            previews=(self.partial_images or 0) if self.stream else 0,
            output_format=self.output_format or "png",
            quality=QUALITIES[self.quality or "auto"],
        )

    def unsupported_warnings(self) -> list[WarningOutput]:
        """A warning for every field whose value has no effect."""
        ignored = [
            name
            for name, supported in SUPPORTED_VALUES.items()
            if (value := getattr(self, name, None)) is not None and value not in [*supported]
        ]
        if self.stream and self.response_format == "url":
            ignored.append("response_format")
        return [
            WarningOutput(code="unsupported_parameter", detail=f"`{name}` has no effect: omit it", param=name)
            for name in ignored
        ]


class VariationForm(ImagesRequest):
    """An image to vary, as a form."""

    image: list[str] = Field(
        min_length=1,
        max_length=1,
        description="The initial image.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )
    prompt: NonBlankText = Field(
        "a picture", description="What the images should show. OpenAI's clients do not send it."
    )
    strength: Share | None = Field(
        None,
        description="0 keeps the initial image, 1 ignores it. Default: 0.75; with a mask, which keeps the rest: 1.",
    )


class EditForm(VariationForm):
    """Images to edit, as a form."""

    image: list[str] = Field(
        min_length=1,
        max_length=MAX_IMAGES,
        description="The initial image. Further images are references of the ranking.",
        json_schema_extra={"items": {"type": "string", "format": "binary"}},
    )
    prompt: NonBlankText = Field(description="What the images should show.")
    mask: list[str] | None = Field(
        None,
        max_length=1,
        description="An image of the size of the first one: its fully transparent area is redrawn.",
        json_schema_extra={"items": {"format": "binary"}},
    )
    markup: list[str] | None = Field(
        None, max_length=1, description="Not supported: 422.", json_schema_extra={"items": {"format": "binary"}}
    )
    input_fidelity: Literal["high", "low"] | None = None


class ImageItem(ResponseModel):
    """One image: OpenAI's members first, then Frontrunner's.

    Exactly one of `b64_json` and `url` is present.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)
    b64_json: str | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    url: str | SkipJsonSchema[None] = Field(None, exclude_if=is_absent)
    rank: int
    index: int
    seed: int
    score: float
    similarity: float
    penalty: float
    negatives: list[NegativeOutput]


class TokenDetails(ResponseModel):
    """Tokens by kind; always 0, since tokens are not metered."""

    text_tokens: int = 0
    image_tokens: int = 0


class Usage(ResponseModel):
    """Token usage, which clients expect; always 0, since tokens are not metered.

    `candidates` is the number of sampled candidates. `rows_stepped` counts their denoising steps, `rows_unpruned` those
    without pruning.
    """

    total_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens_details: TokenDetails = TokenDetails()
    candidates: int = 0
    rows_stepped: int = 0
    rows_unpruned: int = 0


class ImagesResponse(ResponseModel):
    """The response of OpenAI's API; `id` is the id of the generation."""

    created: int
    data: list[ImageItem]
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    size: str
    usage: Usage
    id: str
    model: str
    warnings: list[WarningOutput]
