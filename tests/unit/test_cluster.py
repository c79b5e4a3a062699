"""Several workers make the same candidates as one device, to the last bit."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from app.domain import Checkpoint, Negative, Ranking, ScorerUse
from app.engine.cluster.race import CHUNK_ROWS
from app.engine.latent_codec import encode_init_latents
from app.engine.protocols import Cancelled, Finished, Previewed, Pruned, Started, Stepped
from app.errors import Draining, Loading, Overloaded
from models.protocols.image_inputs import Control, ImageInputs, Inpainting
from models.protocols.steering import SteeringSettings
from models.synthetic.generator import FakeGenerator
from tests.unit import cluster_kit as kit
from tests.unit.cluster_kit import CONFIG, FarWorker, Faults, KeepingGenerator, alone, assert_same, cluster, race
from tests.unit.engine_kit import Inbox, spec

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CUTS = (Checkpoint(2, 9), Checkpoint(4, 5))
PICTURE = np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8)


def start(strength: float) -> Any:
    return encode_init_latents(FakeGenerator().encode_image(PICTURE[None])[0], strength)


def inputs() -> ImageInputs:
    mask = np.zeros((64, 64), np.bool_)
    mask[:, :32] = True
    return ImageInputs(Inpainting(PICTURE, FakeGenerator().encode_image(PICTURE[None])[0], mask))


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pruned": {"checkpoints": CUTS},
    "previewed": {"checkpoints": (Checkpoint(3),)},
    "multistep": {"checkpoints": CUTS, "sampler": "dpmpp_2m"},
    "ancestral": {"checkpoints": CUTS, "sampler": "euler_ancestral"},
    "unguided": {"guidance_scale": 1.0, "negative_prompt": "blue"},
    "deterministic": {"checkpoints": CUTS, "deterministic": True},
    "waves": {"wave": 5, "checkpoints": (Checkpoint(2, 3),)},
    "shadow": {"checkpoints": CUTS, "shadow": True},
    "diversity": {"ranking": Ranking(diversity=0.5)},
    "negatives": {"ranking": Ranking(negatives=(Negative("green", 1.0),))},
    "steered": {"steps": 10, "checkpoints": CUTS, "steering": SteeringSettings(0.05)},
    "wordings": {"wordings": ("a red apple", "a green pear on blue")},
    "started": {"start": start(0.6), "checkpoints": (Checkpoint(2, 6),)},
    "kept": {"start": start(0.0)},
    "single": {"n_candidates": 1, "n": 1},
}


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_every_kind_of_generation_is_the_same_on_any_number_of_workers(workers: int) -> None:
    async with cluster(workers, worker=FarWorker if workers == 2 else kit.InProcessWorker) as engine:
        for kind, changes in KINDS.items():
            one = spec(f"gen_{kind}", **{"n_candidates": 20, "n": 3, **changes})
            outcome, _ = await race(engine, one)
            assert_same(outcome, alone(one))
        masked = spec("gen_masked", n_candidates=9, start=start(0.5), masked=True)
        outcome, _ = await race(engine, masked, inputs())
        assert_same(outcome, alone(masked, inputs()))
        assert engine.stats().held == 0


async def test_many_generations_at_once_are_the_same_as_one_after_another() -> None:
    many = [spec(f"g{i}", n_candidates=3 + i, seed=100 * i, checkpoints=(Checkpoint(2, 2),)) for i in range(12)]
    async with cluster(3) as engine:
        ended = await asyncio.gather(*(race(engine, one) for one in many))
    for one, (outcome, _) in zip(many, ended, strict=True):
        assert_same(outcome, alone(one))


async def test_members_and_a_referee_judge_the_same_finalists() -> None:
    ranking = Ranking(scorers=(ScorerUse("fake", 1.0), ScorerUse("fake-2", 1.0)))
    one = spec(n_candidates=11, n=2, checkpoints=CUTS[:1], ranking=ranking)
    async with cluster(2, make=lambda name: kit.models(name, members=True)) as engine:
        outcome, _ = await race(engine, one)
        scores = await engine.score_images([PICTURE], "a red apple", "fake-judge")
        assert [each.info.id for each in engine.panel] == ["fake", "fake-2", "fake-judge", "fake-3"]
    assert_same(outcome, alone(one, given=kit.models(members=True)))
    assert scores.shape == (1,)


@pytest.mark.parametrize("workers", [1, 2])
async def test_waves_of_an_ensemble_stop_where_one_device_stops(workers: int) -> None:
    ranking = Ranking(scorers=(ScorerUse("fake", 1.0), ScorerUse("fake-2", 3.0)))
    one = spec(n_candidates=40, n=2, wave=5, checkpoints=CUTS[:0], ranking=ranking)
    async with cluster(workers, make=lambda name: kit.models(name, members=True)) as engine:
        outcome, _ = await race(engine, one)
    assert len(outcome.candidates) < 40
    assert_same(outcome, alone(one, given=kit.models(members=True)))


async def test_latents_that_cannot_travel_stay_on_their_worker() -> None:
    """And what a worker has lost of them is made again from the seeds."""
    one = spec(n_candidates=20, n=3, steps=9, checkpoints=(Checkpoint(2, 12), Checkpoint(5, 6)))
    faults = Faults()

    def make(name: str) -> Any:
        return kit.replace(kit.models(), generator=KeepingGenerator(name, faults, 0.0))

    async with cluster(2, make=make) as engine:
        outcome, inbox = await race(engine, one)
        assert_same(outcome, alone(one))
        inbox = Inbox()
        engine.submit(kit.replace(one, id="gen_b"), inbox)
        while not inbox.of(Pruned):
            await asyncio.sleep(0.001)
        faults.kill.add("w1")
        again = await inbox.outcome()
    assert faults.deaths in (["w1"], [])
    assert again.candidates == outcome.candidates


async def test_updates_tell_one_story_whatever_the_workers() -> None:
    one = spec(n_candidates=20, steps=6, checkpoints=CUTS)
    async with cluster(3) as engine:
        _, inbox = await race(engine, one)
    assert isinstance(inbox.updates[0], Started)
    assert len(inbox.of(Started)) == 1
    steps = [u.step for u in inbox.of(Stepped)]
    assert steps == sorted(set(steps))
    assert [(len(u.indices), u.step, u.live) for u in inbox.of(Pruned)] == [(11, 2, 9), (4, 4, 5)]
    assert [sum(u.step == at for u in inbox.of(Previewed)) for at in (2, 4)] == [20, 9]
    assert len({u.index for u in inbox.of(Finished)}) == len(inbox.of(Finished)) == 5
    shares = [u.progress for u in inbox.updates if isinstance(u, Stepped | Pruned | Finished)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


async def test_work_is_split_over_idle_workers_in_chunks() -> None:
    async with cluster(3, delay_s=0.002) as engine:
        outcome, _ = await race(engine, spec(n_candidates=60, n=4))
        rows = [slot.worker.stats().rows_stepped for slot in engine._dispatcher.slots]
        sent = [slot.sent for slot in engine._dispatcher.slots]
    assert outcome.work.rows_stepped == 60 * 6 <= sum(rows)
    assert min(rows) > 0, "no worker is idle while work waits"
    assert sum(sent) >= 60 / CHUNK_ROWS


async def test_later_calls_decode_and_embed_as_one_device_does() -> None:
    one = spec(n_candidates=6, n=2)
    generator, scorer = kit.models().generator, kit.models().scorer
    async with cluster(2) as engine:
        outcome, _ = await race(engine, one)
        latents = np.asarray(outcome.latents)
        images = await engine.decode(latents[2:4])
        np.testing.assert_array_equal(images, generator.decode(generator.load(latents[2:4])))
        np.testing.assert_array_equal(await engine.embed_images(list(images)), scorer.embed_images(images))
        np.testing.assert_array_equal(await engine.encode_images(images), generator.encode_image(images))
        assert (await engine.embed_texts(["red"]))[0].recognised
        assert (await engine.embed_patches(images[0])) is not None
        await engine.prepare(one)


async def test_a_cancel_frees_all_workers() -> None:
    async with cluster(3, delay_s=0.005) as engine:
        inbox = Inbox()
        engine.submit(spec(steps=900, n_candidates=64), inbox)
        while engine.stats().running < 64:
            await asyncio.sleep(0.002)
        engine.cancel("gen_a")
        assert isinstance(await inbox.last(), Cancelled)
        while engine.stats().running:
            await asyncio.sleep(0.002)
        assert [len(slot.attempts) for slot in engine._dispatcher.slots] == [0, 0, 0]
        outcome, _ = await race(engine, spec("gen_b"))
        assert engine.stats().rows_stepped < 64 * 900
    assert_same(outcome, alone(spec("gen_b")))


async def test_a_generation_can_be_cancelled_before_it_begins() -> None:
    async with cluster(2) as engine:
        inbox = Inbox()
        engine.submit(spec(), inbox)
        engine.cancel("gen_a")
        engine.cancel("unknown")
        assert isinstance(await inbox.last(), Cancelled)
        assert engine.stats().held == 0
        await race(engine, spec("gen_b"))


async def test_admission_counts_candidates_over_all_workers() -> None:
    async with cluster(2, delay_s=0.005, capacity=20) as engine:
        first = Inbox()
        engine.submit(spec("a", n_candidates=16), first)
        assert (engine.stats().held, engine.stats().capacity) == (16, 20)
        with pytest.raises(Overloaded):
            engine.submit(spec("b", n_candidates=5), Inbox())
        await first.outcome()
        engine.drain()
        with pytest.raises(Draining):
            engine.submit(spec("c"), Inbox())
        with engine.hold():
            assert not await engine.wait_drained(0.01)
        assert await engine.wait_drained(60)


async def test_closing_cancels_what_does_not_end_in_time() -> None:
    async with cluster(2, delay_s=0.005) as engine:
        inbox = Inbox()
        engine.submit(spec(steps=900), inbox)
        await engine.close(0.02)
        assert isinstance(inbox.updates[-1], Cancelled)


async def test_before_the_workers_have_loaded_it_says_so() -> None:
    engine = kit.ClusterEngine([kit.InProcessWorker("w0", kit.models, CONFIG)], CONFIG, lambda _: None)
    with pytest.raises(Loading):
        _ = engine.generator
    with pytest.raises(Loading):
        engine.submit(spec(), Inbox())
    assert not engine.stats().ready
    await engine.close(0)


async def test_control_images_travel_with_segments() -> None:
    given = ImageInputs(controls=(Control("edges", PICTURE, 0.8),))
    one = spec(n_candidates=9)

    def make(name: str) -> Any:
        return kit.replace(kit.models(name), generator=FakeGenerator(controls=("edges",)))

    async with cluster(2, make=make, worker=FarWorker) as engine:
        outcome, _ = await race(engine, one, given)
    assert_same(outcome, alone(one, given, make("one")))
