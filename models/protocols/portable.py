"""The protocol of generators whose latents can move between devices.

Owns the form of a candidate between two steps as plain arrays. A generator without it keeps its latents on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from numpy.typing import NDArray

from models.protocols.schedules import Schedule

if TYPE_CHECKING:
    from typing_extensions import TypeIs

LatentState: TypeAlias = Mapping[str, NDArray[Any]]
"""A candidate between two steps: arrays in host memory, by names."""


class PortableLatents(Protocol):
    """A generator whose candidates may continue on another device."""

    def export(self, latents: Sequence[Any]) -> list[LatentState]:
        """Copies of latents in host memory, in order. No precision is lost."""
        ...

    def restore(self, states: Sequence[LatentState], schedule: Schedule, start: int) -> list[Any]:
        """Latents from the results of `export`, in order.

        `start` is the first call of the schedule that the candidates made: above 0 if they began with an image.
        """
        ...


def is_portable(generator: object) -> TypeIs[PortableLatents]:
    """Whether a generator can export its latents."""
    return hasattr(generator, "export") and hasattr(generator, "restore")


def present(**arrays: NDArray[Any] | None) -> LatentState:
    """A state of the arrays that are not None."""
    return {name: array for name, array in arrays.items() if array is not None}
