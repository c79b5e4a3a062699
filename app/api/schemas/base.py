"""Base of all request and response types: strict objects, texts, names, sizes.

Here are only the bounds that hold on every server. Where a server has a lower limit, the service checks both bounds,
so that every other value is refused with those; the schema states only what no server exceeds.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from app.api.schemas.messages import described
from app.domain import SEED_LIMIT
from app.service.validation import out_of_range

_INVISIBLE_CATEGORIES = {"Zs", "Zl", "Zp", "Cc", "Cf"}
PRINTABLE_PATTERN = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
PROFILE_PATTERN = described(
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "1 to 64 letters, digits and ._-, beginning with a letter or digit"
)
RATIO = described(r"^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$", "WIDTH:HEIGHT such as 16:9, each from 1 to 9999")
SIZE_HELP = "such as 64x64; GET /v1/models has the `max_size` of each model"
"""Ends the message about a size: its example suits every multiple up to 64."""

SIZE_PATTERN = described(r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$", f"WIDTHxHEIGHT in pixels, {SIZE_HELP}")


def _reject_control_characters(text: str) -> str:
    categories = {unicodedata.category(c) for c in set(text) - set("\t\n\r")}
    if "Cc" in categories:
        raise ValueError("control characters are not allowed, except tabs and line breaks: remove them")
    if "Cs" in categories:
        raise ValueError("the text contains a lone surrogate: send valid Unicode")
    return text


def _reject_blank(text: str) -> str:
    if all(unicodedata.category(c) in _INVISIBLE_CATEGORIES or c.isspace() for c in set(text)):
        raise ValueError("the text is empty: send at least one visible character")
    return text


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a number, both inclusive; a number outside is refused with both."""

    low: float
    high: float

    def _check(self, value: float) -> float:
        if not self.low <= value <= self.high:
            raise ValueError(out_of_range(value, self.low, self.high))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """See pydantic."""
        return {**handler(schema), "minimum": self.low, "maximum": self.high}


Text: TypeAlias = Annotated[
    str, AfterValidator(_reject_control_characters), Field(json_schema_extra={"pattern": PRINTABLE_PATTERN})
]
NonBlankText: TypeAlias = Annotated[Text, AfterValidator(_reject_blank), Field(min_length=1)]
Size: TypeAlias = Annotated[str, StringConstraints(pattern=SIZE_PATTERN)]
Ratio: TypeAlias = Annotated[str, StringConstraints(pattern=RATIO)]
ModelName: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=300)]
ProfileName: TypeAlias = Annotated[str, StringConstraints(pattern=PROFILE_PATTERN)]
FiniteFloat: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 1024})]
"""Candidates or images of one request; the service checks both bounds."""

StepCount: TypeAlias = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 1000})]
Guidance: TypeAlias = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": 0, "maximum": 100})]
Index: TypeAlias = Annotated[int, Between(0, 2**31 - 1)]
Seed: TypeAlias = Annotated[int, Between(-1, SEED_LIMIT - 1)]
Share: TypeAlias = Annotated[FiniteFloat, Between(0, 1)]
PreviewRounds: TypeAlias = Annotated[int, Between(0, 10)]


MAX_MEMBERS = 64
"""Maximum members of one object, known or unknown; every schema has fewer."""

MAX_ITEMS = 1024
"""Maximum items of one list, before the server's own limits are checked."""


class RequestModel(BaseModel):
    """Base of all request types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_member_count(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_MEMBERS:
            raise ValueError(f"the object has more than {MAX_MEMBERS} members: send fewer")
        return data


class ResponseModel(BaseModel):
    """Base of all response types."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


def is_absent(value: object) -> bool:
    """Whether a member is omitted from the response: some clients reject null."""
    return value is None
