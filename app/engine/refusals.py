"""Adapters of a call, and errors of requests that stand for those of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.engine.scheduler import CallKind
from app.errors import InvalidRequest, OutOfDeviceMemory
from models.loras import Lora
from models.protocols import StepwiseGenerator


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a generator's ValueError into an error of the request."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(f"the generator cannot make this: {error}") from error


def out_of_memory(kind: CallKind) -> OutOfDeviceMemory:
    """The error of a call that does not fit with its smallest batch."""
    if kind is CallKind.ENCODE:
        return OutOfDeviceMemory(
            "the device memory is too small for the text encoder: ask the operator to set FRONTRUNNER_OFFLOAD or "
            "FRONTRUNNER_QUANTIZATION"
        )
    return OutOfDeviceMemory("the device memory is too small for one batch of this size: use fewer pixels")


@contextmanager
def adapted(generator: StepwiseGenerator, loras: tuple[Lora, ...]) -> Iterator[None]:
    """Use adapters for calls of the generator.

    None are in use afterwards: a pack's scorer shares the text encoder.
    """
    if not loras:
        yield
        return
    try:
        with refusals():
            generator.adapt(loras)
        yield
    finally:
        generator.adapt(())
