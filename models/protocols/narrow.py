"""The protocol of generators of whole images, such as remote ones.

They have no steps that the engine could batch, prune or preview. The engine orders images and receives them one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.protocols import Latent, StepwiseGenerator

if TYPE_CHECKING:
    from typing_extensions import TypeIs

LossReason: TypeAlias = Literal[
    "timeout", "unreachable", "rate_limited", "refused", "rejected", "unauthorized", "unreadable", "missing",
    "budget_spent",
]  # fmt: skip
"""Why an ordered image does not come.

`refused`: the remote's content policy. `rejected`: the remote cannot make what is asked. `unauthorized`: it rejects the
key. `unreadable`: it sent no image. `missing`: it sent fewer images. `budget_spent`: calls or money of today are used.
"""


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls that ended, and their seconds.

    By outcome: `answered`, `cancelled`, `failed` by an unexpected error, or the reason for which a call made no image.
    A repeated call counts again.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: CallCounts) -> CallCounts:
        counts, seconds = Counter(self.counts), Counter[str]()
        counts.update(other.counts)
        for each in (self.seconds, other.seconds):
            seconds.update(each)
        return CallCounts(dict(counts), dict(seconds))


@dataclass(frozen=True, slots=True, eq=False)
class ImageOrder:
    """Images that one generation needs: a prompt and a seed for each.

    The empty negative prompt stands for none. Width and height are in pixels. `start` is an image uint8 (H, W, 3) of
    that size, from which a `strength` in (0, 1] departs; only the True part of `mask` (H, W) is redrawn.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    start: NDArray[np.uint8] | None = None
    strength: float = 1.0
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedImage:
    """The image of one place of an order, as a finished latent.

    `sent` is the size (width, height) in which it came, if it was resized to the order's.
    """

    place: int
    latent: Latent
    sent: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LostImage:
    """The image of one place does not come. `detail` can be shown to users."""

    place: int
    reason: LossReason
    detail: str


Delivery: TypeAlias = ReceivedImage | LostImage


class Generator(Protocol):
    """A model that makes whole images of a prompt elsewhere, such as a remote one.

    A `StepwiseGenerator` that has these methods too is never stepped: see `makes_whole_images`.
    """

    def generate(self, order: ImageOrder, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        """Begin to make the images of an order; return immediately.

        `deliver` is called once for every place, on another thread, in any order. The returned function cancels the
        order: open calls end, and nothing further is delivered. Call both from any thread.
        """
        ...

    def calls(self) -> CallCounts:
        """The calls so far. Call from any thread."""
        ...

    def close(self) -> None:
        """Cancel all orders and free threads and connections."""
        ...


class WholeImageGenerator(Generator, StepwiseGenerator, Protocol):
    """What the engine runs: whole images, stored and loaded like finished latents."""


def makes_whole_images(generator: StepwiseGenerator) -> TypeIs[WholeImageGenerator]:
    """Whether the images of a generator are ordered, instead of being stepped."""
    return hasattr(generator, "generate")


def count_reasons(losses: Collection[LostImage]) -> dict[str, int]:
    """Number of lost images by reason."""
    reasons = [loss.reason for loss in losses]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
