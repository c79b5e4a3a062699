"""Weights in prompts by compel, against the stock encodings of tiny Stable Diffusion and SDXL."""

from __future__ import annotations

import builtins
import random
from typing import Any

import numpy as np
import pytest

from tests.contract.families import FAMILIES
from tests.contract.gate_kit import apart

pytestmark = pytest.mark.torch

CLIP = ["stable_diffusion", "stable_diffusion_xl", "latent_consistency"]
EXACT = 1e-5


@pytest.fixture(scope="module", params=CLIP)
def native(request: pytest.FixtureRequest) -> Any:
    return _made(request.param)


def _made(name: str) -> Any:
    from models.generators.native import NativeGenerator
    from models.runtime.placement import prepare_process, select_device

    prepare_process()
    family = FAMILIES[name]
    return NativeGenerator(family.build(name), select_device("cpu"), id=name, arguments=family.arguments)


def _state(generator: Any, text: str) -> list[Any]:
    (encoded,) = generator.encode([text])
    return [each.detach().numpy() for each in encoded.state]


def test_weights_of_one_change_nothing(native: Any) -> None:
    assert native.info.prompt_weights == "applied"
    for found, wanted in zip(_state(native, "a (red:1.0) apple"), _state(native, "a red apple"), strict=True):
        assert found.shape == wanted.shape
        assert apart(found, wanted) <= EXACT


def test_a_weight_moves_its_tokens_from_the_empty_text(native: Any) -> None:
    plain = _state(native, "a red apple")[0]
    found = _state(native, "a (red:1.4) apple")[0]
    moved = np.abs(found - plain).max(axis=1)
    letters = {2, 3, 4}
    assert {int(at) for at in np.flatnonzero(moved > EXACT)} == letters, "one token per letter, after the start and a"
    from compel import EmbeddingsProvider, ReturnedEmbeddingsType

    family = native._family
    provider = EmbeddingsProvider(
        family.tokenizers[0],
        family.text_encoders[0],
        returned_embeddings_type=ReturnedEmbeddingsType[family.hidden_states],
    )
    zero = provider.empty_z[0].detach().numpy()
    width = zero.shape[1]
    at = sorted(letters)
    wanted = zero[at] + 1.4 * (plain[at, :width] - zero[at])
    assert apart(found[at, :width], wanted) <= EXACT


def test_weights_below_one_fade_a_part_out(native: Any) -> None:
    plain = _state(native, "a red apple")[0]
    moved = [np.abs(_state(native, f"a (red:{weight}) apple")[0] - plain).max() for weight in (0.9, 0.5, 0.0)]
    assert 0 < moved[0] < moved[1]
    assert np.isfinite(moved).all()


def test_the_pooled_text_is_that_without_marks() -> None:
    native = _made("stable_diffusion_xl")
    assert (_state(native, "a (red:1.4) apple")[1] == _state(native, "a red apple")[1]).all()


def test_a_prompt_without_marks_is_the_stock_encoding_and_loads_no_compel(
    native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def guarded(name: str, *rest: Any, **more: Any) -> Any:
        assert not name.startswith("compel"), "loaded for a prompt without marks"
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    for text in ("a man (smiling) with a boat", "C++ code (16:9)", "a (red:20) car"):
        stock = native._family.pipe.encode_prompt(
            prompt=text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        found = _state(native, text)
        assert (found[0] == stock[0][0].detach().numpy()).all()
        if len(found) > 1:
            assert (found[1] == stock[2][0].detach().numpy()).all()
    with pytest.raises(AssertionError, match="without marks"):
        native.encode(["a (blue:1.3) car"])


def test_marks_take_no_room(native: Any) -> None:
    letters = ("b " * (native.info.token_limit - 2)).strip()
    (fits,) = native.encode([f"({letters}:1.2)"])
    assert fits.truncation is None
    (cut,) = native.encode([f"a ({letters}:1.2) (zzz:1.1)"])
    (plain,) = native.encode([f"a {letters} zzz"])
    assert plain.truncation is not None
    assert cut.truncation == plain.truncation
    assert "1.2" not in cut.truncation.dropped
    assert cut.length == plain.length


def test_adapters_change_weighted_texts_too(tmp_path: Any) -> None:
    from models.generators.adapters import Adapters
    from models.generators.native import NativeGenerator
    from models.loras import Lora, LoraFolder
    from models.runtime.placement import prepare_process, select_device
    from tests.contract.adapter_kit import save_adapter

    prepare_process()
    save_adapter("stable_diffusion", tmp_path / "ink.safetensors", 1, texts=True)
    pipe = FAMILIES["stable_diffusion"].build("stable_diffusion")
    adapters = Adapters(pipe, LoraFolder(tmp_path))
    native = NativeGenerator(pipe, select_device("cpu"), id="tiny", adapters=adapters)
    before = _state(native, "a (red:1.4) apple")[0]
    native.adapt((Lora("ink"),))
    (moved, ones, plain) = (_state(native, f"a {red} apple")[0] for red in ("(red:1.4)", "(red:1.0)", "red"))
    assert apart(moved, before) > EXACT
    assert apart(ones, plain) <= EXACT
    native.adapt(())
    assert (_state(native, "a (red:1.4) apple")[0] == before).all()


def test_any_marks_can_be_encoded(native: Any) -> None:
    drawn = random.Random(7)
    pieces = ["(red:1.4)", "(a:0.3)", "(dim light:0)", "dog++", "(x)--", "(b, c:0.5)", "ü", "苹果", "cat", "(fog:.5)"]
    texts = [" ".join(drawn.choices(pieces, k=drawn.randint(1, 40))) for _ in range(25)]
    for text in (*texts, "((a:0.5) b:0.5)", "(" + "word " * 40 + ":0.5)", "w" * 80 + " (late:0.5) (later:0.2)"):
        assert all(np.isfinite(each).all() for each in _state(native, text))


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3"])
def test_families_with_other_encoders_take_none(name: str) -> None:
    assert _made(name).info.prompt_weights == "unsupported"


def test_without_compel_marks_are_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.generators.families import stable_diffusion

    monkeypatch.setattr(stable_diffusion, "find_spec", lambda name: None)
    native = _made("stable_diffusion")
    assert native.info.prompt_weights == "not_installed"
    stock = native._family.pipe.encode_prompt(
        prompt="a (red:1.4) apple", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert (_state(native, "a (red:1.4) apple")[0] == stock[0][0].detach().numpy()).all()


def test_half_precision(native: Any) -> None:
    import torch

    family = native._family
    from models.prompt_weights import read_weights

    read = read_weights("a (red:1.4) (dark:0.2) apple")
    assert read is not None
    whole = family.by_parts(read.parts).detach()
    for encoder in family.text_encoders:
        encoder.to(torch.bfloat16)
    try:
        half = family.by_parts(read.parts).detach()
    finally:
        for encoder in family.text_encoders:
            encoder.to(torch.float32)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - whole).abs().mean()) <= 0.02 * float(whole.abs().mean() + 1)
