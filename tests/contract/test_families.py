"""Any pipeline makes what it makes alone, by the gate or a native loop, whatever happens to the others in its calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.protocols import OutOfMemory
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import JOBS, Driven, Job, Native, apart, driven, levels

pytestmark = pytest.mark.torch

LATENTS = 2e-5
GATED = ("stable_diffusion_xl", "flux", "qwen_image")
"""Families behind the gate in each run, beside those that have no native loop: one of each module of tiny builds."""
LEVELS = 2
MIXED = 1.3
"""Calls of eight requests of equal length, as a multiple of those of the longest alone."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each family behind the gate, and by its native loop where it has one."""
    if "driven_by" in metafunc.fixturenames:
        ways = [
            pytest.param((name, path), id=f"{name}-{path}", marks=[pytest.mark.soak] * _repeats(name, path))
            for name, family in FAMILIES.items()
            for path in family.paths
        ]
        metafunc.parametrize("driven_by", ways, indirect=True, scope="module")


def _repeats(name: str, path: str) -> bool:
    """Whether the gate drives a pipeline that a native loop drives by default: all but three go to the soak run."""
    return path == "gate" and len(FAMILIES[name].paths) > 1 and name not in GATED


@pytest.fixture(scope="module")
def driven_by(request: pytest.FixtureRequest) -> Iterator[Driven]:
    """A family and who makes its steps; xdist and pytest keep its tests together."""
    yield driven(*request.param)
    gc.collect()


def off(driven_by: Driven, latent: Any, job: Job) -> float:
    """Distance of a finished latent from what the stock pipeline makes alone."""
    wanted = driven_by.stock(job).latent
    return apart(driven_by.sample(latent, wanted), wanted)


def test_mixed_candidates_are_those_of_the_stock_pipeline(driven_by: Driven) -> None:
    latents = driven_by.finish([driven_by.row(job) for job in JOBS])
    pixels = driven_by.pixels(latents)
    for job, latent, picture in zip(JOBS, latents, pixels, strict=True):
        wanted = driven_by.stock(job)
        assert off(driven_by, latent, job) <= LATENTS
        assert levels(picture, wanted.pixels) <= LEVELS
    assert levels(pixels[0], pixels[1]) > LEVELS


def test_a_candidate_alone_is_the_one_in_a_batch(driven_by: Driven) -> None:
    together = driven_by.finish([driven_by.row(job) for job in JOBS])
    for job, latent in zip(JOBS, together, strict=True):
        (alone,) = driven_by.finish([driven_by.row(job)])
        assert apart(np.asarray(alone.x), np.asarray(latent.x)) <= LATENTS


def test_a_row_makes_as_many_predictions_as_the_model_says(driven_by: Driven) -> None:
    info = driven_by.generator.info
    row = driven_by.row(JOBS[0])
    for guidance in (0.0, 0.5, 1.0, 3.0):
        guided = info.is_guided(guidance)
        with driven_by.counted() as calls:
            driven_by.step([replace(row, guidance_scale=guidance, negative=row.negative if guided else None)])
        assert sum(calls) == (2 if guided else 1), guidance


def test_survivors_do_not_notice_the_pruned(driven_by: Driven) -> None:
    rows = [driven_by.row(job) for job in JOBS]
    rows = driven_by.step(driven_by.step(rows))
    previews = driven_by.pixels([row.latent for row in rows], preview=True)
    assert len(previews) == len(rows)
    pruned = weakref.ref(driven_by.held(rows[1].latent))
    del rows[1]
    assert pruned() is None
    latents = driven_by.finish(rows)
    for job, latent in zip((JOBS[0], JOBS[2]), latents, strict=True):
        assert off(driven_by, latent, job) <= LATENTS


def test_a_full_device_loses_nothing(driven_by: Driven) -> None:
    rows = driven_by.step([driven_by.row(job) for job in JOBS])
    for call in (1, 2):
        with driven_by.counted(raise_on=call) as calls:
            try:
                done = driven_by.step(rows)
            except OutOfMemory:
                done = [driven_by.step([row])[0] for row in rows]
            else:
                assert len(calls) < call, "the error was lost"
        rows = done
    latents = driven_by.finish(rows)
    for job, latent in zip(JOBS, latents, strict=True):
        assert off(driven_by, latent, job) <= LATENTS


def test_a_row_can_be_stepped_again(driven_by: Driven) -> None:
    (row,) = driven_by.step([driven_by.row(JOBS[1])])
    (once,) = driven_by.step([row])
    (twice, *others) = driven_by.step([row, row, row], 4)
    for other in others:
        np.testing.assert_array_equal(np.asarray(other.latent.x), np.asarray(twice.latent.x))
    np.testing.assert_allclose(np.asarray(twice.latent.x), np.asarray(once.latent.x), rtol=LATENTS, atol=LATENTS)
    (first,) = driven_by.finish([twice])
    (second,) = driven_by.finish([once])
    for latent in (first, second):
        assert off(driven_by, latent, JOBS[1]) <= LATENTS


def test_one_size_gives_the_same_bits_in_any_batch(driven_by: Driven) -> None:
    job = Job(steps=2)
    alone = driven_by.finish([driven_by.row(job)], size=3)[0]
    others = [Job("a blue horse"[: len(job.prompt)], 20, 2), Job(seed=21, steps=2)]
    batch = driven_by.finish([driven_by.row(others[0]), driven_by.row(job), driven_by.row(others[1])], size=3)
    np.testing.assert_array_equal(np.asarray(batch[1].x), np.asarray(alone.x))


def test_requests_of_one_length_share_their_calls(driven_by: Driven) -> None:
    prompts = ["a red apple", "a big house", "a tin spoon", "my old shoe"]
    jobs = [Job(prompts[i % 4], seed=i, steps=4 + i % 3) for i in range(8)]
    assert len({driven_by.row(job).prompt.length for job in jobs}) == 1
    with driven_by.counted() as longest:
        driven_by.finish([driven_by.row(jobs[2])])
    rows = [driven_by.row(job) for job in jobs]
    for ahead, index in enumerate((0, 1, 2)):
        for _ in range(ahead):
            rows[index] = driven_by.step([rows[index]])[0]
    with driven_by.counted() as calls:
        latents = driven_by.finish(rows)
    assert len(calls) <= MIXED * len(longest)
    assert off(driven_by, latents[2], jobs[2]) <= LATENTS


def test_previews_show_the_estimate(driven_by: Driven) -> None:
    rows = driven_by.step([driven_by.row(job) for job in JOBS[:2]])
    latents = [row.latent for row in rows]
    shown, state = driven_by.pixels(latents, preview=True), driven_by.pixels(latents)
    again = driven_by.generator.load(driven_by.generator.dump(latents, preview=True))
    assert levels(shown, driven_by.pixels(again)) <= LEVELS
    assert levels(shown[:1], state[:1]) > 0
    (end,) = driven_by.finish(rows[:1])
    last = driven_by.pixels([end], preview=True), driven_by.pixels([end])
    assert levels(*last) <= LEVELS, "the last estimate is the picture itself"


def test_stored_latents_are_decoded_later(driven_by: Driven) -> None:
    latents = driven_by.finish([driven_by.row(job) for job in JOBS[:2]])
    stored = driven_by.generator.dump(latents)
    assert stored.dtype == np.float16
    assert stored.ndim == 4
    loaded = driven_by.generator.load(stored)
    assert levels(driven_by.pixels(loaded), driven_by.pixels(latents)) <= LEVELS
    np.testing.assert_array_equal(driven_by.generator.dump(loaded), stored)


def test_decodes_are_one_call(driven_by: Driven) -> None:
    latents = driven_by.finish([driven_by.row(Job(seed=seed, steps=2)) for seed in range(5)])
    with driven_by.counted() as calls:
        assert len(driven_by.pixels(latents)) == 5
    assert calls == [5]


def test_a_picture_survives_its_way_through_the_loop(driven_by: Driven) -> None:
    """A picture that enters before the last step comes out nearer to itself than one that enters early."""
    info, size = driven_by.generator.info, driven_by.family.size
    picture = driven_by.generator.dump(driven_by.finish([driven_by.row(JOBS[0])]))[0]
    schedule = driven_by.generator.schedule(info.sampler, 8, size, size)
    if not driven_by.family.from_pictures:
        with pytest.raises(ValueError, match="cannot start from an image"):
            driven_by.generator.add_noise(picture, 5, schedule, 1)
        return
    ends = []
    for start in (1, 7):
        latent = driven_by.generator.add_noise(picture, 5, schedule, start)
        row = replace(driven_by.row(Job(steps=8, seed=5)), latent=latent, schedule=schedule, step=start)
        (end,) = driven_by.finish([row])
        ends.append(float(np.abs(driven_by.generator.dump([end])[0].astype(float) - picture).mean()))
    assert np.isfinite(ends).all()
    assert ends[1] < ends[0]


def test_pictures_become_latents_of_the_stored_kind(driven_by: Driven) -> None:
    latents = driven_by.finish([driven_by.row(Job(steps=2))])
    array = driven_by.generator.encode_image(driven_by.pixels(latents))
    assert array.dtype == np.float16
    assert array.shape == driven_by.generator.dump(latents).shape
    assert driven_by.pixels(driven_by.generator.load(array)).shape == driven_by.pixels(latents).shape


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if "native" in family.paths and not family.draws]
)
def test_the_native_loop_equals_the_gate(name: str, caplog: pytest.LogCaptureFixture) -> None:
    gated, native = driven(name, "gate"), Native(name)
    facts = [
        (
            *(info.width, info.height, info.steps, info.guidance_scale),
            *(info.sampler, info.guidance, info.negative_prompts, info.unguided_scale),
        )
        for info in (gated.generator.info, native.generator.info)
    ]
    assert facts[0] == facts[1]
    for job in JOBS:
        (wanted,), (latent,) = (each.finish([each.row(job)]) for each in (gated, native))
        like = np.asarray(wanted.x)
        assert apart(native.sample(latent, like), like) <= LATENTS
    assert "runs in Python" not in caplog.text, "a `denoise` that cannot be traced says so: `traceable = False`"
