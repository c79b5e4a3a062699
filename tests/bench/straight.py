"""The script a user would write by hand: diffusers makes N images, open_clip embeds them through PIL, the best wins.

Everything here uses the libraries' own loaders and calls, on the same weights as the service.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import StableDiffusionPipeline
from transformers import AutoTokenizer, BertModel

from models.pack import packs


@dataclass(frozen=True)
class Ranked:
    """What the script found: images best first, with their cosines."""

    images: list[Any]
    similarities: list[float]
    indices: list[int]


class Straight:
    """The pack in the libraries' own classes."""

    def __init__(self, name: str = "pictogram") -> None:
        pack = packs()[name]
        folder = pack.text_encoder_folder()
        encoder = BertModel.from_pretrained(folder)
        encoder.config.use_attention_mask = True
        tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=pack.text_encoder["max_length"])
        self.defaults = pack.manifest["generator"]["defaults"]
        self.pipe = StableDiffusionPipeline.from_pretrained(
            pack.generator, text_encoder=encoder, tokenizer=tokenizer, safety_checker=None, dtype=torch.float32
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.clip, self.preprocess, self.tokenize = _clip(pack.scorer, folder, encoder)

    @torch.inference_mode()
    def best_of(self, prompt: str, n: int, seed: int, **settings: Any) -> Ranked:
        """N images of a prompt, ranked by cosine similarity."""
        images = self.pipe(
            prompt,
            num_images_per_prompt=n,
            num_inference_steps=settings.get("steps", self.defaults["steps"]),
            guidance_scale=settings.get("guidance_scale", self.defaults["guidance_scale"]),
            generator=[torch.Generator().manual_seed(seed + i) for i in range(n)],
        ).images
        cosines = self.similarities(images, prompt)
        order = [int(i) for i in np.argsort(-cosines, kind="stable")]
        return Ranked([images[i] for i in order], [float(cosines[i]) for i in order], order)

    @torch.inference_mode()
    def similarities(self, images: list[Any], prompt: str) -> np.ndarray:
        """Cosines of PIL images with a prompt, embedded in one batch."""
        batch = torch.stack([self.preprocess(image) for image in images])
        pictures = self.clip.encode_image(batch, normalize=True)
        text = self.clip.encode_text(self.tokenize([prompt]), normalize=True)
        return np.asarray((pictures @ text.T)[:, 0].numpy())

    @torch.inference_mode()
    def embed_one_by_one(self, images: list[Any]) -> np.ndarray:
        """Embeddings as a loop over files would make them."""
        return np.concatenate(
            [self.clip.encode_image(self.preprocess(i)[None], normalize=True).numpy() for i in images]
        )


def _clip(folder: Path, text_folder: Path, encoder: Any) -> tuple[Any, Any, Any]:
    """The pack's scorer, built by open_clip from its config; its text trunk is the packaged encoder."""
    from safetensors.torch import load_file

    config = json.loads((folder / "open_clip_config.json").read_text())
    model_cfg = config["model_cfg"]
    model_cfg["text_cfg"]["hf_model_name"] = model_cfg["text_cfg"]["hf_tokenizer_name"] = str(text_folder)
    model = open_clip.CustomTextCLIP(**model_cfg)
    weights = load_file(folder / "open_clip_model.safetensors")
    weights |= {f"text.transformer.{k}": v for k, v in encoder.state_dict().items() if not k.startswith("pooler.")}
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=model_cfg["vision_cfg"]["image_size"], **config["preprocess_cfg"]),
        is_train=False,
    )
    text_cfg = model_cfg["text_cfg"]
    tokenizer = open_clip.tokenizer.HFTokenizer(str(text_folder), context_length=text_cfg["context_length"])
    return model.eval(), preprocess, tokenizer
