"""Real diffusers and open_clip classes at tiny random size, built from configurations without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import open_clip
import torch
import transformers
from safetensors.torch import save_file

TOKENS = 16
_START, _END = "<|startoftext|>", "<|endoftext|>"
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows single characters."""
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(f"{each}</w>" for each in characters), _START, _END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, pad_token=_END)


def _text_config(tokens: Any) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=32,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def _unet(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **more,
    )


def _vae() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=32,
    )


def scheduler(prediction_type: str) -> Any:
    """The scheduler that models of this kind are published with."""
    if prediction_type == "epsilon":
        return diffusers.PNDMScheduler.from_config({**_BETAS, "skip_prk_steps": True, "steps_offset": 1})
    kind = {"steps_offset": 1, "set_alpha_to_one": False, "prediction_type": prediction_type}
    return diffusers.DDIMScheduler(**_BETAS, **kind)


def sd(folder: Path, prediction_type: str) -> Any:
    """StableDiffusionPipeline: 32x32 pixels, latents 16x16."""
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    return diffusers.StableDiffusionPipeline(
        vae=_vae().eval(),
        text_encoder=transformers.CLIPTextModel(_text_config(tokens)).eval(),
        tokenizer=tokens,
        unet=_unet(cross_attention_dim=32).eval(),
        scheduler=scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path) -> Any:
    """StableDiffusionXLPipeline with two text encoders: 32x32 pixels, latents 16x16."""
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae().eval(),
        text_encoder=transformers.CLIPTextModel(_text_config(tokens)).eval(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config(tokens)).eval(),
        tokenizer=tokens,
        tokenizer_2=tokens,
        unet=_unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=8 * 6 + 32,
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
        ).eval(),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(
            {**_BETAS, "timestep_spacing": "leading", "steps_offset": 1}
        ),
        add_watermarker=False,
    )


def clip(folder: Path) -> str:
    """A native open_clip model in a folder, and its `local-dir:` name."""
    torch.manual_seed(0)
    model = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": TOKENS, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess | {"resize_mode": "shortest"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
