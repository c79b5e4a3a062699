"""Prompts above CLIP's token limit, read in chunks by compel, on tiny Stable Diffusion and SDXL."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Failed, Outcome, Succeeded
from models import registry
from models.errors import ModelUnsupported
from models.families import Mode
from models.load_options import LoadOptions
from models.protocols import LongPrompts, Models, StepRow
from models.synthetic.scorer import FakeScorer
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import apart
from tests.contract.loop import Candidate, finish, values
from tests.unit.engine_kit import spec

pytestmark = pytest.mark.torch

CLIP = ["stable_diffusion", "stable_diffusion_xl", pytest.param("latent_consistency", marks=pytest.mark.soak)]
CHUNKS = LoadOptions(long_prompts="chunks")


def _made(name: str, long_prompts: LongPrompts = "chunks") -> Any:
    from models.generators.native import NativeGenerator
    from models.runtime.placement import prepare_process, select_device

    prepare_process()
    family = FAMILIES[name]
    pipe, placement = family.build(name), select_device("cpu")
    return NativeGenerator(pipe, placement, id=name, arguments=family.arguments, long_prompts=long_prompts)


@pytest.fixture(scope="module", params=CLIP)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The model that reads chunks, and the one that truncates."""
    return _made(request.param), _made(request.param, "truncate")


def _long(native: Any, tail: str, chunks: int = 2) -> str:
    """A prompt of letters, one token each, whose tail is in the last of its chunks."""
    room = native.info.token_limit - 2
    head = " ".join("abcdefg"[place % 7] for place in range(room * (chunks - 1)))
    return f"{head} {tail}"


def _state(generator: Any, text: str) -> list[Any]:
    (encoded,) = generator.encode([text])
    return [each.detach().numpy() for each in encoded.state]


def _row(generator: Any, prompt: str, negative: str | None, seed: int, steps: int = 2) -> StepRow:
    info = generator.info
    schedule = generator.schedule(info.sampler, steps, info.width, info.height)
    latent = generator.noise(seed, info.width, info.height, schedule)
    away = None if negative is None else generator.encode([negative], negative=True)[0]
    return StepRow(latent, generator.encode([prompt])[0], away, 4.0, schedule, 0, seed)


def test_the_tail_changes_the_image_if_it_is_read_and_is_dropped_if_not(pair: tuple[Any, Any]) -> None:
    made = []
    for generator in pair:
        texts = [_long(generator, tail) for tail in ("x y z", "u v w")]
        encoded = generator.encode(texts)
        made.append([values(finish(generator, [Candidate(_row(generator, each, None, 3))])[0]) for each in texts])
        dropped = [each.truncation.dropped if each.truncation else None for each in encoded]
        assert dropped == ([None, None] if generator is pair[0] else ["x y z", "u v w"])
        assert [each.chunks for each in encoded] == [2 if generator is pair[0] else 1] * 2
    assert apart(*made[0]) > 1e-5
    assert (made[1][0] == made[1][1]).all()
    assert [each.info.long_prompts for each in pair] == ["chunks", "truncate"]


def test_prompts_that_fit_keep_their_encoding(pair: tuple[Any, Any]) -> None:
    letters = " ".join("b" * (pair[0].info.token_limit - 2))
    for text in ("", "a red apple", "a (red:1.4) (dim:0.3) apple", letters, f"({letters}:1.2)"):
        encoded = [generator.encode([text])[0] for generator in pair]
        assert [each.chunks for each in encoded] == [1, 1]
        for one, other in zip(*(_state(generator, text) for generator in pair), strict=True):
            assert (one == other).all()


def test_a_chunk_is_the_encoding_of_its_own_text(pair: tuple[Any, Any]) -> None:
    chunked, stock = pair
    limit = chunked.info.token_limit
    head, tail = _long(chunked, "").strip(), "x y z"
    found, first, second = _state(chunked, f"{head} {tail}"), _state(stock, head), _state(stock, tail)
    assert found[0].shape == (2 * limit, first[0].shape[1])
    assert apart(found[0][:limit], first[0]) <= 1e-5
    words = slice(1, 4)  # compel copies the end marker of the first chunk into the others
    assert apart(found[0][limit:][words], second[0][words]) <= 1e-5
    if len(found) > 1:
        assert (found[1] == first[1]).all(), "the pooled text is that of the first chunk"


def test_weights_reach_every_chunk(pair: tuple[Any, Any]) -> None:
    chunked, limit = pair[0], pair[0].info.token_limit
    plain, ones, strong = (_state(chunked, _long(chunked, tail))[0] for tail in ("x y", "(x:1.0) y", "(x:1.7) y"))
    assert apart(ones, plain) <= 1e-5
    moved = np.flatnonzero(np.abs(strong - plain).max(axis=1) > 1e-5)
    assert moved.tolist() == [limit + 1]


def test_any_long_prompt_can_be_encoded(pair: tuple[Any, Any]) -> None:
    drawn = random.Random(11)
    pieces = [
        "(red:1.4)",
        "(a:0.3)",
        "(dim light:0)",
        "dog++",
        "b, c. d",
        "ü",
        "苹果",
        "cat; fox:",
        "w" * 30,
        "(fog:.5)",
    ]
    for count in (12, 30, 60):
        text = " ".join(drawn.choices(pieces, k=count))
        (encoded,) = pair[0].encode([text])
        assert encoded.length == encoded.chunks * pair[0].info.token_limit
        assert all(np.isfinite(each).all() for each in _state(pair[0], text))


def test_rows_of_other_lengths_do_not_change_a_row(pair: tuple[Any, Any]) -> None:
    generator = pair[0]
    long = _long(generator, "x y z")
    asked = [(long, "blue", 3), ("a red apple", "blue", 4), (long, long, 5), (_long(generator, "w", 3), None, 6)]
    alone = [values(finish(generator, [Candidate(_row(generator, *each))])[0]) for each in asked]
    together = finish(generator, [Candidate(_row(generator, *each)) for each in asked])
    for one, other in zip(alone, together, strict=True):
        assert apart(one, values(other)) <= 2e-5


def _outcomes(generator: Any, prompts: dict[str, str]) -> tuple[dict[str, Outcome], list[set[tuple[int, int]]]]:
    """What the engine makes of two-candidate requests at once, and the text lengths in each denoiser call."""
    info, calls = generator.info, list[set[tuple[int, int]]]()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(generator, name)

        def step(self, rows: Sequence[StepRow], size: int) -> list[Any]:
            calls.append({(row.prompt.length, row.negative.length) for row in rows if row.negative is not None})
            made: list[Any] = generator.step(rows, size)
            return made

    core = EngineCore(Models(Watched(), FakeScorer()), EngineConfig(), clock=lambda: 0.0)
    changes = {"n_candidates": 2, "width": info.width, "height": info.height, "steps": 2, "sampler": info.sampler}
    for name, prompt in prompts.items():
        core.submit(spec(name, prompt=prompt, negative_prompt="blue", **changes), 0.0)
    found = dict[str, Outcome]()
    while not core.idle:
        for name, update in core.tick():
            assert not isinstance(update, Failed), update.error
            if isinstance(update, Succeeded):
                found[name] = update.outcome
    return found, calls


def _said(outcome: Outcome) -> list[tuple[Any, ...]]:
    notices = (each for each in outcome.notices if each.code.startswith("prompt_") and "recognised" not in each.code)
    return [(each.code, each.data.get("model"), each.data.get("chunks")) for each in notices]


def test_the_engine_keeps_lengths_apart_and_says_what_was_read() -> None:
    generator, stock = _made("stable_diffusion"), _made("stable_diffusion", "truncate")
    limit = generator.info.token_limit
    prompts = {"a": _long(generator, "x y z"), "b": "a cat", "c": _long(generator, "u v w")}
    found, calls = _outcomes(generator, prompts)
    assert {pair for each in calls for pair in each} == {(2 * limit, limit), (limit, limit)}
    assert all(len(each) == 1 for each in calls), "a call has rows of one length"
    assert len(calls) == 4, "long prompts of equal length share their calls"
    scored = ("prompt_truncated", "scorer", None)
    assert [_said(found[name]) for name in "abc"] == [
        [("prompt_in_chunks", None, 2), scored],
        [],
        [("prompt_in_chunks", None, 2), scored],
    ]
    for name, prompt in prompts.items():
        lone, _ = _outcomes(generator, {name: prompt})
        assert apart(lone[name].latents.astype(np.float32), found[name].latents.astype(np.float32)) <= 2e-3
    dropped, calls = _outcomes(stock, prompts)
    assert len(calls) < 4, "truncated prompts all share"
    assert _said(dropped["a"]) == [("prompt_truncated", "generator", None), scored]


@pytest.mark.parametrize(
    ("name", "options", "mode", "why"),
    [
        ("stable_diffusion", CHUNKS, "gate", "only the native loops of Stable Diffusion and SDXL"),
        ("stable_diffusion", replace(CHUNKS, controls={"sketch": "net"}), "auto", "without ControlNets"),
        ("stable_diffusion_3", CHUNKS, "auto", "'folder': only Stable Diffusion and SDXL read long prompts"),
        ("ovis_image", CHUNKS, "auto", "set FRONTRUNNER_LONG_PROMPTS to truncate"),
    ],
)
def test_models_that_read_no_chunks_refuse_the_setting(
    name: str, options: LoadOptions, mode: Mode, why: str, tmp_path: Path
) -> None:
    FAMILIES[name].build(name).save_pretrained(tmp_path / "folder")
    with pytest.raises(ModelUnsupported, match=why):
        registry.load_models(str(tmp_path / "folder"), "fake", "cpu", mode=mode, options=options)


def test_the_pack_refuses_the_setting() -> None:
    with pytest.raises(ModelUnsupported, match="'pictogram': only Stable Diffusion and SDXL"):
        registry.load_models("pictogram", "fake", "cpu", options=CHUNKS)


def test_chunks_need_compel(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.generators.families import stable_diffusion

    monkeypatch.setattr(stable_diffusion, "find_spec", lambda name: None)
    with pytest.raises(ModelUnsupported, match=r"need compel; install frontrunner\[weights\]"):
        _made("stable_diffusion")


def test_tokenizers_that_split_differently_are_refused() -> None:
    from models.generators.native import NativeGenerator
    from models.runtime.placement import select_device
    from tests.contract.families import parts

    pipe = FAMILIES["stable_diffusion_xl"].build("stable_diffusion_xl")
    pipe.tokenizer_2 = parts.t5_tokenizer()
    with pytest.raises(ModelUnsupported, match="tokenizers split texts differently"):
        NativeGenerator(pipe, select_device("cpu"), id="tiny", long_prompts="chunks")
