"""Whole images in the engine: ordered at once, scored as they come, lost without the others, ended by cancels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Cancelled, Failed, Finished, Succeeded, Update
from app.engine.ranking.scoring import build_query, score_images
from app.engine.registry.cards import card_stats
from app.engine.registry.served_engine import Work
from app.engine.segments.core import SegmentCore
from app.errors import RemoteBudgetSpent, RemoteFailed, RemoteRefused
from models.errors import ModelUnsupported
from models.generators.remote.pictures import Picture, PictureStorage
from models.protocols import Models, WholeImages
from models.protocols.narrow import (
    CallCounts,
    Delivery,
    Generator,
    ImageOrder,
    LossReason,
    LostImage,
    ReceivedImage,
    makes_whole_images,
)
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from tests.unit.engine_kit import spec

COLOURS = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0], [255, 255, 0]], np.uint8)


class Elsewhere(PictureStorage):
    """Keeps orders until a test delivers."""

    def __init__(self) -> None:
        super().__init__(replace(FakeGenerator().info, whole_images=WholeImages()))
        self.orders = list[tuple[ImageOrder, Callable[[Delivery], None]]]()
        self.cancelled = 0
        self.closed = False

    def generate(self, order: ImageOrder, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        self.orders.append((order, deliver))

        def cancel() -> None:
            self.cancelled += 1

        return cancel

    def calls(self) -> CallCounts:
        return CallCounts({"answered": len(self.orders)}, {"answered": 0.5 * len(self.orders)})

    def close(self) -> None:
        self.closed = True

    def send(self, *places: int, order: int = -1, sent: tuple[int, int] | None = None) -> None:
        asked, deliver = self.orders[order]
        for place in places:
            pixels = np.full((asked.height, asked.width, 3), COLOURS[place % len(COLOURS)], np.uint8)
            deliver(ReceivedImage(place, Picture.fitted(pixels, (asked.width, asked.height)), sent))

    def lose(self, *places: int, reason: LossReason = "timeout", order: int = -1) -> None:
        for place in places:
            self.orders[order][1](LostImage(place, reason, f"it has {reason}"))


class Desk:
    """A core on such a generator, with every update and the number of wakes."""

    def __init__(self) -> None:
        self.wakes = 0
        self.generator = Elsewhere()
        self.core = EngineCore(Models(self.generator, FakeScorer()), EngineConfig(), clock=lambda: 0.0, wake=self._wake)
        self.updates = list[Update]()

    def _wake(self) -> None:
        self.wakes += 1

    def submit(self, **changes: Any) -> None:
        self.core.submit(spec(**{"ranking": spec().ranking, **changes}), 0.0)
        self.run()

    def run(self) -> None:
        self.core.resume()
        for _ in range(100):
            if self.core.idle:
                return
            self.updates += [update for _, update in self.core.tick()]
        raise AssertionError("the core is never idle")

    @property
    def end(self) -> Any:
        last = self.updates[-1]
        return last.outcome if isinstance(last, Succeeded) else last


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_images_are_scored_as_they_come(desk: Desk) -> None:
    generator: Generator = desk.generator
    assert (makes_whole_images(desk.generator), makes_whole_images(FakeGenerator())) == (True, False)
    assert generator is desk.generator
    desk.core.measure()
    desk.submit(negative_prompt="blue", deterministic=True)
    ((order, _),) = desk.generator.orders
    assert (order.seeds, set(order.prompts), order.negative_prompt) == ((7, 8, 9, 10), {"a red apple"}, "blue")
    assert desk.core.idle, "the thread may sleep until something comes"
    desk.generator.send(2, 0)
    assert desk.wakes == 2
    desk.run()
    desk.generator.send(3, 1)
    desk.run()
    finished = [update for update in desk.updates if isinstance(update, Finished)]
    assert sorted(each.index for each in finished[:2]) == [0, 2]
    whole = spec().steps + 1  # an image that came lacks its score
    assert [round(each.progress * 4 * whole) for each in finished] == [
        2 * whole - 1,
        2 * whole,
        4 * whole - 1,
        4 * whole,
    ]
    outcome = desk.end
    assert [each.rank for each in outcome.candidates] == [1, None, None, None]
    assert (outcome.work.rows_stepped, outcome.work.rows_unpruned, outcome.work.decodes) == (0, 0, 4)
    text, unwanted = FakeScorer().embed_texts(["a red apple", "blue"])
    query = build_query(spec(negative_prompt="blue").ranking, text.vector, unwanted.vector[None], [1.0])
    expected = score_images(FakeScorer().embed_images(np.full((1, 64, 64, 3), COLOURS[0], np.uint8)), query)[0]
    assert outcome.candidates[0].score == expected
    pictures = desk.generator.decode(desk.generator.load(outcome.latents))
    np.testing.assert_array_equal(pictures[:, 0, 0], COLOURS)


def test_what_is_lost_is_told_and_the_rest_is_ranked(desk: Desk) -> None:
    desk.submit(n=3)
    desk.generator.lose(0, reason="refused")
    desk.generator.send(1, 2, sent=(32, 96))
    desk.generator.lose(3)
    desk.generator.send(0, 3)  # each place counts once
    desk.run()
    outcome = desk.end
    assert [each.failure for each in outcome.candidates] == ["it has refused", None, None, "it has timeout"]
    assert [each.is_finished for each in outcome.candidates] == [False, True, True, False]
    assert np.isnan(outcome.embeddings).any(axis=1).tolist() == [True, False, False, True]
    assert len(outcome.latents) == 4
    told = {notice.code: notice.data for notice in outcome.notices}
    assert "score_not_a_number" not in told
    assert told["candidates_missing"]["reasons"] == {"refused": 1, "timeout": 1}
    assert [each["index"] for each in told["candidates_missing"]["candidates"]] == [0, 3]
    assert told["remote_size_adapted"] == {"sent": {"32x96": 2}}


@pytest.mark.parametrize(
    ("reasons", "error"),
    [
        (("refused", "refused", "timeout", "refused"), RemoteRefused),
        (("timeout", "timeout", "unreachable", "refused"), RemoteFailed),
        (("budget_spent",) * 4, RemoteBudgetSpent),
    ],
)
def test_a_generation_without_an_image_fails(desk: Desk, reasons: tuple[LossReason, ...], error: type) -> None:
    desk.submit()
    for place, reason in enumerate(reasons):
        desk.generator.lose(place, reason=reason)
    desk.run()
    assert isinstance(desk.end, Failed)
    assert type(desk.end.error) is error
    assert f"it has {reasons[0]}" in desk.end.error.detail
    assert desk.core.idle


def test_the_last_image_may_be_the_lost_one(desk: Desk) -> None:
    desk.submit()
    desk.generator.send(0, 1, 2)
    desk.run()
    desk.generator.lose(3)
    desk.run()
    assert desk.end.candidates[3].failure == "it has timeout"


def test_a_cancel_ends_the_order_and_what_comes_later_is_dropped(desk: Desk) -> None:
    desk.submit()
    desk.core.cancel("gen_a")
    desk.run()
    assert isinstance(desk.end, Cancelled)
    assert desk.generator.cancelled == 1
    desk.generator.send(0, 1, 2, 3)
    desk.run()
    assert isinstance(desk.end, Cancelled)
    desk.core.close()
    assert desk.generator.closed


def test_generations_do_not_wait_for_each_other(desk: Desk) -> None:
    desk.submit()
    desk.core.submit(spec("gen_b", n_candidates=1), 0.0)
    assert not desk.core.idle, "a new request wakes a core that waits"
    desk.run()
    desk.generator.send(0, order=1)
    desk.run()
    assert isinstance(desk.updates[-1], Succeeded)
    desk.generator.send(0, 1, 2, 3, order=0)
    desk.run()
    assert len(desk.end.candidates) == 4


def test_waves_order_more_until_they_gain_little(desk: Desk) -> None:
    desk.submit(n_candidates=32, wave=4)
    desk.generator.send(0, 1, 2)
    desk.generator.lose(3)
    desk.run()
    assert len(desk.generator.orders) == 2
    assert desk.generator.orders[1][0].seeds == (11, 12, 13, 14)
    desk.generator.lose(0, 1, 2, 3, reason="budget_spent")
    desk.run()
    assert len(desk.end.candidates) == 8, "a wave without an image is the last one"


def test_segments_are_refused(desk: Desk) -> None:
    with pytest.raises(ModelUnsupported, match="no device"):
        SegmentCore(Models(desk.generator, FakeScorer()), EngineConfig())


def test_an_initial_image_is_part_of_the_order(desk: Desk) -> None:
    from app.engine.latent_codec import encode_init_latents

    image = np.random.default_rng(1).integers(0, 255, (1, 64, 64, 3)).astype(np.uint8)
    start = encode_init_latents(desk.generator.encode_image(image)[0], 0.5)
    desk.submit(start=start)
    order, _ = desk.generator.orders[0]
    assert order.start is not None
    np.testing.assert_array_equal(order.start, image[0])
    assert order.strength == 0.5
    desk.core.cancel("gen_a")
    desk.run()
    desk.submit(start=replace(start, strength=0.0), n_candidates=2)
    assert len(desk.generator.orders) == 1, "strength 0 keeps the image, so nothing is ordered"
    assert len(desk.end.candidates) == 2


def test_calls_of_earlier_loads_and_of_all_models_are_summed() -> None:
    desk = Desk()
    desk.core.submit(spec(n_candidates=2), 0.0)
    desk.core.tick()
    one = card_stats(None, "ready", 8)
    now = replace(one, remote_calls=desk.core.remote_calls())
    assert now.remote_calls == CallCounts({"answered": 1}, {"answered": 0.5})
    before = Work().after(replace(one, remote_calls=CallCounts({"answered": 2, "timeout": 1}, {"timeout": 9.0})))
    total = before.added(now).remote_calls
    assert total == CallCounts({"answered": 3, "timeout": 1}, {"answered": 0.5, "timeout": 9.0})
