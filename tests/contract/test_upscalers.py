"""Upscalers of spandrel and diffusers as tiny random models, made offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import registry
from models.errors import ModelNotFound, ModelUnsupported
from models.load_options import LoadOptions
from models.protocols import OutOfMemory
from models.protocols.upscaling import Upscaler

pytestmark = pytest.mark.torch

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def loaded(name: Path | str, tile: int = 512) -> Upscaler:
    upscaler = registry.load_models("fake", "fake", "cpu", options=LoadOptions(str(name), tile)).upscaler
    assert upscaler is not None
    return upscaler


def compact(file: Path, factor: int = 2, channels: int = 3) -> Any:
    """A RealESRGAN Compact of random weights in a file."""
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    model = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=1, upscale=factor).eval()
    if file.suffix == ".safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save({"params_ema": model.state_dict()}, file)
    return model


@pytest.mark.parametrize(("name", "factor"), [("tiny.safetensors", 2), ("tiny_x4.pth", 4)])
def test_a_model_file_is_what_the_network_makes(tmp_path: Path, name: str, factor: int) -> None:
    import torch

    model = compact(tmp_path / name, factor)
    upscaler = loaded(tmp_path / name)
    info = upscaler.info
    assert (info.id, info.factor, info.architecture) == (Path(name).stem, factor, "RealESRGAN Compact")
    assert (info.device, info.dtype, info.tile, len(info.revision)) == ("cpu", "float32", 512, 12)
    made = upscaler.upscale(IMAGE, "a prompt", 3)
    with torch.inference_mode():
        whole = model(torch.from_numpy(IMAGE).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    wanted = (whole * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    assert (made.shape, str(made.dtype)) == ((40 * factor, 56 * factor, 3), "uint8")
    assert np.abs(made.astype(int) - wanted).max() <= 1
    assert np.array_equal(made, upscaler.upscale(IMAGE, "another", 4))


def test_tiles_join_without_a_seam(tmp_path: Path) -> None:
    from app import imaging

    compact(tmp_path / "tiny.safetensors")
    upscaler = loaded(tmp_path / "tiny.safetensors")
    large = np.random.default_rng(1).integers(0, 256, (150, 230, 3), np.uint8)
    canvas = np.zeros((300, 460, 3), np.uint8)
    cut = list(imaging.cut_tiles(150, 230, 96))
    assert len(cut) == 2 * 4
    for tile in cut:
        imaging.paste_tile(canvas, tile, upscaler.upscale(tile.of(large), "", 0), 2)
    assert np.abs(canvas.astype(int) - upscaler.upscale(large, "", 0)).max() <= 1


def test_full_memory_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    compact(tmp_path / "tiny.safetensors")
    upscaler = loaded(tmp_path / "tiny.safetensors")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(upscaler, "_model", full)
    with pytest.raises(OutOfMemory):
        upscaler.upscale(IMAGE, "", 0)


def test_bad_files_are_told_at_the_start(tmp_path: Path) -> None:
    import torch

    with pytest.raises(ModelNotFound, match=r"upscaler 'gone\.pth'"):
        loaded(tmp_path / "gone.pth")
    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"no model at all")
        with pytest.raises(ModelUnsupported, match=f"upscaler '{name}': the file is damaged"):
            loaded(tmp_path / name)
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelUnsupported, match="knows no architecture"):
        loaded(tmp_path / "other.pth")
    torch.save(Path("/"), tmp_path / "code.pth")
    with pytest.raises(ModelUnsupported, match="damaged or no model"):
        loaded(tmp_path / "code.pth")
    compact(tmp_path / "same.pth", 1)
    with pytest.raises(ModelUnsupported, match="does not enlarge"):
        loaded(tmp_path / "same.pth")
    compact(tmp_path / "grey.pth", 2, channels=1)
    with pytest.raises(ModelUnsupported, match="three channels"):
        loaded(tmp_path / "grey.pth")
    with pytest.raises(ModelNotFound, match=r"use a file .*, a folder or a hub id"):
        loaded("no such thing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelNotFound, match="upscaler 'folder'"):
        loaded(tmp_path / "folder")
    with pytest.raises(ModelNotFound, match=r"upscaler 'gone\.pth': no such file; use a path or OWNER/NAME/FILE"):
        loaded(tmp_path / "folder" / "gone.pth")
    for index in ({}, {"_class_name": ["a", "b"]}):
        (tmp_path / "folder" / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ModelUnsupported, match="is no upscaler"):
            loaded(tmp_path / "folder")
    (tmp_path / "folder" / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelUnsupported, match="a FluxPipeline is no upscaler; use one of StableDiffusionLatent"):
        loaded(tmp_path / "folder")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    compact(tmp_path / "tiny.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelUnsupported, match=r"install frontrunner\[upscale\]"):
        loaded(tmp_path / "tiny.safetensors")


def diffusion_upscaler(folder: Path) -> Any:
    """A tiny StableDiffusionUpscalePipeline: 4 times."""
    import diffusers
    import torch
    import transformers

    from tests.contract import tiny

    torch.manual_seed(0)
    tokens = tiny.tokenizer(folder / "tokens")
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=7,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=32,
        num_class_embeds=1000,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        scaling_factor=0.08333,
    )
    pipe = diffusers.StableDiffusionUpscalePipeline(
        vae=vae.eval(),
        text_encoder=transformers.CLIPTextModel(tiny._text_config(tokens)).eval(),
        tokenizer=tokens,
        unet=unet.eval(),
        low_res_scheduler=diffusers.DDPMScheduler(),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=350,
    )
    pipe.save_pretrained(folder / "pipe")
    return pipe


def test_a_diffusion_upscaler_is_what_the_pipeline_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from PIL import Image

    stock = diffusion_upscaler(tmp_path)
    stock.set_progress_bar_config(disable=True)
    upscaler = loaded(tmp_path / "pipe", tile=200)
    info = upscaler.info
    assert (info.id, info.factor, info.architecture) == ("pipe", 4, "StableDiffusionUpscalePipeline")
    assert info.tile == 192, "a multiple of 64"
    call = type(stock).__call__
    monkeypatch.setattr(type(stock), "__call__", lambda self, **given: call(self, num_inference_steps=2, **given))
    made = upscaler.upscale(IMAGE, "an apple", 5)
    padded = Image.fromarray(np.pad(IMAGE, ((0, 24), (0, 8), (0, 0)), mode="edge"))
    alone = stock(prompt="an apple", image=padded, generator=torch.Generator().manual_seed(5)).images[0]
    assert made.shape == (160, 224, 3)
    assert np.abs(made.astype(int) - np.asarray(alone)[:160, :224]).max() <= 1
    assert not np.array_equal(made, upscaler.upscale(IMAGE, "an apple", 6))
