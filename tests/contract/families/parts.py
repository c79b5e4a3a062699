"""Parts that families share: tokenizers with vocabularies made in memory, text encoders, autoencoders."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers as tf
from tokenizers.pre_tokenizers import ByteLevel

CHARACTERS = [chr(code) for code in range(33, 127)]
DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 4,
    "max_image_seq_len": 64,
}
"""A shift that depends on the size, at sizes as tiny as these."""

_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 260}


def _numbered(words: list[str]) -> dict[str, int]:
    return {word: index for index, word in enumerate(words)}


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def clip_tokenizer() -> Any:
    words = [*CHARACTERS, *(f"{each}</w>" for each in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    return tf.CLIPTokenizer(vocab=_numbered(words), merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), ("▁", -2.0), *((each, -3.0) for each in CHARACTERS)]
    return tf.T5TokenizerFast(vocab=pieces, extra_ids=0)


def qwen_tokenizer() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = _numbered([*sorted(ByteLevel.alphabet()), *special])
    tokenizer = tf.Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special[1:])
    tokenizer.chat_template = _CHAT
    return tokenizer


def gemma_tokenizer() -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *CHARACTERS]
    tokenizer = tf.GemmaTokenizer(vocab=_numbered(words), merges=[])
    tokenizer.padding_side = "right"
    return tokenizer


def llama_tokenizer() -> Any:
    tokenizer = tf.LlamaTokenizer(vocab=_numbered(["<unk>", "<s>", "</s>", "▁", *CHARACTERS]), merges=[])
    tokenizer.pad_token = "</s>"
    return tokenizer


def bert_tokenizer() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{each}" for each in CHARACTERS)]
    return tf.BertTokenizer(vocab=_numbered(words), model_max_length=77)


def clip_config(**changes: Any) -> Any:
    return tf.CLIPTextConfig(
        **{
            "vocab_size": 190,
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 32,
            "bos_token_id": 188,
            "eos_token_id": 189,
            "pad_token_id": 189,
            **changes,
        }
    )


def clip() -> Any:
    return tf.CLIPTextModel(clip_config()).eval()


def projected_clip(**changes: Any) -> Any:
    return tf.CLIPTextModelWithProjection(clip_config(**changes)).eval()


def t5() -> Any:
    return tf.T5EncoderModel(tf.T5Config(vocab_size=98, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)).eval()


def qwen3(kind: Any) -> Any:
    return kind(tf.Qwen3Config(hidden_size=16, intermediate_size=16, max_position_embeddings=512, **_SMALL)).eval()


def qwen25_vl(width: int, sections: list[int]) -> Any:
    rope = {"mrope_section": sections, "rope_type": "default", "type": "default"}
    text = {"hidden_size": width, "intermediate_size": width, "rope_scaling": rope, "rope_theta": 1e6, **_SMALL}
    vision = {"depth": 1, "hidden_size": width, "intermediate_size": width, "num_heads": 2, "out_hidden_size": width}
    config = tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return tf.Qwen2_5_VLForConditionalGeneration(config).eval()


def gemma(width: int) -> Any:
    config = tf.Gemma2Config(
        vocab_size=100,
        head_dim=4,
        hidden_size=width,
        intermediate_size=width,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        sliding_window=2,
    )
    return tf.Gemma2Model(config).eval()


def autoencoder(channels: int = 4) -> Any:
    """One cell a pixel, shifted and scaled."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    ).eval()


def halving_autoencoder(channels: int = 4, halvings: int = 1, shift: float | None = None) -> Any:
    """Two pixels to the side of a cell, or another power of two."""
    blocks = halvings + 1
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        latent_channels=channels,
        norm_num_groups=2,
        shift_factor=shift,
    ).eval()


def film_autoencoder(base: int = 24, mean: float = 0.1, std: float = 1.5) -> Any:
    """Qwen-Image's, with a dimension of frames and means that are not zero."""
    return diffusers.AutoencoderKLQwenImage(
        base_dim=base,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[mean] * 4,
        latents_std=[std] * 4,
    ).eval()
