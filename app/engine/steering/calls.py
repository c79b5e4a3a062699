"""Steering calls of the engine: the query as a target, and the rows of one call.

Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.domain import GenerationSpec
from app.engine.ranking.scoring import Query
from app.engine.state import Row
from app.errors import InvalidRequest, NoSteering
from models.protocols import StepwiseGenerator
from models.protocols.steering import Aim, Steering, SteeringTarget, SteerRow

NO_GRADIENTS = "the loaded generator or scorer gives no gradients, so these models cannot be steered"
"""Why a pair of models has no `Steering`."""


def find_aim(steering: Steering | None, spec: GenerationSpec, query: Query) -> Aim:
    """The aim of a generation; None for an unsteered one.

    Raises NoSteering.
    """
    if spec.steering is None:
        return None
    return _checked(steering, spec).aim(steering_target(query))


def prepare(generator: StepwiseGenerator, steering: Steering | None, spec: GenerationSpec) -> None:
    """Try the adapters and the steering of a generation before it is admitted.

    Raises InvalidRequest and NoSteering.
    """
    if spec.steering is not None:
        _checked(steering, spec)
    if not spec.loras:
        return
    try:
        generator.adapt(spec.loras)
    except ValueError as error:
        raise InvalidRequest(str(error), pointer="#/loras") from error
    finally:
        generator.adapt(())


def refusal(steering: Steering | None) -> str | None:
    """Why the loaded models cannot be steered, as far as is known; None if they can."""
    return NO_GRADIENTS if steering is None else steering.refusal


def _checked(steering: Steering | None, spec: GenerationSpec) -> Steering:
    """The steering of the loaded models for this spec. Raises NoSteering."""
    if steering is None:
        raise NoSteering(f"{NO_GRADIENTS}: send `steering` with scale 0, or none", pointer="#/steering")
    if spec.deterministic and not steering.bit_stable:
        raise NoSteering(
            "on this device gradients differ in their last bits from run to run: omit `deterministic` or `steering`",
            pointer="#/deterministic",
        )
    try:
        steering.check(spec.width, spec.height)
    except ValueError as error:
        raise NoSteering(f"these models cannot be steered at this size: {error}", pointer="#/steering") from error
    return steering


def steering_target(query: Query) -> SteeringTarget:
    """The ranking formula of `scoring.score_images`, by weights of cosines."""
    dimensions = len(query.prompt)
    references, weights = np.zeros((0, dimensions), np.float32), np.zeros(0, np.float32)
    if query.references is not None and query.reference_weights is not None:
        references, weights = query.references, query.reference_weights
    liked, unliked = weights > 0, weights < 0
    wanted = np.concatenate([np.ones(1, np.float32), weights[liked]])
    unwanted = np.concatenate([query.weights, -weights[unliked]])
    taste = query.taste
    return SteeringTarget(
        np.concatenate([query.prompt[None], references[liked]]),
        wanted / wanted.sum(),
        np.concatenate([query.negatives.reshape(-1, dimensions), references[unliked]]),
        query.negative_weight * unwanted / unwanted.sum() if len(unwanted) else unwanted,
        *((taste.vector, taste.offset, taste.bound) if taste is not None else ()),
    )


def steer_rows(steering: Steering | None, rows: Sequence[Row], size: int) -> None:
    """Move rows once, padded to `size` if it is above 0, and set their next phase."""
    assert steering is not None
    latents = steering.steer([_steer_row(row) for row in rows], size or len(rows))
    for row, latent in zip(rows, latents, strict=True):
        row.latent = latent
        row.phase = row.phase_after_step
        row.generation.add_work(rows_steered=1)


def _steer_row(row: Row) -> SteerRow:
    run = row.generation
    assert run.schedule is not None
    assert run.spec.steering is not None
    return SteerRow(
        row.latent,
        run.schedule,
        row.schedule_call - 1,
        row.seed,
        run.aim,
        run.spec.steering.scale,
        run.inputs,
    )
