"""Models whose files lack tensors are refused: the libraries would fill them at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import registry
from models.errors import ModelNotFound
from models.load_options import LoadOptions
from tests.contract.families import FAMILIES

pytestmark = pytest.mark.torch

PARTS = [
    ("stable_diffusion", "text_encoder"),
    ("stable_diffusion", "unet"),
    ("stable_diffusion", "vae"),
    ("stable_diffusion_xl", "text_encoder_2"),
    ("stable_diffusion_3", "text_encoder_3"),
    ("stable_diffusion_3", "transformer"),
    ("auraflow", "text_encoder"),
    ("z_image", "text_encoder"),
    ("qwen_image", "text_encoder"),
    ("qwen_image", "vae"),
    ("sana", "text_encoder"),
    ("sana", "transformer"),
    ("sana", "vae"),
    ("cogview4", "text_encoder"),
    ("hidream", "text_encoder_4"),
    ("hunyuan_dit", "text_encoder"),
]
"""One part of each kind: CLIP, T5, Qwen, Gemma, GLM, Llama and BERT, UNet, transformers, autoencoders."""


def saved(name: str, folder: Path) -> Path:
    own = {"overwrite_modular_index": True} if name.startswith("modular") else {}
    FAMILIES[name].build(name).save_pretrained(str(folder), **own)
    return folder


def changed(part: Path, change: Callable[[dict[str, Any]], Any]) -> Any:
    """Change the tensors of a saved model; returns what `change` returns."""
    from safetensors.torch import load_file, save_file

    (file,) = part.glob("*.safetensors")
    tensors = dict(load_file(file))
    result = change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return result


def without_one(tensors: dict[str, Any]) -> str:
    """Remove a weight from inside a layer; returns its last two names."""
    name = next(name for name in sorted(tensors, reverse=True) if name.endswith(".weight") and name.count(".") > 2)
    del tensors[name]
    return ".".join(name.split(".")[-2:])


def loaded(folder: Path, **options: Any) -> Any:
    return registry.load_models(str(folder), "fake", "cpu", options=LoadOptions(**options)).generator


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_part_without_a_tensor_is_refused(name: str, part: str, tmp_path: Path) -> None:
    lost = changed(saved(name, tmp_path / "mine") / part, without_one)
    with pytest.raises(ModelNotFound) as refused:
        loaded(tmp_path / "mine")
    text = str(refused.value)
    assert f"generator 'mine': the {part} lacks 1 of " in text
    assert lost in text
    assert text.endswith("download or save the model again")


def test_many_missing_tensors_are_counted_and_some_are_named(tmp_path: Path) -> None:
    part = saved("stable_diffusion", tmp_path / "mine") / "text_encoder"
    changed(part, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.0" in name])
    with pytest.raises(ModelNotFound, match=r"lacks 16 of \d+ tensors \(\S+, \S+, \S+, \.\.\.\)"):
        loaded(tmp_path / "mine")


def test_a_part_of_a_modular_pipeline_without_a_tensor_is_refused(tmp_path: Path) -> None:
    lost = changed(saved("modular_flux", tmp_path / "mine") / "text_encoder_2", without_one)
    with pytest.raises(ModelNotFound, match=r"the text_encoder_2 lacks 1 of \d+ tensors") as refused:
        loaded(tmp_path / "mine")
    assert lost in str(refused.value)


def test_a_preview_decoder_without_a_tensor_is_refused(tmp_path: Path) -> None:
    import diffusers

    blocks = {f"{side}_block_out_channels": (16, 16) for side in ("encoder", "decoder")}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **counts).save_pretrained(tmp_path / "tiny")
    changed(tmp_path / "tiny", lambda tensors: tensors.pop("decoder.layers.0.weight"))
    with pytest.raises(ModelNotFound, match=r"preview decoder 'tiny': .* lacks 1 of \d+ tensors \(decoder.layers.0.w"):
        registry.load_models(str(saved("stable_diffusion", tmp_path / "mine")), "fake", "cpu", str(tmp_path / "tiny"))


def test_an_upscaler_without_a_tensor_is_refused(tmp_path: Path) -> None:
    from tests.contract.test_upscalers import diffusion_upscaler

    diffusion_upscaler(tmp_path).save_pretrained(tmp_path / "up")
    changed(tmp_path / "up" / "text_encoder", without_one)
    with pytest.raises(ModelNotFound, match=r"upscaler 'up': the text_encoder lacks 1 of"):
        registry.load_models("fake", "fake", "cpu", options=LoadOptions(upscaler=str(tmp_path / "up")))


# what may be missing


@pytest.mark.parametrize("name", ["flux2_klein", "qwen_image"])
def test_tied_weights_and_heads_may_be_missing(name: str, tmp_path: Path) -> None:
    """Of a language model only the hidden states are used."""
    from models.generators import pipelines
    from models.runtime.placement import select_device

    folder = saved(name, tmp_path / name)
    removed = changed(folder / "text_encoder", lambda tensors: tensors.pop("lm_head.weight", None))
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    assert removed is not None or config["tie_word_embeddings"]
    pipe, _ = pipelines.load(folder, select_device("cpu"))
    assert not any(tensor.is_meta for tensor in pipe.text_encoder.state_dict().values())


def test_tied_embeddings_may_be_stored_under_either_name(tmp_path: Path) -> None:
    folder = saved("stable_diffusion_3", tmp_path / "sd3")
    names = changed(
        folder / "text_encoder_3",
        lambda tensors: [name for name in tensors if "shared" in name or "embed_tokens" in name],
    )
    assert len(names) == 1

    def other(tensors: dict[str, Any]) -> None:
        tensors[{"shared.weight": "encoder.embed_tokens.weight"}.get(names[0], "shared.weight")] = tensors.pop(names[0])

    changed(folder / "text_encoder_3", other)
    assert loaded(folder).info.id == "sd3"


def test_position_ids_of_older_files_may_be_there_or_not(tmp_path: Path) -> None:
    import torch

    folder = saved("stable_diffusion", tmp_path / "old")
    revision = loaded(folder).info.revision

    def older(tensors: dict[str, Any]) -> None:
        tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]

    changed(folder / "text_encoder", older)
    assert loaded(folder).info.revision == revision
