"""Families with a transformer whose texts are read by CLIP, T5 or a language model alone."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers as tf

from tests.contract.families import parts


def stable_diffusion_3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        scheduler=parts.flow(shift=3.0),
        vae=parts.autoencoder(),
        text_encoder=parts.projected_clip(),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.projected_clip(),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5(),
        tokenizer_3=parts.t5_tokenizer(),
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
        ).eval(),
    )


def flux() -> Any:
    return diffusers.FluxPipeline(
        scheduler=parts.flow(**parts.DYNAMIC),
        vae=parts.autoencoder(),
        text_encoder=parts.clip(),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=True,
        ).eval(),
    )


def flux2() -> Any:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.Mistral3Config(
        text_config=tf.MistralConfig(vocab_size=260, num_key_value_heads=2, head_dim=8, **text),
        vision_config=tf.PixtralVisionConfig(head_dim=8, image_size=16, patch_size=8, **vision),
    )
    tokenizer = parts.qwen_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'][0]['text'] }}<|im_end|>{% endfor %}"
    pipe = diffusers.Flux2Pipeline(
        text_encoder=tf.Mistral3ForConditionalGeneration(config).eval(), tokenizer=tokenizer, **_flux2(guidance=True)
    )
    pipe.system_message = "Draw."
    return pipe


def flux2_klein() -> Any:
    return diffusers.Flux2KleinPipeline(
        text_encoder=parts.qwen3(tf.Qwen3ForCausalLM), tokenizer=parts.qwen_tokenizer(), **_flux2(guidance=False)
    )


def _flux2(guidance: bool) -> dict[str, Any]:
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    vae.bn.running_mean.uniform_(-0.5, 0.5)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return {
        "scheduler": parts.flow(use_dynamic_shifting=True),
        "vae": vae,
        "transformer": diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            timestep_guidance_channels=256,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=guidance,
        ).eval(),
    }


def z_image() -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    ).eval()
    transformer.x_pad_token.data.fill_(1.0)
    transformer.cap_pad_token.data.fill_(1.0)
    return diffusers.ZImagePipeline(
        scheduler=parts.flow(**parts.DYNAMIC),
        vae=parts.autoencoder(),
        text_encoder=parts.qwen3(tf.Qwen3Model),
        tokenizer=parts.qwen_tokenizer(),
        transformer=transformer,
    )


def ovis_image() -> Any:
    return diffusers.OvisImagePipeline(
        scheduler=parts.flow(**parts.DYNAMIC),
        vae=parts.autoencoder(),
        text_encoder=parts.qwen3(tf.Qwen3Model),
        tokenizer=parts.qwen_tokenizer(),
        transformer=diffusers.OvisImageTransformer2DModel(
            patch_size=1,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        ).eval(),
    )


def chroma() -> Any:
    return diffusers.ChromaPipeline(
        scheduler=parts.flow(),
        vae=parts.autoencoder(),
        text_encoder=parts.t5(),
        tokenizer=parts.t5_tokenizer(),
        transformer=diffusers.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=[4, 4, 8],
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ).eval(),
    )


def auraflow() -> Any:
    encoder = tf.UMT5Config(vocab_size=98, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return diffusers.AuraFlowPipeline(
        tokenizer=parts.t5_tokenizer(),
        text_encoder=tf.UMT5EncoderModel(encoder).eval(),
        vae=parts.halving_autoencoder(),
        scheduler=parts.flow(),
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        ).eval(),
    )


def pixart_sigma() -> Any:
    return diffusers.PixArtSigmaPipeline(**_pixart())


def pixart_alpha() -> Any:
    return diffusers.PixArtAlphaPipeline(**_pixart())


def _pixart() -> dict[str, Any]:
    return {
        "tokenizer": parts.t5_tokenizer(),
        "text_encoder": parts.t5(),
        "vae": parts.halving_autoencoder(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(),
        "transformer": diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        ).eval(),
    }


def hunyuan_dit() -> Any:
    bert = tf.BertConfig(
        vocab_size=193,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=512,
    )
    return diffusers.HunyuanDiTPipeline(
        vae=parts.halving_autoencoder(),
        text_encoder=tf.BertModel(bert).eval(),
        tokenizer=parts.bert_tokenizer(),
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            in_channels=4,
            cross_attention_dim=32,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
            hidden_size=24,
            activation_fn="gelu-approximate",
        ).eval(),
        scheduler=diffusers.DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.t5_tokenizer(),
    )
