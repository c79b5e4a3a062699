"""`variants` in requests: other wordings of the prompt to sample from."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from app.api.schemas.base import Between, NonBlankText, RequestModel

MAX_VARIANTS = 16


class AutoVariants(RequestModel):
    """Wordings that the server makes, the prompt itself among them."""

    auto: Annotated[int, Between(2, MAX_VARIANTS)] = Field(
        description="Number of wordings, with the prompt as the first."
    )


Variants: TypeAlias = Annotated[list[NonBlankText], Field(min_length=1, max_length=MAX_VARIANTS)] | AutoVariants

VARIANTS = "Texts to sample from instead of the prompt, which ranks all; or how many wordings the server makes."
