"""SDXL, SD3.5-medium, FLUX.1-schnell and Z-Image-Turbo in their true configurations, with random weights.

Nothing is downloaded: sizes are written here, tokenizers know single characters. `tiny` shrinks depth and width, so
that the same code is tested in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import diffusers
import open_clip
import torch
import transformers as tf

from models.runtime.placement import DevicePlacement
from models.scorers.open_clip import OpenClipScorer
from tests.contract.families import parts


@dataclass(frozen=True, slots=True)
class RealModel:
    """A model: how it is built, and the steps, guidance and size of its usual requests.

    `tera_per_step` is about how many 10^12 operations a step of a candidate takes, guidance included.
    """

    build: Callable[[Any, Any, bool], Any]
    steps: int
    guidance: float
    size: int
    tera_per_step: float


def _random(kind: Any, config: Any, device: Any, dtype: Any) -> Any:
    """A module with small random weights, made on the device: the host never holds it."""
    with torch.device("meta"):
        module = kind(config) if not isinstance(config, dict) else kind(**config)
    module = module.to(dtype).to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.02, generator=generator)
                if "norm" in name and name.endswith("weight"):
                    tensor.fill_(1.0)
            elif name.endswith("position_ids"):
                tensor.copy_(torch.arange(tensor.shape[-1], device=device).expand_as(tensor))
            else:
                tensor.zero_()
    for part in module.modules():
        if hasattr(part, "inv_freq") and hasattr(part, "config"):
            part.inv_freq = _inverse_frequencies(part.config).to(device)
    return module


def _inverse_frequencies(config: Any) -> Any:
    """Rotary frequencies, which models compute when they are made."""
    theta = float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10_000.0))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


def _clip(width: int, layers: int, heads: int, device: Any, dtype: Any, tiny: bool, *, projected: bool) -> Any:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    if not tiny:
        shape = {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
        }
    vocabulary = 190 if tiny else 49_408
    config = parts.clip_config(**shape, vocab_size=vocabulary, projection_dim=shape["hidden_size"])
    kind = tf.CLIPTextModelWithProjection if projected else tf.CLIPTextModel
    return _random(kind, config, device, dtype)


def _clip_l(device: Any, dtype: Any, tiny: bool, *, projected: bool) -> Any:
    return _clip(768, 12, 12, device, dtype, tiny, projected=projected)


def _clip_g(device: Any, dtype: Any, tiny: bool) -> Any:
    return _clip(1280, 32, 20, device, dtype, tiny, projected=True)


def _t5(device: Any, dtype: Any, tiny: bool) -> Any:
    config = tf.T5Config(vocab_size=98, d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    if not tiny:
        config = tf.T5Config(
            vocab_size=32_128,
            d_model=4096,
            d_kv=64,
            d_ff=10_240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    return _random(tf.T5EncoderModel, config, device, dtype)


def _autoencoder(channels: int, device: Any, dtype: Any, tiny: bool, **more: Any) -> Any:
    blocks = (8,) * 4 if tiny else (128, 256, 512, 512)
    config = {
        "block_out_channels": blocks,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1 if tiny else 2,
        "latent_channels": channels,
        "norm_num_groups": 8 if tiny else 32,
        "sample_size": 1024,
        **more,
    }
    return _random(diffusers.AutoencoderKL, config, device, dtype)


def sdxl(device: Any, dtype: Any, tiny: bool) -> Any:
    """Stable Diffusion XL 1.0: 2.6 billion parameters in the denoiser."""
    width = 64 if tiny else 2048
    pooled = 32 if tiny else 1280
    unet = {
        "sample_size": 16 if tiny else 128,
        "cross_attention_dim": width,
        "block_out_channels": (32, 64) if tiny else (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * (1 if tiny else 2)),
        "up_block_types": (*["CrossAttnUpBlock2D"] * (1 if tiny else 2), "UpBlock2D"),
        "transformer_layers_per_block": (1, 1) if tiny else (1, 2, 10),
        "attention_head_dim": (2, 4) if tiny else (5, 10, 20),
        "layers_per_block": 1 if tiny else 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + pooled,
    }
    return diffusers.StableDiffusionXLPipeline(
        vae=_autoencoder(4, device, dtype, tiny, scaling_factor=0.13025),
        text_encoder=_clip_l(device, dtype, tiny, projected=False),
        text_encoder_2=_clip_g(device, dtype, tiny),
        tokenizer=parts.clip_tokenizer(),
        tokenizer_2=parts.clip_tokenizer(),
        unet=_random(diffusers.UNet2DConditionModel, unet, device, dtype),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )


def sd35_medium(device: Any, dtype: Any, tiny: bool) -> Any:
    """Stable Diffusion 3.5 medium: 2.5 billion parameters in the denoiser."""
    layers = 2 if tiny else 24
    transformer = {
        "sample_size": 16 if tiny else 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": layers,
        "attention_head_dim": 8 if tiny else 64,
        "num_attention_heads": 2 if tiny else 24,
        "joint_attention_dim": 64 if tiny else 4096,
        "caption_projection_dim": 16 if tiny else 1536,
        "pooled_projection_dim": 64 if tiny else 2048,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(1 if tiny else 13)),
        "qk_norm": "rms_norm",
    }
    return diffusers.StableDiffusion3Pipeline(
        scheduler=parts.flow(shift=3.0),
        vae=_autoencoder(
            16,
            device,
            dtype,
            tiny,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=_clip_l(device, dtype, tiny, projected=True),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=_clip_g(device, dtype, tiny),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=_t5(device, dtype, tiny),
        tokenizer_3=parts.t5_tokenizer(),
        transformer=_random(diffusers.SD3Transformer2DModel, transformer, device, dtype),
    )


def flux_schnell(device: Any, dtype: Any, tiny: bool) -> Any:
    """FLUX.1 schnell: 11.9 billion parameters in the denoiser."""
    transformer = {
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 1 if tiny else 19,
        "num_single_layers": 1 if tiny else 38,
        "attention_head_dim": 16 if tiny else 128,
        "num_attention_heads": 2 if tiny else 24,
        "joint_attention_dim": 64 if tiny else 4096,
        "pooled_projection_dim": 32 if tiny else 768,
        "axes_dims_rope": (4, 4, 8) if tiny else (16, 56, 56),
        "guidance_embeds": False,
    }
    return diffusers.FluxPipeline(
        scheduler=parts.flow(shift=1.0),
        vae=_autoencoder(
            16,
            device,
            dtype,
            tiny,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=_clip_l(device, dtype, tiny, projected=False),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=_t5(device, dtype, tiny),
        tokenizer_2=parts.t5_tokenizer(),
        transformer=_random(diffusers.FluxTransformer2DModel, transformer, device, dtype),
    )


def z_image_turbo(device: Any, dtype: Any, tiny: bool) -> Any:
    """Z-Image-Turbo: 6.2 billion parameters in the denoiser."""
    text = tf.Qwen3Config(
        vocab_size=260 if tiny else 151_936,
        hidden_size=16 if tiny else 2560,
        intermediate_size=16 if tiny else 9728,
        num_hidden_layers=2 if tiny else 36,
        num_attention_heads=2 if tiny else 32,
        num_key_value_heads=2 if tiny else 8,
        head_dim=8 if tiny else 128,
    )
    transformer = {
        "all_patch_size": (2,),
        "all_f_patch_size": (1,),
        "in_channels": 16,
        "dim": 32 if tiny else 3840,
        "n_layers": 2 if tiny else 30,
        "n_refiner_layers": 1 if tiny else 2,
        "n_heads": 2 if tiny else 30,
        "n_kv_heads": 2 if tiny else 30,
        "qk_norm": True,
        "cap_feat_dim": 16 if tiny else 2560,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
        "axes_dims": [8, 4, 4] if tiny else [32, 48, 48],
        "axes_lens": [1536, 512, 512],
    }
    return diffusers.ZImagePipeline(
        scheduler=parts.flow(shift=3.0),
        vae=_autoencoder(
            16,
            device,
            dtype,
            tiny,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=_random(tf.Qwen3Model, text, device, dtype),
        tokenizer=parts.qwen_tokenizer(),
        transformer=_random(diffusers.ZImageTransformer2DModel, transformer, device, dtype),
    )


def random_scorer(placement: DevicePlacement, tiny: bool) -> OpenClipScorer:
    """ViT-B-32 of open_clip with random weights: what a user's script would score with."""
    config: dict[str, Any] = open_clip.get_model_config("ViT-B-32") or {}
    if tiny:
        config["vision_cfg"] |= {"layers": 1, "width": 64}
        config["text_cfg"] |= {"layers": 1, "width": 64, "heads": 1}
    torch.manual_seed(0)
    with torch.device(placement.device):
        model = open_clip.CLIP(**config)
    preprocess = asdict(open_clip.transform.PreprocessCfg())
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return OpenClipScorer(model, tokenizer, preprocess, placement, id="ViT-B-32", revision="random")


MODELS = {
    "z-image-turbo": RealModel(z_image_turbo, 8, 0.0, 1024, 60.0),
    "flux.1-schnell": RealModel(flux_schnell, 4, 0.0, 1024, 95.0),
    "sdxl": RealModel(sdxl, 30, 5.0, 1024, 20.0),
    "sd3.5-medium": RealModel(sd35_medium, 28, 4.5, 1024, 40.0),
}
"""In the order of worth: a short bench measures the first ones."""
