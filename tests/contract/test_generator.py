"""What the engine may take for granted of any generator."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest

from models.protocols import Schedule, StepwiseGenerator, to_host
from models.protocols.portable import is_portable
from tests.contract.loop import Candidate, difference, finish, levels, start, step, values

COLUMN = {name: index for index, name in enumerate(Schedule.COLUMNS)}
NOISY = {"euler_ancestral", "dpmpp_2m_sde", "lcm", "tcd"}
SAMPLERS = {"euler", "ddim", "ddim_quadratic", "dpmpp_2m", "unipc", "heun", *NOISY}
LATENTS = 1e-4
"""Largest difference of fp32 latents between batch sizes."""
LEVELS = 2
"""Largest difference of pixels that follows from it."""
ROUNDING = 1e-5
"""The same of x0, which is read off latents, as a share of its values."""


def mixed(generator: StepwiseGenerator) -> list[Candidate]:
    """Candidates of unlike samplers, steps, texts and guidance, each advanced by another number of steps."""
    texts = itertools.cycle(["a red apple", "two green cars", "dog"])
    made = [
        start(generator, seed, prompt=next(texts), sampler=sampler, steps=4 + seed, guidance=[1.0, 2.5][seed % 2])
        for seed, sampler in enumerate(generator.info.samplers)
    ]
    for ahead, candidate in enumerate(made):
        for _ in range(ahead % 3):
            step(generator, [candidate])
    return made


def tolerance(candidate: Candidate) -> float:
    """Latents are compared where the denoiser sees them: the state may be scaled by the sampler's noise."""
    return LATENTS * max(1.0, candidate.row.schedule.noise_scale)


def readout(candidate: Candidate) -> float:
    """How much x0, as it was read off the last output of the denoiser, magnifies what the output is off."""
    row = candidate.row
    return max(1.0, abs(float(row.schedule.table[row.step - 1, row.schedule.COLUMNS.index("d")])))


def test_info_is_coherent(generator: StepwiseGenerator) -> None:
    info = generator.info
    assert info.sampler in info.samplers
    assert set(info.samplers) <= SAMPLERS
    assert set(info.second_order) <= {"heun"}
    assert info.width % info.size_multiple == info.height % info.size_multiple == 0
    assert max(info.width, info.height) <= info.max_size
    assert info.steps >= 1
    assert info.revision
    assert (info.device, info.dtype) == ("cpu", "float32")


def test_schedules_are_finite_tables_of_their_steps(generator: StepwiseGenerator) -> None:
    for sampler, steps in itertools.product(generator.info.samplers, (1, 2, 3, 7, 20)):
        schedule = generator.schedule(sampler, steps, generator.info.width, generator.info.height)
        assert (schedule.sampler, schedule.steps) == (sampler, steps)
        twice = sampler in generator.info.second_order
        assert schedule.calls == (2 * steps - 1 if twice else steps)
        assert [schedule.calls_before(step) for step in (0, 1, steps)] == [
            0,
            min(1 + twice, schedule.calls),
            schedule.calls,
        ]
        assert schedule.table.shape == (schedule.calls, len(Schedule.COLUMNS))
        assert np.isfinite(schedule.table).all()
        assert (np.diff(schedule.table[:: 1 + twice, COLUMN["t"]]) < 0).all()
        assert schedule.table[0, COLUMN["h"]] == 0
        assert schedule.table[:, COLUMN["s"]].any() == (sampler in NOISY and steps > 1)


@pytest.mark.parametrize(("sampler", "steps"), [("plms", 5), ("", 5), ("ddim", 0), ("ddim", -1), ("ddim", 100_000)])
def test_other_schedules_are_refused(generator: StepwiseGenerator, sampler: str, steps: int) -> None:
    with pytest.raises(ValueError, match=r"sampler|steps"):
        generator.schedule(sampler, steps, generator.info.width, generator.info.height)


def test_noise_depends_on_seed_and_size_only(generator: StepwiseGenerator) -> None:
    info, (one, other) = generator.info, generator.info.samplers[:2]
    schedule = generator.schedule(one, 5, generator.info.width, generator.info.height)
    first = values(generator.noise(7, info.width, info.height, schedule))
    generator.noise(8, info.width, info.height, schedule)
    np.testing.assert_array_equal(first, values(generator.noise(7, info.width, info.height, schedule)))
    assert not np.array_equal(first, values(generator.noise(8, info.width, info.height, schedule)))
    same = generator.schedule(other, 9, generator.info.width, generator.info.height)
    scaled = values(generator.noise(7, info.width, info.height, same)) / same.noise_scale
    np.testing.assert_allclose(scaled, first / schedule.noise_scale, rtol=1e-6)
    assert abs(scaled.std() - 1) < 0.15


@pytest.mark.parametrize("seed", [2**32 - 1, 2**64 - 1])
def test_largest_seed(generator: StepwiseGenerator, seed: int) -> None:
    sampler = generator.info.samplers[-1]
    found, again, other = (
        values(finish(generator, [start(generator, each, sampler=sampler, steps=2)])[0])
        for each in (seed, seed, seed - 1)
    )
    assert np.isfinite(found).all()
    assert np.array_equal(found, again)
    assert not np.array_equal(found, other)


def test_every_bit_of_a_seed_counts(generator: StepwiseGenerator) -> None:
    info = generator.info
    schedule = generator.schedule(info.sampler, 5, info.width, info.height)
    seeds = [7, *(7 + 2**bit for bit in (31, 32, 33, 53, 62, 63))]
    found = [values(generator.noise(seed, info.width, info.height, schedule)) for seed in seeds]
    assert len({each.tobytes() for each in found}) == len(seeds)
    picture = found[0].astype(np.float16)
    if schedule.steps > 1:
        short, long = (values(generator.add_noise(picture, seed, schedule, 2)) for seed in (7, 7 + 2**32))
        assert not np.array_equal(short, long)


def test_equal_texts_share_their_encoding(generator: StepwiseGenerator) -> None:
    one, other, again, empty = generator.encode(["a red apple", "dog", "a red apple", ""])
    assert one.state is again.state
    assert one.state is not other.state
    assert one.length == other.length == empty.length
    assert all(each.truncation is None for each in (one, other, empty))
    assert generator.encode([]) == []


def test_truncation_names_what_is_lost(generator: StepwiseGenerator) -> None:
    limit = generator.info.token_limit
    fitting, long = generator.encode([" ".join(["x"] * (limit - 2)), " ".join(["x"] * (limit - 2) + ["y", "z"])])
    assert fitting.truncation is None
    assert long.truncation is not None
    assert (long.truncation.tokens, long.truncation.limit) == (limit + 2, limit)
    assert long.truncation.dropped.split() == ["y", "z"]
    assert long.length == fitting.length


@pytest.mark.parametrize("text", ["\u202eolleh \u0000 \U0001f34e\U0001f697", "x" * 10_000, " ", "\n"])
def test_any_text_can_be_encoded(generator: StepwiseGenerator, text: str) -> None:
    (encoded,) = generator.encode([text])
    assert encoded.length == generator.encode(["dog"])[0].length


def test_rows_of_unlike_generations_are_what_they_are_alone(generator: StepwiseGenerator) -> None:
    together, alone = mixed(generator), mixed(generator)
    step(generator, together)
    for one, other in zip(together, alone, strict=True):
        step(generator, [other])
        assert difference(one.row.latent, other.row.latent) <= tolerance(one)
        ours, wanted = np.array(one.row.latent.x0), np.array(other.row.latent.x0)
        np.testing.assert_allclose(ours, wanted, rtol=ROUNDING, atol=LATENTS * readout(one))


def test_mixed_candidates_end_as_they_do_alone(generator: StepwiseGenerator) -> None:
    together = finish(generator, mixed(generator))
    alone = [finish(generator, [each])[0] for each in mixed(generator)]
    for one, other in zip(together, alone, strict=True):
        assert difference(one, other) <= LATENTS
    assert levels(to_host(generator.decode(together)), to_host(generator.decode(alone))) <= LEVELS


def test_one_size_gives_the_same_bits_in_any_batch(generator: StepwiseGenerator) -> None:
    alone = finish(generator, [start(generator, 5, prompt="two green cars", steps=3)], size=4)[0]
    for place in range(4):
        others = [start(generator, 20 + each, prompt="dog", steps=3) for each in range(3)]
        batch = [*others[:place], start(generator, 5, prompt="two green cars", steps=3), *others[place:]]
        np.testing.assert_array_equal(values(finish(generator, batch, size=4)[place]), values(alone))


def test_padding_comes_back_to_nobody(generator: StepwiseGenerator) -> None:
    rows = [start(generator, seed).row for seed in range(3)]
    assert len(generator.step(rows, 8)) == 3
    for refused in ([], rows):
        with pytest.raises(ValueError, match="padded"):
            generator.step(refused, 2)


def test_a_candidate_alone_is_the_one_of_sixteen(generator: StepwiseGenerator) -> None:
    steps = 4
    sixteen = finish(generator, [start(generator, seed, steps=steps) for seed in range(16)])
    alone = finish(generator, [start(generator, 11, steps=steps)])
    pixels = to_host(generator.decode(sixteen))
    assert levels(pixels[11], to_host(generator.decode(alone))[0]) <= LEVELS
    assert levels(pixels[0], pixels[1]) > LEVELS


def test_pixels_are_bytes_of_the_asked_size(generator: StepwiseGenerator) -> None:
    width, height = generator.info.width + 8, generator.info.height
    latents = finish(generator, [start(generator, seed, steps=2, size=(width, height)) for seed in range(2)])
    pixels = to_host(generator.decode(latents))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, height, width, 3)
    assert pixels.flags.c_contiguous


def test_a_preview_shows_the_estimate(generator: StepwiseGenerator) -> None:
    candidate = start(generator, 3)
    step(generator, [candidate])
    latents = [candidate.row.latent]
    shown, state = (to_host(generator.decode(latents, preview=kind)) for kind in (True, False))
    again = generator.load(generator.dump(latents, preview=True))
    assert levels(shown, to_host(generator.decode(again))) <= LEVELS
    assert levels(shown, state) > LEVELS


def test_latents_survive_storage(generator: StepwiseGenerator) -> None:
    latents = finish(generator, [start(generator, seed) for seed in range(2)])
    stored = generator.dump(latents)
    assert stored.dtype == np.float16
    assert stored.shape == (2, *values(latents[0]).shape)
    again = generator.load(stored)
    assert levels(to_host(generator.decode(again)), to_host(generator.decode(latents))) <= LEVELS
    assert levels(to_host(generator.decode(again, preview=True)), to_host(generator.decode(again))) == 0
    np.testing.assert_array_equal(generator.dump(again), stored)


def test_previews_are_stored_as_estimates(generator: StepwiseGenerator) -> None:
    candidate = start(generator, 0)
    step(generator, [candidate])
    stored = generator.dump([candidate.row.latent], preview=True)
    np.testing.assert_allclose(stored[0], np.array(candidate.row.latent.x0), rtol=1e-3, atol=1e-3)


def test_guidance_and_negative_text_matter(generator: StepwiseGenerator) -> None:
    plain, guided, other = (
        finish(generator, [start(generator, 1, guidance=guidance, negative=negative)])[0]
        for guidance, negative in ((1.0, ""), (3.0, ""), (3.0, "two green cars"))
    )
    assert difference(plain, guided) > 1e-4
    assert difference(guided, other) > 1e-4


def test_gaps_tell_how_far_guidance_pulled(generator: StepwiseGenerator) -> None:
    fresh, plain, guided, aimless = (
        start(generator, 1, guidance=guidance, negative=negative)
        for guidance, negative in ((3.0, "blue"), (1.0, "blue"), (3.0, "blue"), (3.0, "a red apple"))
    )
    step(generator, [plain, guided, aimless])
    gaps = generator.guidance_gaps([each.row.latent for each in (fresh, plain, guided, aimless)])
    assert gaps.dtype == np.float32
    assert gaps[0] == gaps[1] == 0
    assert gaps[2] > 10 * gaps[3]


def test_a_picture_enters_between_noise_and_itself(generator: StepwiseGenerator) -> None:
    info = generator.info
    picture = generator.dump(finish(generator, [start(generator, 5)]))[0]
    for sampler in info.samplers:
        schedule = generator.schedule(sampler, 12, generator.info.width, generator.info.height)
        assert schedule.entry.shape == (schedule.calls, 2)
        starts = [schedule.calls_before(step) for step in range(12)]
        signal, noise = schedule.entry.T
        assert (np.diff((noise / signal)[starts]) < 0).all()
        unit = values(generator.noise(7, info.width, info.height, schedule)) / schedule.noise_scale
        for step_ in (starts[0], starts[5], starts[11]):
            state = values(generator.add_noise(picture, 7, schedule, step_))
            mixed_ = signal[step_] * picture.astype(np.float64) + noise[step_] * unit
            np.testing.assert_allclose(state, mixed_, atol=1e-4 * max(1.0, float(noise[step_])))


def test_the_less_noise_the_nearer_to_the_picture(generator: StepwiseGenerator) -> None:
    picture = generator.dump(finish(generator, [start(generator, 5)]))[0]
    for sampler in generator.info.samplers:
        away = []
        for steps_done in (1, 5, 9):
            row = start(generator, 7, sampler=sampler, steps=10).row
            step_ = row.schedule.calls_before(steps_done)
            again = generator.add_noise(picture, 7, row.schedule, step_)
            (end,) = finish(generator, [Candidate(replace(row, latent=again, step=step_))])
            assert np.isfinite(values(end)).all()
            away.append(float(np.abs(values(end) - picture).mean()))
        assert away[2] < away[0]


def test_a_picture_survives_encoding(generator: StepwiseGenerator) -> None:
    (latent,) = finish(generator, [start(generator, 5)])
    seen = to_host(generator.decode([latent]))
    array = generator.encode_image(seen)
    assert array.dtype == np.float16
    assert array.shape == generator.dump([latent]).shape
    again = to_host(generator.decode(generator.load(array)))
    assert again.shape == seen.shape
    if generator.info.id in {"fake", "pictogram"}:  # the tiny ones have random weights
        assert np.abs(again.astype(int) - seen.astype(int)).mean() < 12


@pytest.mark.parametrize("first", [0, 2])
def test_exported_latents_continue_elsewhere_with_the_same_bits(generator: StepwiseGenerator, first: int) -> None:
    assert is_portable(generator)
    info = generator.info
    picture = generator.encode_image(np.full((1, info.height, info.width, 3), 90, np.uint8))[0]
    for sampler in info.samplers:
        one = start(generator, 7, sampler=sampler, steps=6)
        if first:
            begun = generator.add_noise(picture, 7, one.row.schedule, first)
            one.row = replace(one.row, latent=begun, step=first)
        for _ in range(2):
            step(generator, [one])
        state = pickle.loads(pickle.dumps(generator.export([one.row.latent])[0]))
        assert all(isinstance(array, np.ndarray) for array in state.values())
        moved = Candidate(replace(one.row, latent=generator.restore([state], one.row.schedule, first)[0]))
        np.testing.assert_array_equal(
            generator.guidance_gaps([one.row.latent]), generator.guidance_gaps([moved.row.latent])
        )
        here, there = finish(generator, [one])[0], finish(generator, [moved])[0]
        np.testing.assert_array_equal(values(here), values(there), err_msg=sampler)
