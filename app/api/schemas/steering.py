"""The field `steering` of requests and responses."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from app.api.schemas.base import FiniteFloat, RequestModel, ResponseModel, Share
from app.service.validation import out_of_range
from models.protocols.steering import MAX_SCALE, SteeringSettings


class SteeringInput(RequestModel):
    """Moves of candidates along the gradient of their own score.

    The score rises by construction; it is no proof of quality.
    """

    scale: FiniteFloat = Field(
        description=f"Length of a move relative to the image estimate, at most {MAX_SCALE}; 0 is off.",
        json_schema_extra={"minimum": 0, "maximum": MAX_SCALE},
    )
    start: Share = Field(0.15, description="Share of the noise schedule's time of the first move.")
    end: Share = Field(0.8, description="Share of the noise schedule's time of the last move.")

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, scale: float) -> float:
        if scale > MAX_SCALE:
            raise ValueError(
                f"beyond {MAX_SCALE} the score rises while images get worse: use a scale of at most {MAX_SCALE}"
            )
        if scale < 0:
            raise ValueError(out_of_range(scale, 0, MAX_SCALE))
        return scale

    @model_validator(mode="after")
    def _check_window(self) -> SteeringInput:
        if self.start >= self.end:
            raise ValueError("`start` must be less than `end`")
        return self


class SteeringOutput(ResponseModel):
    """The steering that was used, as in requests."""

    scale: float
    start: float
    end: float


def to_steering(body: SteeringInput | None) -> SteeringSettings | None:
    """Convert to the domain; a scale of 0 is no steering."""
    return SteeringSettings(body.scale, body.start, body.end) if body is not None and body.scale > 0 else None


def steering_output(steering: SteeringSettings | None) -> SteeringOutput | None:
    """Convert from the domain."""
    return SteeringOutput.model_validate(steering, from_attributes=True) if steering is not None else None
