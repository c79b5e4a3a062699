"""Orders of images that a generator makes elsewhere, and what they bring.

Generators deliver on their own threads; deliveries wait here until the engine's thread takes them between two calls.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from app.domain import Notice
from app.engine.latent_codec import decode_init_latents
from app.engine.state import ActiveGeneration, Phase, Row
from app.errors import (
    FrontrunnerError,
    RemoteBudgetSpent,
    RemoteFailed,
    RemoteRefused,
)
from models.protocols import StepwiseGenerator, to_host
from models.protocols.narrow import CallCounts, Delivery, ImageOrder, ReceivedImage, count_reasons, makes_whole_images

_Received: TypeAlias = tuple[ActiveGeneration, Sequence[Row], Delivery]


class Orders:
    """The open orders of one engine. Engine thread only, but for deliveries.

    `wake` is called on the generator's thread after each delivery.
    """

    def __init__(self, generator: StepwiseGenerator, wake: Callable[[], None]) -> None:
        self._generator = generator if makes_whole_images(generator) else None
        self._wake = wake
        self._received: queue.SimpleQueue[_Received] = queue.SimpleQueue()
        self._open: dict[ActiveGeneration, list[Callable[[], None]]] = {}

    @property
    def whole_images(self) -> bool:
        """Whether the generator's images are ordered, instead of being stepped."""
        return self._generator is not None

    @property
    def are_open(self) -> bool:
        """Whether images may still come."""
        return bool(self._open)

    def place(self, run: ActiveGeneration, rows: Sequence[Row], now: float) -> None:
        """Order the images of new rows at `now`, in seconds of the engine's clock.

        Raises ValueError for what the generator cannot make.
        """
        assert self._generator is not None
        if not rows:
            return
        run.ordered_at = now

        def deliver(delivery: Delivery) -> None:
            self._received.put((run, rows, delivery))
            self._wake()

        cancel = self._generator.generate(self._order(run, rows), deliver)
        self._open.setdefault(run, []).append(cancel)

    def take(self) -> list[ActiveGeneration]:
        """Give rows what has come for them; return their generations."""
        changed = dict[ActiveGeneration, None]()
        while True:
            try:
                run, rows, delivery = self._received.get_nowait()
            except queue.Empty:
                return list(changed)
            row = rows[delivery.place]
            if run in self._open and row.phase is Phase.ORDERED:
                _settle(row, delivery)
                changed[run] = None

    def cancel(self, run: ActiveGeneration) -> None:
        """End the open calls for a generation; what still comes is dropped."""
        for cancel in self._open.pop(run, ()):
            cancel()

    def calls(self) -> CallCounts:
        """The generator's calls so far."""
        return self._generator.calls() if self._generator is not None else CallCounts()

    def close(self) -> None:
        """Close the generator."""
        if self._generator is not None:
            self._generator.close()

    def _order(self, run: ActiveGeneration, rows: Sequence[Row]) -> ImageOrder:
        spec, start = run.spec, None
        assert self._generator is not None
        if spec.start is not None:
            latents = self._generator.load(decode_init_latents(spec.start)[None])
            start = to_host(self._generator.decode(latents))[0]
        inpainting = run.inputs.inpainting if run.inputs is not None else None
        return ImageOrder(
            prompts=tuple(spec.sampling_prompt(row.index) for row in rows),
            seeds=tuple(row.seed for row in rows),
            negative_prompt=spec.negative_prompt if self._generator.info.negative_prompts else "",
            width=spec.width,
            height=spec.height,
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            sampler=spec.sampler,
            start=start,
            strength=spec.start.strength if spec.start is not None else 1.0,
            mask=inpainting.mask if inpainting is not None else None,
        )


def _settle(row: Row, delivery: Delivery) -> None:
    if isinstance(delivery, ReceivedImage):
        row.latent, row.sent_size, row.phase = delivery.latent, delivery.sent, Phase.FINISH
        row.step = row.generation.spec.steps_made
    else:
        row.loss, row.phase = delivery, Phase.LOST


def failure(rows: Sequence[Row]) -> FrontrunnerError | None:
    """The most frequent reason, as an error, if all images were lost.

    None for a generation with other rows.
    """
    losses = [row.loss for row in rows if row.loss is not None]
    if len(losses) < len(rows):
        return None
    reasons = count_reasons(losses)
    usual = max(reasons, key=lambda reason: reasons[reason])
    detail = f"no image was made: {next(loss.detail for loss in losses if loss.reason == usual)}"
    if usual == "budget_spent":
        return RemoteBudgetSpent(detail)
    return RemoteRefused(detail) if usual in {"refused", "rejected"} else RemoteFailed(detail)


def notices(rows: Sequence[Row]) -> tuple[Notice, ...]:
    """Warn about images that did not come, or came in another size."""
    return (*_lost_notices(rows), *_size_notices(rows))


def _lost_notices(rows: Sequence[Row]) -> tuple[Notice, ...]:
    lost = [(row.index, row.loss) for row in rows if row.loss is not None]
    if not lost:
        return ()
    reasons = count_reasons([loss for _, loss in lost])
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    detail = f"the remote generator made no image of {len(lost)} of {len(rows)} candidates ({told}); the rest is ranked"
    each = [{"index": index, "reason": loss.reason, "detail": loss.detail} for index, loss in lost]
    return (Notice("candidates_missing", detail, {"count": len(lost), "reasons": reasons, "candidates": each}),)


def _size_notices(rows: Sequence[Row]) -> tuple[Notice, ...]:
    sizes = [row.sent_size for row in rows if row.sent_size is not None]
    if not sizes:
        return ()
    spec = rows[0].generation.spec
    sent = {f"{width}x{height}": sizes.count((width, height)) for width, height in dict.fromkeys(sizes)}
    detail = (
        f"the remote generator sent {len(sizes)} images in other sizes; they were cropped and scaled to "
        f"{spec.width}x{spec.height}"
    )
    return (Notice("remote_size_adapted", detail, {"sent": sent}),)


def fill_lost(rows: Sequence[Row], dimensions: int) -> None:
    """Give lost rows an embedding of NaN (D,) and empty latents.

    So arrays hold all rows.
    """
    for row in rows:
        if row.phase is Phase.LOST:
            row.embedding = np.full(dimensions, np.nan, np.float32)
            row.stored_latent = np.zeros((1, 1, 0), np.float16)
