"""Any pipeline behind the gate makes what it makes alone, whatever happens to the others in its calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.protocols import OutOfMemory
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import JOBS, Gated, Job, apart, levels

pytestmark = pytest.mark.torch

LATENTS = 2e-5
LEVELS = 2
MIXED = 1.3
"""Calls of eight requests of equal length, as a multiple of those of the longest alone."""


@pytest.fixture(scope="module", params=FAMILIES)
def gated(request: pytest.FixtureRequest) -> Iterator[Gated]:
    """A family; xdist and pytest keep its tests together."""
    yield Gated(request.param)
    gc.collect()


@contextmanager
def counted(raise_on: int | None = None) -> Iterator[list[int]]:
    """Notes the entries of each call of the denoiser; the call of that number finds the device full."""
    from models.generators.gate import calls as made
    from models.generators.gate import generator as asked

    real: Callable[..., Any] = made.together
    calls: list[int] = []

    def together(found: Any) -> Any:
        calls.append(sum(call.rows for call in found))
        if raise_on is not None and len(calls) == raise_on:
            raise OutOfMemory("full")
        return real(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked, "together", together)
        yield calls


def test_mixed_candidates_are_those_of_the_stock_pipeline(gated: Gated) -> None:
    latents = gated.finish([gated.row(job) for job in JOBS])
    pixels = gated.pixels(latents)
    for job, latent, picture in zip(JOBS, latents, pixels, strict=True):
        wanted = gated.stock(job)
        assert apart(latent, wanted.latent) <= LATENTS
        assert levels(picture, wanted.pixels) <= LEVELS
    assert levels(pixels[0], pixels[1]) > LEVELS


def test_a_candidate_alone_is_the_one_in_company(gated: Gated) -> None:
    together = gated.finish([gated.row(job) for job in JOBS])
    for job, latent in zip(JOBS, together, strict=True):
        (alone,) = gated.finish([gated.row(job)])
        assert apart(alone, np.asarray(latent.x)) <= LATENTS


def test_survivors_do_not_notice_the_pruned(gated: Gated) -> None:
    rows = [gated.row(job) for job in JOBS]
    rows = gated.step(gated.step(rows))
    previews = gated.pixels([row.latent for row in rows], preview=True)
    assert len(previews) == len(rows)
    pruned = weakref.ref(rows[1].latent.attempt.run)
    del rows[1]
    assert pruned() is None
    latents = gated.finish(rows)
    for job, latent in zip((JOBS[0], JOBS[2]), latents, strict=True):
        assert apart(latent, gated.stock(job).latent) <= LATENTS


def test_a_full_device_loses_nothing(gated: Gated) -> None:
    rows = gated.step([gated.row(job) for job in JOBS])
    for call in (1, 2):
        with counted(raise_on=call) as calls:
            try:
                done = gated.step(rows)
            except OutOfMemory:
                done = [gated.step([row])[0] for row in rows]
            else:
                assert len(calls) < call, "the error was lost"
        rows = done
    latents = gated.finish(rows)
    for job, latent in zip(JOBS, latents, strict=True):
        assert apart(latent, gated.stock(job).latent) <= LATENTS


def test_a_row_can_be_stepped_again(gated: Gated) -> None:
    (row,) = gated.step([gated.row(JOBS[1])])
    (once,) = gated.step([row])
    (twice, *others) = gated.step([row, row, row], 4)
    assert all(other.latent is twice.latent for other in others)
    np.testing.assert_allclose(np.asarray(twice.latent.x), np.asarray(once.latent.x), rtol=LATENTS, atol=LATENTS)
    (first,) = gated.finish([twice])
    (second,) = gated.finish([once])
    for latent in (first, second):
        assert apart(latent, gated.stock(JOBS[1]).latent) <= LATENTS


def test_one_size_gives_the_same_bits_in_any_company(gated: Gated) -> None:
    job = Job(steps=2)
    alone = gated.finish([gated.row(job)], size=3)[0]
    others = [Job("a blue horse"[: len(job.prompt)], 20, 2), Job(seed=21, steps=2)]
    company = gated.finish([gated.row(others[0]), gated.row(job), gated.row(others[1])], size=3)
    np.testing.assert_array_equal(np.asarray(company[1].x), np.asarray(alone.x))


def test_requests_of_one_length_share_their_calls(gated: Gated) -> None:
    prompts = ["a red apple", "a big house", "a tin spoon", "my old shoe"]
    jobs = [Job(prompts[i % 4], seed=i, steps=4 + i % 3) for i in range(8)]
    assert len({gated.row(job).prompt.length for job in jobs}) == 1
    with counted() as longest:
        gated.finish([gated.row(jobs[2])])
    rows = [gated.row(job) for job in jobs]
    for ahead, index in enumerate((0, 1, 2)):
        for _ in range(ahead):
            rows[index] = gated.step([rows[index]])[0]
    with counted() as calls:
        latents = gated.finish(rows)
    assert len(calls) <= MIXED * len(longest)
    assert apart(latents[2], gated.stock(jobs[2]).latent) <= LATENTS


def test_previews_show_the_estimate(gated: Gated) -> None:
    rows = gated.step([gated.row(job) for job in JOBS[:2]])
    latents = [row.latent for row in rows]
    shown, state = gated.pixels(latents, preview=True), gated.pixels(latents)
    again = gated.generator.load(gated.generator.dump(latents, preview=True))
    assert levels(shown, gated.pixels(again)) <= LEVELS
    assert levels(shown[:1], state[:1]) > 0
    (end,) = gated.finish(rows[:1])
    last = gated.pixels([end], preview=True), gated.pixels([end])
    assert levels(*last) <= LEVELS, "the last estimate is the picture itself"


def test_stored_latents_are_decoded_later(gated: Gated) -> None:
    latents = gated.finish([gated.row(job) for job in JOBS[:2]])
    stored = gated.generator.dump(latents)
    assert stored.dtype == np.float16
    assert stored.ndim == 4
    loaded = gated.generator.load(stored)
    assert levels(gated.pixels(loaded), gated.pixels(latents)) <= LEVELS
    np.testing.assert_array_equal(gated.generator.dump(loaded), stored)


def test_decodes_are_one_call(gated: Gated) -> None:
    latents = gated.finish([gated.row(Job(seed=seed, steps=2)) for seed in range(5)])
    with counted() as calls:
        assert len(gated.pixels(latents)) == 5
    assert calls == [5]


def test_a_picture_survives_its_way_through_the_loop(gated: Gated) -> None:
    """A picture that enters before the last step comes out nearer to itself than one that enters early."""
    info, size = gated.generator.info, gated.family.size
    picture = gated.generator.dump(gated.finish([gated.row(JOBS[0])]))[0]
    schedule = gated.generator.schedule(info.sampler, 8, size, size)
    if not gated.family.from_pictures:
        with pytest.raises(ValueError, match="cannot start from an image"):
            gated.generator.add_noise(picture, 5, schedule, 1)
        return
    ends = []
    for start in (1, 7):
        latent = gated.generator.add_noise(picture, 5, schedule, start)
        row = replace(gated.row(Job(steps=8, seed=5)), latent=latent, schedule=schedule, step=start)
        (end,) = gated.finish([row])
        ends.append(float(np.abs(gated.generator.dump([end])[0].astype(float) - picture).mean()))
    assert np.isfinite(ends).all()
    assert ends[1] < ends[0]


def test_pictures_become_latents_of_the_stored_kind(gated: Gated) -> None:
    latents = gated.finish([gated.row(Job(steps=2))])
    array = gated.generator.encode_image(gated.pixels(latents))
    assert array.dtype == np.float16
    assert array.shape == gated.generator.dump(latents).shape
    assert gated.pixels(gated.generator.load(array)).shape == gated.pixels(latents).shape
