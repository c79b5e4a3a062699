"""Candidates that are sampled from other texts than the prompt, which ranks all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Succeeded
from app.errors import InvalidRequest
from app.service import GenerationParams, Limits
from app.service.candidates.keys import image_metadata
from app.service.generations.spec import build_spec
from models.protocols import Conditioning, GeneratorInfo, Latent, Models, Reading, StepRow, Styles, Truncation
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from tests.unit.engine_kit import alone, spec
from tests.unit.service_kit import house

WORDINGS = ("a red apple, old style", "a red apple, new style", "an apple")


class Recording(FakeGenerator):
    """Remembers texts and calls; every text is as long as it has letters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.encoded: list[str] = []
        self.calls: list[list[int]] = []

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        self.encoded += texts
        found = super().encode(texts, negative=negative)
        return [replace(each, length=len(text)) for each, text in zip(found, texts, strict=True)]

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        self.calls.append([row.prompt.length for row in rows])
        return super().step(rows, size)


def run(
    one: GenerationSpec, config: EngineConfig | None = None, generator: Recording | None = None
) -> tuple[Recording, Succeeded]:
    generator = generator or Recording()
    core = EngineCore(Models(generator, FakeScorer()), config or EngineConfig(), clock=lambda: 0.0)
    core.submit(one, 0.0)
    updates = [update for _ in range(500) for _, update in core.tick()]
    assert isinstance(updates[-1], Succeeded), updates[-1]
    return generator, updates[-1]


def test_candidates_take_the_wordings_in_turn_and_each_is_the_image_of_its_wording_alone() -> None:
    field = spec(n_candidates=7, n=7, wordings=WORDINGS)
    assert Counter(map(field.wording_index, range(7))) == {0: 2, 1: 3, 2: 2}
    many = alone(field)
    for index, candidate in enumerate(many.candidates):
        asked = spec(n_candidates=1, prompt=field.sampling_prompt(index), seed=candidate.seed)
        np.testing.assert_array_equal(alone(asked).images[0], many.images[index])
        again = spec(n_candidates=1, seed=candidate.seed, wordings=WORDINGS)
        assert again.sampling_prompt(0) == field.sampling_prompt(index)
    assert not np.array_equal(many.images[0], alone(spec(n_candidates=1)).images[0])


def test_the_prompt_that_was_asked_ranks_all_wordings() -> None:
    field = alone(spec(n_candidates=6, n=6, wordings=WORDINGS))
    plain = FakeScorer().embed_texts(["a red apple"])[0].vector
    for candidate, vector in zip(field.candidates, field.embeddings, strict=True):
        assert candidate.score is not None
        assert candidate.score.similarity == pytest.approx(float(vector @ plain), abs=1e-6)


def test_each_distinct_wording_is_encoded_once_and_the_prompt_only_if_it_is_one() -> None:
    doubled = (WORDINGS[0], WORDINGS[1], WORDINGS[0], WORDINGS[1])
    generator, _ = run(spec(n_candidates=8, wordings=doubled))
    assert generator.encoded == [WORDINGS[0], WORDINGS[1], ""]
    generator, _ = run(spec(n_candidates=8))
    assert generator.encoded == ["a red apple", ""]


@pytest.mark.parametrize("deterministic", [False, True])
def test_wordings_of_different_lengths_share_no_denoiser_call(deterministic: bool) -> None:
    one = spec(n_candidates=6, wordings=WORDINGS, deterministic=deterministic)
    generator, last = run(one, EngineConfig(buckets=(1, 2, 4, 8)))
    assert all(len(set(lengths)) == 1 for lengths in generator.calls)
    assert {lengths[0] for lengths in generator.calls} == {22, 8}, "two of the wordings are of equal length"
    assert last.outcome.work.rows_stepped == 6 * one.steps


@pytest.mark.anyio
@pytest.mark.slow
async def test_the_service_checks_and_stores_wordings(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(InvalidRequest) as refusal:
            await h.service.submit(GenerationParams("a red apple", wordings=("an apple", " ")))
        assert refusal.value.pointer == "#/variants/1"
        made = await h.service.get(await h.made(n_candidates=4, wordings=WORDINGS[:2]))
        assert made.spec.wordings == WORDINGS[:2]
        used = [image_metadata(made, candidate)["prompt"] for candidate in made.candidates]
        assert used == [WORDINGS[1], WORDINGS[0], WORDINGS[1], WORDINGS[0]], "the first seed is 7"


STYLES = Styles(("old style", "new style"), frozenset({"style", "стиле"}), spread=True)


@pytest.mark.parametrize(
    ("prompt", "setting", "spread", "wordings"),
    [
        ("a red apple", "auto", True, ("a red apple, old style", "a red apple, new style")),
        ("a red apple", "auto", False, ()),
        ("a red apple", "on", False, ("a red apple, old style", "a red apple, new style")),
        ("a red apple", "off", True, ()),
        ("a red apple, Style of 1900", "on", True, ()),
        ("яблоко в стиле ретро", "on", True, ()),
        ("a red apple. \n", "on", True, ("a red apple, old style", "a red apple, new style")),
        ("...", "on", True, ("..., old style", "..., new style")),
    ],
)
def test_prompts_without_a_style_are_spread_over_the_styles(
    prompt: str, setting: Literal["auto", "on", "off"], spread: bool, wordings: tuple[str, ...]
) -> None:
    generator = replace(FakeGenerator().info, styles=replace(STYLES, spread=spread))
    limits = Limits(spread_styles=setting)
    made, _ = build_spec(GenerationParams(prompt, n_candidates=4), generator, limits, lambda *_: ((), False, ()))
    assert (made.wordings, made.spread) == (wordings, bool(wordings))
    assert made.ranking_prompt == prompt
    again = build_spec(
        GenerationParams(prompt, n_candidates=4, wordings=wordings), generator, limits, lambda *_: ((), False, ())
    )
    assert again[0].spread == bool(wordings), "a client may send the styles itself"
    asked = GenerationParams(prompt, n_candidates=4, wordings=("an apple",))
    own, _ = build_spec(asked, generator, limits, lambda *_: ((), False, ()))
    assert (own.wordings, own.spread) == (("an apple",), False)


class Styled(Recording):
    """Reads 24 letters, and none in Russian."""

    @property
    def info(self) -> GeneratorInfo:
        return replace(super().info, styles=STYLES, prompt_weights="unsupported")

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        found = super().encode(texts, negative=negative)
        return [self._reported(text, each) for text, each in zip(texts, found, strict=True)]

    def _reported(self, text: str, encoded: Conditioning) -> Conditioning:
        if "яблоко" in text:
            encoded = replace(encoded, reading=Reading("ru", text.replace("яблоко", "an apple")))
        return replace(encoded, truncation=Truncation(len(text), 24, text[24:]) if len(text) > 24 else None)


@pytest.mark.parametrize(
    ("prompt", "told", "encoded"),
    [
        ("an apple", [], 2),
        ("an (apple:1.4)", ["style_truncated", "weights_ignored"], 3),
        ("яблоко", ["prompt_translated"], 3),
        ("a red apple and a cup", ["style_truncated"], 3),
        ("a red apple and a small blue cup", ["prompt_truncated", "style_truncated"], 3),
    ],
)
def test_a_spread_prompt_is_warned_about_once_and_so_are_its_styles(prompt: str, told: list[str], encoded: int) -> None:
    one = spec(prompt=prompt, n_candidates=4, wordings=STYLES.wordings(prompt), spread=True, negative_prompt="")
    generator, last = run(one, generator=Styled())
    about = [notice for notice in last.outcome.notices if "text" in notice.data]
    assert [notice.code for notice in about] == told
    assert all(notice.data["text"] == prompt for notice in about)
    assert len([text for text in generator.encoded if text]) == encoded
    assert len(set(one.sampling_prompts)) == 2


def test_a_style_that_is_cut_is_named_once_for_all_candidates() -> None:
    prompt = "a red apple, a cup"
    one = spec(prompt=prompt, n_candidates=6, wordings=STYLES.wordings(prompt), spread=True, negative_prompt="")
    (notice,) = [each for each in run(one, generator=Styled())[1].outcome.notices if each.code == "style_truncated"]
    assert notice.detail == (
        "the generator read 24 of up to 29 tokens, so the style at the end of 2 of 2 wordings was cut: shorten the "
        "prompt by 5 tokens"
    )
    assert notice.data["styles"] == ["old style", "new style"], "the prompt itself is told once"


def test_variants_that_are_cut_are_named_in_one_warning() -> None:
    prompt = "a red apple"
    texts = (prompt, f"{prompt}, old style of art", f"{prompt}, new style of art", f"{prompt}, flat")
    last = run(spec(prompt=prompt, n_candidates=8, wordings=texts, negative_prompt=""), generator=Styled())[1]
    (notice,) = [each for each in last.outcome.notices if each.code.endswith("_truncated")]
    assert notice.code == "variants_truncated"
    assert "the end of 2 of 4 variants was cut" in notice.detail
    assert notice.data["variants"] == [
        {"text": texts[1], "dropped": texts[1][24:]},
        {"text": texts[2], "dropped": texts[2][24:]},
    ]


def test_variants_of_a_caller_are_each_warned_about() -> None:
    one = spec(prompt="яблоко", n_candidates=4, wordings=("красное яблоко", "яблоко"))
    _, last = run(one, generator=Styled())
    told = [notice.data["text"] for notice in last.outcome.notices if notice.code == "prompt_translated"]
    assert told == ["красное яблоко", "яблоко"]
