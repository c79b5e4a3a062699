"""Families with a UNet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import diffusers

from tests.contract import tiny
from tests.contract.families import parts


def stable_diffusion() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        pipe = tiny.sd(Path(folder), "epsilon")
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe


def stable_diffusion_xl() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return tiny.sdxl(Path(folder))


def latent_consistency() -> Any:
    return diffusers.LatentConsistencyModelPipeline(
        vae=parts.halving_autoencoder(),
        text_encoder=parts.clip(),
        tokenizer=parts.clip_tokenizer(),
        unet=diffusers.UNet2DConditionModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=2,
            time_cond_proj_dim=32,
        ).eval(),
        scheduler=diffusers.LCMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
