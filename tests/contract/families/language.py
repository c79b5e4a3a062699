"""Families whose texts are read by large language or vision-language models."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers as tf

from tests.contract.families import parts


def qwen_image() -> Any:
    return diffusers.QwenImagePipeline(
        scheduler=parts.flow(**parts.DYNAMIC, shift_terminal=0.02),
        vae=parts.film_autoencoder(),
        text_encoder=parts.qwen25_vl(16, [1, 1, 2]),
        tokenizer=parts.qwen_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        ).eval(),
    )


def krea2() -> Any:
    text = {
        "vocab_size": 260,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return diffusers.Krea2Pipeline(
        scheduler=parts.flow(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=parts.film_autoencoder(mean=0.0, std=1.0),
        text_encoder=tf.Qwen3VLModel(tf.Qwen3VLConfig(text_config=text, vision_config=vision)).eval(),
        tokenizer=parts.qwen_tokenizer(),
        text_encoder_select_layers=(0, 1, 2),
        transformer=diffusers.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=32,
            timestep_embed_dim=8,
            text_hidden_dim=16,
            num_text_layers=3,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=16,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
            rope_theta=1000.0,
        ).eval(),
    )


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=8,
            num_layers=2,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            norm_eps=1e-5,
            axes_dim_rope=[4, 2, 2],
            cap_feat_dim=8,
        ).eval(),
        scheduler=parts.flow(),
        vae=parts.halving_autoencoder(halvings=3, shift=0.1),
        text_encoder=parts.gemma(8),
        tokenizer=parts.gemma_tokenizer(),
    )


def sana() -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.SanaPipeline(**_sana(scheduler))


def sana_sprint() -> Any:
    transformer = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    return diffusers.SanaSprintPipeline(**_sana(diffusers.SCMScheduler(), **transformer))


def _sana(scheduler: Any, **transformer: Any) -> dict[str, Any]:
    return {
        "scheduler": scheduler,
        "tokenizer": parts.gemma_tokenizer(),
        "text_encoder": parts.gemma(8),
        "vae": diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=[1, 1],
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ).eval(),
        "transformer": diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
            **transformer,
        ).eval(),
    }


def cogview4() -> Any:
    glm = tf.GlmConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
    )
    return diffusers.CogView4Pipeline(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=tf.GlmModel(glm).eval(),
        vae=parts.halving_autoencoder(),
        scheduler=parts.flow(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
        transformer=diffusers.CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=4,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
        ).eval(),
    )


def hidream() -> Any:
    llama = tf.LlamaConfig(
        vocab_size=98,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=parts.flow(shift=3.0),
        vae=parts.halving_autoencoder(shift=0.1),
        text_encoder=parts.projected_clip(max_position_embeddings=218),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.projected_clip(max_position_embeddings=218),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5(),
        tokenizer_3=parts.t5_tokenizer(),
        text_encoder_4=tf.LlamaForCausalLM(llama).eval(),
        tokenizer_4=parts.llama_tokenizer(),
        transformer=diffusers.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, 16],
            text_emb_dim=64,
            num_routed_experts=4,
            num_activated_experts=2,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32),
            llama_layers=(0, 1),
        ).eval(),
    )
    pipe.default_sample_size = 16
    return pipe


def hunyuan_image() -> Any:
    glyphs = tf.T5Config(d_model=32, d_kv=4, d_ff=16, num_layers=2, num_heads=2, vocab_size=384)
    guider = diffusers.AdaptiveProjectedMixGuidance
    pipe = diffusers.HunyuanImagePipeline(
        scheduler=parts.flow(shift=7.0),
        vae=diffusers.AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 64, 64, 64),
            layers_per_block=1,
            scaling_factor=0.47,
            spatial_compression_ratio=8,
            sample_size=128,
        ).eval(),
        text_encoder=parts.qwen25_vl(32, [2, 2, 4]),
        tokenizer=parts.qwen_tokenizer(),
        text_encoder_2=tf.T5EncoderModel(glyphs).eval(),
        tokenizer_2=tf.ByT5Tokenizer(),
        guider=guider(adaptive_projected_guidance_start_step=2),
        ocr_guider=guider(adaptive_projected_guidance_start_step=3),
        transformer=diffusers.HunyuanImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=(1, 1),
            guidance_embeds=False,
            text_embed_dim=32,
            text_embed_2_dim=32,
            rope_axes_dim=(4, 4),
        ).eval(),
    )
    pipe.tokenizer_max_length = 100
    return pipe


def kandinsky5() -> Any:
    processor = tf.Qwen2VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(),
        tokenizer=parts.qwen_tokenizer(),
        video_processor=tf.Qwen2VLVideoProcessor(),
    )
    pipe = diffusers.Kandinsky5T2IPipeline(
        transformer=diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=16,
            in_text_dim=32,
            in_text_dim2=32,
            time_dim=16,
            out_visual_dim=16,
            patch_size=(1, 2, 2),
            model_dim=16,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=2,
            axes_dims=(1, 1, 2),
            visual_cond=False,
            attention_type="regular",
        ).eval(),
        vae=parts.halving_autoencoder(16, halvings=3),
        text_encoder=parts.qwen25_vl(32, [2, 2, 4]),
        tokenizer=processor,
        text_encoder_2=parts.clip(),
        tokenizer_2=parts.clip_tokenizer(),
        scheduler=parts.flow(shift=7.0),
    )
    pipe.resolutions = [(32, 32), (64, 32)]
    return pipe
