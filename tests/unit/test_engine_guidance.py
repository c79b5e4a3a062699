"""What the engine asks of a generator whose texts, sizes or guidance differ from Stable Diffusion's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import Checkpoint
from app.engine.core import EngineCore
from app.engine.latent_codec import encode_init_latents
from app.engine.protocols import Failed, Stepped
from app.errors import InvalidRequest
from models.protocols import Conditioning, Models, Schedule
from models.synthetic.generator import FakeLatent
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import InstrumentedGenerator
from tests.unit.engine_kit import Bench, spec


class OddGenerator(InstrumentedGenerator):
    """A fake whose texts are as long as their words, and which can make square images only."""

    def __init__(self, **facts: Any) -> None:
        super().__init__()
        self._info = replace(self._info, **facts)
        self.encoded: list[tuple[str, bool]] = []

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        self.encoded += [(text, negative) for text in texts]
        found = super().encode(texts, negative=negative)
        return [replace(each, length=len(text.split())) for each, text in zip(found, texts, strict=True)]

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        if width != height:
            raise ValueError(f"{width} x {height} is not square")
        return super().schedule(sampler, steps, width, height)

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> FakeLatent:
        raise ValueError("this sampler cannot begin at a picture")


def bench(generator: InstrumentedGenerator) -> Bench:
    made = Bench()
    made.generator = generator
    made.core = EngineCore(Models(generator, FakeScorer()), made.core._config)
    return made


@pytest.mark.parametrize(("negatives", "calls"), [(("blue", "bad"), 6), (("blue", "bad and grey"), 12)])
def test_rows_share_a_call_when_both_texts_have_one_length(negatives: tuple[str, str], calls: int) -> None:
    made = bench(OddGenerator())
    made.submit(*(spec(f"gen_{i}", n_candidates=1, negative_prompt=text) for i, text in enumerate(negatives)))
    made.run()
    assert made.core.denoiser_calls == calls


@pytest.mark.parametrize("read", [True, False])
def test_negative_prompts_are_encoded_where_they_steer(read: bool) -> None:
    made = bench(generator := OddGenerator(negative_prompts=read))
    made.submit(spec(negative_prompt="blue"))
    made.run()
    assert (("blue", True) in generator.encoded) is read
    notices = {notice.code: notice.data for notice in made.outcome().notices}
    assert ("negative_prompt_not_steering" in notices) is not read


@pytest.mark.parametrize(
    ("facts", "scale", "guided"),
    [
        ({}, 1.0, False),
        ({}, 1.1, True),
        ({"unguided_scale": 0.0}, 0.0, False),
        ({"unguided_scale": 0.0}, 0.5, True),
        ({"unguided_scale": -1.0}, 0.0, True),
        ({"guidance": "embedded", "negative_prompts": False}, 3.5, False),
    ],
)
def test_the_model_says_from_which_scale_on_a_negative_prompt_steers(
    facts: dict[str, Any], scale: float, guided: bool
) -> None:
    made = bench(generator := OddGenerator(**facts))
    made.submit(spec(negative_prompt="blue", guidance_scale=scale))
    (run,) = made.core._scheduler.generations
    assert run.entries == (2 if guided else 1)
    made.run()
    assert (("blue", True) in generator.encoded) is guided
    notices = [notice for notice in made.outcome().notices if notice.code == "negative_prompt_not_steering"]
    assert bool(notices) is not guided
    if notices and generator.info.negative_prompts:
        assert notices[0].detail.endswith(f"use more than {generator.info.unguided_scale:g}")


def test_a_picture_that_cannot_be_begun_at_fails_its_request_alone() -> None:
    made = bench(OddGenerator())
    start = encode_init_latents(np.zeros((3, 8, 8), np.float16), 0.5)
    made.submit(*(spec(f"gen_{i}", start=start) for i in range(5)), spec("gen_good"))
    made.run()
    ends: list[Any] = [made.ends(f"gen_{i}")[0] for i in range(5)]
    assert all(isinstance(end.error, InvalidRequest) for end in ends)
    assert made.outcome("gen_good").candidates


def test_a_size_that_cannot_be_made_fails_its_request_alone() -> None:
    made = bench(OddGenerator())
    made.submit(*(spec(f"gen_{i}", width=128) for i in range(5)), spec("gen_good"))
    made.run()
    ends: list[Any] = [made.ends(f"gen_{i}")[0] for i in range(5)]
    assert all(isinstance(end, Failed) and isinstance(end.error, InvalidRequest) for end in ends)
    assert "not square" in ends[0].error.detail
    assert made.outcome("gen_good").candidates


class TwiceGenerator(InstrumentedGenerator):
    """A fake whose sampler `heun` calls the denoiser twice in each step but the last."""

    def __init__(self) -> None:
        super().__init__()
        self._info = replace(self._info, samplers=(*self._info.samplers, "heun"), second_order=("heun",))

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        if sampler != "heun":
            return super().schedule(sampler, steps, width, height)
        made = super().schedule("ddim", 2 * steps - 1, width, height)
        return replace(made, starts=tuple(min(2 * step, made.calls) for step in range(steps + 1)))


def test_a_second_order_sampler_is_counted_by_its_calls() -> None:
    made = bench(TwiceGenerator())
    made.submit(spec(sampler="heun", checkpoints=(Checkpoint(2, 2),)), spec("gen_b", n_candidates=1))
    made.run()
    twice, once = made.outcome("gen_a").work, made.outcome("gen_b").work
    assert (twice.rows_stepped, twice.rows_unpruned) == (4 * 4 + 2 * 7, 4 * 11)
    assert (once.rows_stepped, once.rows_unpruned) == (6, 6)
    assert made.core.denoiser_calls < 11 + 6
    steps = [update.step for update in made.updates["gen_a"] if isinstance(update, Stepped)]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert {each.pruned_at_step for each in made.outcome("gen_a").candidates} == {None, 2}


def test_a_second_order_sampler_begins_a_picture_at_a_whole_step() -> None:
    made = bench(TwiceGenerator())
    start = encode_init_latents(np.zeros((3, 8, 8), np.float16), 0.5)
    made.submit(spec(sampler="heun", n_candidates=2, start=start))
    made.run()
    assert made.outcome("gen_a").work.rows_unpruned == made.outcome("gen_a").work.rows_stepped == 2 * 5
