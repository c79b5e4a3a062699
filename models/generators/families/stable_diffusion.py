"""Stable Diffusion 1.x, 2.x, Turbo, LCM and SDXL: a UNet and CLIP texts.

They have a choice of samplers. Packs have a text encoder of their own. Safety checker and watermark are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch

from models.errors import ModelUnsupported
from models.generators.families.base import NO_CHUNKS, NativeFamily, Schedules
from models.generators.samplers import DiffusersSamplers
from models.prompt_weights import WeightedPrompt, read_weights
from models.protocols import Guidance, PromptWeights, Truncation
from models.runtime import tokenization
from models.runtime.placement import DevicePlacement

_CLIP = "CLIPTextModel", "CLIPTextModelWithProjection"


class StableDiffusion(NativeFamily):
    """One CLIP text encoder."""

    cells = 1
    hidden_states = "LAST_HIDDEN_STATES_NORMALIZED"
    """compel's name of the text encoders' output that the denoiser takes."""

    def __init__(
        self, pipe: Any, placement: DevicePlacement, arguments: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
            raise ModelUnsupported("an inpainting or editing model: the denoiser needs more inputs than latents")
        super().__init__(pipe, placement, arguments, defaults)
        self._guidance_dimensions = pipe.unet.config.time_cond_proj_dim
        self._in_chunks = False

    @property
    def guidance(self) -> Guidance:
        """The scale is an input of consistency models."""
        return "cfg" if self._guidance_dimensions is None else "embedded"

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    @property
    def token_limit(self) -> int:
        """The first tokenizer's limit."""
        return int(self.tokenizers[0].model_max_length)

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers, each with its own text encoder."""
        return [self.pipe.tokenizer]

    @property
    def text_encoders(self) -> list[Any]:
        """The text encoders, in the order of the tokenizers."""
        return [*filter(None, (self.pipe.text_encoder, getattr(self.pipe, "text_encoder_2", None)))]

    @property
    def modules(self) -> list[Any]:
        """UNet, autoencoder and text encoders."""
        return [self.pipe.unet, self.pipe.vae, *self.text_encoders]

    @cached_property
    def prompt_weights(self) -> PromptWeights:
        """Compel applies them to CLIP's texts; packs have another text encoder."""
        if any(type(encoder).__name__ not in _CLIP for encoder in self.text_encoders):
            return "unsupported"
        return "applied" if find_spec("compel") else "not_installed"

    @cached_property
    def schedules(self) -> Schedules:
        """Tables of the samplers that the scheduler's configuration allows."""
        return DiffusersSamplers(self.pipe.scheduler)

    def prepare(self, module: Any) -> None:
        """Convolutions are faster on channels-last weights."""
        module.to(memory_format=torch.channels_last).requires_grad_(False)

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Hidden states (tokens, D) for cross-attention."""
        parts = self.parts(text)
        return (self.encoded(text)[0][0] if parts is None else self.by_parts(parts),)

    def read_in_chunks(self) -> None:
        """Compel splits long texts between sentences, else between words."""
        if self.prompt_weights == "not_installed":
            raise ModelUnsupported(f"chunks of long prompts need compel; install frontrunner[weights], or {NO_CHUNKS}")
        if self.prompt_weights == "unsupported":
            super().read_in_chunks()
        first, *others = self.tokenizers
        if any(each.get_vocab() != first.get_vocab() for each in others):
            raise ModelUnsupported(f"the model's tokenizers split texts differently; {NO_CHUNKS}")
        self._in_chunks = True

    def chunks(self, tokens: int) -> int:
        """Each is as long as the token limit."""
        return tokens // self.token_limit if self._in_chunks else 1

    def parts(self, text: str) -> tuple[tuple[str, float], ...] | None:
        """The weighted parts of a text that compel encodes; None for the stock encoding."""
        marked = self.marked(text)
        if marked is not None:
            return marked.parts
        return ((text, 1.0),) if self._in_chunks and self._cut(text) else None

    def marked(self, text: str) -> WeightedPrompt | None:
        """The weights that are applied to a text; None for a text without any."""
        read = read_weights(text) if self.prompt_weights == "applied" else None
        return read if read is not None and read.marks else None

    def by_parts(self, prompt: tuple[tuple[str, float], ...]) -> Any:
        """Hidden states (tokens, D) of texts with weights, by compel.

        Not kept between calls: compel's cache of the empty text would outlive a change of adapters.
        """
        from compel import EmbeddingsProvider, ReturnedEmbeddingsType

        parts = [(text, weight) for text, weight in prompt if text.strip()]
        whole = self._in_chunks and self._cut("".join(text for text, _ in prompt)) is not None
        texts, weights = ([[each[side] for each in parts]] for side in (0, 1))
        made = []
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            provider = EmbeddingsProvider(
                tokenizer,
                encoder,
                device=self.placement.device,
                truncate=not whole,
                returned_embeddings_type=ReturnedEmbeddingsType[self.hidden_states],
            )
            found = provider.get_embeddings_for_weighted_prompt_fragments(texts, weights, device=provider.device)
            made.append(found[0].to(self.placement.device))
        return torch.cat(made, dim=-1)

    def encoded(self, text: str, **changes: Any) -> Any:
        """`encode_prompt` for one text; packs have no settings for it."""
        return self.pipe.encode_prompt(
            prompt=text,
            device=self.placement.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **changes,
        )

    def truncation(self, text: str) -> Truncation | None:
        """What the first tokenizer that cuts the text drops; nothing if it reads chunks.

        Marks take no room.
        """
        marked = self.marked(text)
        return None if self._in_chunks else self._cut(text if marked is None else marked.plain)

    def _cut(self, text: str) -> Truncation | None:
        cuts = (tokenization.transformers_truncation(each, text, self.token_limit) for each in self.tokenizers)
        return next((cut for cut in cuts if cut), None)

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """Noise, velocity or image, as the model predicts."""
        return self.unet(x, t, guidance, texts[0])

    def unet(self, x: Any, t: Any, guidance: Any, hidden: Any, **further: Any) -> Any:
        """The UNet's prediction; the scale is an input of consistency models only."""
        if self._guidance_dimensions is not None:
            scales = self.pipe.get_guidance_scale_embedding(guidance - 1.0, embedding_dim=self._guidance_dimensions)
            further["timestep_cond"] = scales.to(x.dtype)
        return self.denoiser(x, t, encoder_hidden_states=hidden, return_dict=False, **further)[0]

    def to_decoder(self, vae: Any, x: Any) -> Any:
        """No shift, but means per channel in some models, as in the pipelines."""
        mean, std = _statistics(vae.config, x.device)
        return x / vae.config.scaling_factor if mean is None else x * std / vae.config.scaling_factor + mean

    def from_encoder(self, z: Any) -> Any:
        """The inverse of `to_decoder`."""
        config = self.pipe.vae.config
        mean, std = _statistics(config, z.device)
        return z * config.scaling_factor if mean is None else (z - mean) * config.scaling_factor / std


class StableDiffusionXL(StableDiffusion):
    """Two CLIP text encoders, a pooled text, and sizes as inputs."""

    hidden_states = "PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED"

    @property
    def tokenizers(self) -> list[Any]:
        """Both."""
        return [self.pipe.tokenizer, self.pipe.tokenizer_2]

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Hidden states (tokens, D), and the pooled text (P,).

        Those of the empty text may be zeros. Weights, and chunks after the first, do not reach the pooled text.
        """
        parts = self.parts(text)
        encoded = self.encoded(text if parts is None else "".join(each for each, _ in parts))
        hidden = encoded[0][0] if parts is None else self.by_parts(parts)
        pooled = encoded[2][0]
        if not text and self.pipe.config.force_zeros_for_empty_prompt:
            return torch.zeros_like(hidden), torch.zeros_like(pooled)
        return hidden, pooled

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """The sizes are those of an uncropped image."""
        hidden, pooled = texts
        size = x.shape[2] * self.factor, x.shape[3] * self.factor
        sizes = torch.tensor([*size, 0, 0, *size], dtype=self.placement.dtype, device=x.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(x.shape[0], -1)}
        return self.unet(x, t, guidance, hidden, added_cond_kwargs=added)


def _statistics(config: Any, device: Any) -> tuple[Any, Any]:
    """Mean and standard deviation per channel; None where the autoencoder has none."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return None, None
    return tuple(torch.tensor(each, device=device).view(1, -1, 1, 1) for each in (mean, std))
