"""Scorers of open_clip and transformers at tiny random size, built without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from tests.contract import tiny

IMAGE = 32
PATCH = 8
_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
_VISION = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<start_of_image>{% else %}{{ part.text }}{% endif %}{% endfor %}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)


def _words(folder: Path, *, lower: bool) -> None:
    """A tokenizer of single characters, saved for `AutoTokenizer`."""
    signs = ["<pad>", "<s>", "</s>", "<unk>", "▁", *(chr(code) for code in range(33, 127)), *"абвгдеёжзиклмнопрст"]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({each: index for index, each in enumerate(signs)}, []))
    inner.model.unk_token = "<unk>"
    steps: list[Any] = [tokenizers.normalizers.Lowercase()] if lower else []
    inner.normalizer = tokenizers.normalizers.Sequence([*steps, tokenizers.normalizers.Replace(" ", "▁")])
    inner.decoder = tokenizers.decoders.Replace("▁", " ")
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _open_clip(folder: Path, model: dict[str, Any], preprocess: dict[str, Any]) -> str:
    torch.manual_seed(0)
    made = open_clip.CustomTextCLIP(**model)
    config = {"model_cfg": model | {"custom_text": True}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(made.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


def siglip(folder: Path) -> str:
    """A SigLIP-style open_clip model: timm's tower with attention pooling, a bias, a tokenizer of transformers."""
    _words(folder, lower=False)
    text = {"context_length": 24, "vocab_size": 128, "width": 32, "heads": 2, "layers": 2, "pool_type": "last"}
    text |= {"no_causal_mask": True, "proj_bias": True, "hf_tokenizer_name": "here"}
    text |= {"tokenizer_kwargs": {"clean": "canonicalize"}}
    vision = {"image_size": IMAGE, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    model = {"embed_dim": 64, "init_logit_bias": -10.0, "vision_cfg": vision, "text_cfg": text}
    return _open_clip(folder, model, _PREPROCESS)


def multilingual(folder: Path) -> str:
    """An open_clip model with an XLM-RoBERTa text tower."""
    _words(folder, lower=False)
    transformers.XLMRobertaConfig(
        vocab_size=128,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=40,
        pad_token_id=0,
    ).save_pretrained(folder)
    text: dict[str, Any] = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_pooler_type": "mean_pooler",
    }
    text |= {"hf_model_pretrained": False, "context_length": 24}
    vision = {"image_size": IMAGE, "layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH}
    return _open_clip(folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, _PREPROCESS)


def hf_clip(folder: Path) -> str:
    """A `CLIPModel` of transformers, PickScore's kind."""
    torch.manual_seed(0)
    tokens = tiny.tokenizer(folder)
    text = tiny._text_config(tokens).to_dict()
    vision = _VISION | {"image_size": IMAGE, "patch_size": PATCH, "projection_dim": 32}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    size = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokens)
    return _saved(model, processor, folder)


def hf_siglip(folder: Path) -> str:
    """A `SiglipModel` of transformers, with SigLIP2's tokenizer."""
    image = transformers.SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE})
    return _saved(_siglip(transformers.SiglipModel, image_size=IMAGE), _siglip_processor(folder, image), folder)


def hf_siglip2(folder: Path) -> str:
    """A `Siglip2Model` of transformers, which keeps the shape of images."""
    image = transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=16)
    return _saved(_siglip(transformers.Siglip2Model, num_patches=16), _siglip_processor(folder, image), folder)


def _siglip(kind: Any, **vision: Any) -> Any:
    torch.manual_seed(0)
    text = _VISION | {"vocab_size": 128, "max_position_embeddings": 64, "projection_size": 32}
    return kind(kind.config_class(text_config=text, vision_config=_VISION | vision | {"patch_size": PATCH}))


def _siglip_processor(folder: Path, image: Any) -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *(chr(code) for code in range(33, 127))]
    tokens = transformers.Siglip2Tokenizer({word: index for index, word in enumerate(words)}, [])
    any_shape = isinstance(image, transformers.Siglip2ImageProcessor)
    return (transformers.Siglip2Processor if any_shape else transformers.SiglipProcessor)(image, tokens)


def vision_language(folder: Path, kind: str = "Qwen2_5_VL") -> str:
    """A Qwen-VL with its processor; `kind` is the start of its class names in transformers."""
    torch.manual_seed(0)
    tokens = _qwen_tokens()
    text: dict[str, Any] = {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
    }
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    vision: dict[str, Any] = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if kind == "Qwen2_VL":
        vision |= {"embed_dim": 32, "hidden_size": 32}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 37, "fullatt_block_indexes": [1]}
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    ids = {f"{name}_token_id": tokens.convert_tokens_to_ids(mark) for name, mark in names.items()}
    prefix = kind.replace("_", "") if kind == "Qwen2_VL" else kind
    config = getattr(transformers, f"{prefix}Config")(text_config=text, vision_config=vision, **ids)
    model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config)
    processor = getattr(transformers, f"{prefix}Processor")(
        transformers.Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tokens,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    return _saved(model, processor, folder)


def shield_gemma(folder: Path) -> str:
    """A ShieldGemma 2 that reads single characters, with its processor."""
    torch.manual_seed(0)
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *(chr(code) for code in range(33, 127))]
    tokens = transformers.GemmaTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], extra_special_tokens=marks
    )
    ids = {name: tokens.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    text = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024}
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.ShieldGemma2Config(
        text_config=text,
        vision_config={**vision, "image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        yes_token_index=words.index("Y"),
        no_token_index=words.index("N"),
        initializer_range=0.5,
    )
    processor = transformers.ShieldGemma2Processor(
        transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokens,
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=4,
    )
    return _saved(transformers.ShieldGemma2ForImageClassification(config), processor, folder)


def _qwen_tokens() -> Any:
    """Bytes, the words Yes and No, and Qwen's marks."""
    words = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words += ["Ye", "Yes", "No", "<|endoftext|>"]
    tokens = transformers.Qwen2Tokenizer(
        {word: index for index, word in enumerate(words)}, [("Y", "e"), ("Ye", "s"), ("N", "o")]
    )
    marks = ["im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    tokens.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    return tokens


def _saved(model: Any, processor: Any, folder: Path) -> str:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
