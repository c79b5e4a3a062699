"""Loads a pack with the stock classes and samples from it, for figures and sheets.

It does not use the serving engine, but a plain DDIM loop over one batch. So a figure depends only on the pack.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from open_clip import CustomTextCLIP
from safetensors.torch import load_file
from torch.nn import functional

from models.generators.solver_coefficients import quadratic_times
from models.protocols import Styles
from models.reading.front import TextFront
from models.training.data import texts
from models.training.data.palette import U8
from models.training.trainers.autoencoder import to_tensor
from models.training.trainers.scorer import build


@dataclasses.dataclass(slots=True)
class Drawn:
    """Candidates of one prompt.

    `pictures`: final pictures (N, 64, 64, 3). `previews`: the previews at each checkpoint step.
    """

    pictures: U8
    previews: dict[int, U8]


class Pack:
    """A pack folder, loaded for evaluation in float32.

    `part` is the entry of its scorer: `scorer` or `second`.
    """

    def __init__(self, folder: Path, part: str = "scorer") -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "pack.json").read_text("utf-8"))
        self.encoder, self.device = texts.TextEncoder(), torch.get_default_device()
        with torch.device("cpu"):
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder / self.meta["generator"]["folder"],
                text_encoder=self.encoder.model,
                tokenizer=self.encoder.tokenizer,
                safety_checker=None,
                dtype=torch.float32,
            )
            scorer = load_scorer(folder / self.meta[part]["folder"])
        self.unet, self.vae = pipeline.unet.eval().to(self.device), pipeline.vae.eval().to(self.device)
        self.styles = Styles.from_json(self.meta["generator"]["styles"])
        self.scheduler, self.scorer = pipeline.scheduler, scorer.to(self.device)
        words, vocabulary = folder / self.meta["words"]["file"], texts.folder() / "vocab.txt"
        self.read = TextFront(words, vocabulary, self.styles.phrases).read

    def decode(self, latents: torch.Tensor) -> U8:
        """Latents (B, 16, 8, 8) -> uint8 (B, 64, 64, 3)."""
        found = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return ((found.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def rebuild(self, pictures: U8) -> U8:
        """Pictures uint8 (B, 64, 64, 3) after encoding and decoding, same format."""
        with torch.inference_mode():
            return self.decode(self.vae.encode(to_tensor(pictures)).latents * self.vae.config.scaling_factor)

    def draw(
        self,
        prompt: str,
        count: int,
        seed: int,
        negative: str = "",
        checkpoints: Sequence[int] = (),
        guidance: float | None = None,
        wordings: Sequence[str] | None = None,
    ) -> Drawn:
        """Sample `count` candidates with seeds `seed`, `seed` + 1, ...

        Steps, and the guidance if it is None, are the defaults of the pack. A candidate is drawn from the wording of
        its seed, as in serving; without `wordings` from `prompt`. None: those that the service chooses.
        """
        defaults = self.meta["generator"]["defaults"]
        with torch.inference_mode():
            texts = (self.styles.wordings(prompt) if wordings is None else wordings) or (prompt,)
            states = self.encoder.states([negative, *texts])
            states = states[[0] * count + [1 + (seed + i) % len(texts) for i in range(count)]]
            x = self.noise(range(seed, seed + count))
            scale = defaults["guidance_scale"] if guidance is None else guidance
            return self.denoise(x, states, defaults["steps"], scale, checkpoints)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """The first latents of these seeds (N, 16, 8, 8), equal on every device."""
        shape = (self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size)
        each = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(s), device="cpu") for s in seeds]
        return torch.stack(each).to(self.device)

    def denoise(
        self, x: torch.Tensor, states: torch.Tensor, steps: int, guidance: float, checkpoints: Sequence[int]
    ) -> Drawn:
        """DDIM for v-prediction with quadratic step times.

        `states` holds the rows of the negative prompt, then the rows of the prompt.
        """
        times = quadratic_times(steps, self.scheduler.config.num_train_timesteps)
        cumulative = self.scheduler.alphas_cumprod
        previews: dict[int, U8] = {}
        clean = x
        for i, t in enumerate(times):
            low, high = self.unet(torch.cat([x, x]), t, states, return_dict=False)[0].chunk(2)
            v = low + guidance * (high - low)
            a, b = cumulative[t].sqrt(), (1 - cumulative[t]).sqrt()
            clean, noise = a * x - b * v, b * x + a * v
            after = cumulative[times[i + 1]] if i + 1 < len(times) else torch.tensor(1.0)
            x = after.sqrt() * clean + (1 - after).sqrt() * noise
            if i + 1 in checkpoints:
                previews[i + 1] = self.decode(clean)
        return Drawn(self.decode(clean), previews)

    def embed_pictures(self, pictures: U8) -> torch.Tensor:
        """uint8 (B, 64, 64, 3) -> float32 (B, D), normalised."""
        with torch.inference_mode():
            return functional.normalize(
                torch.cat([self.scorer.visual(x) for x in to_tensor(pictures).split(64)]), dim=-1
            )

    def embed_texts(self, captions: Sequence[str]) -> torch.Tensor:
        """float32 (B, D), normalised."""
        with torch.inference_mode():
            parts = [
                self.scorer.text.proj(self.encoder.pooled(captions[i : i + 128])) for i in range(0, len(captions), 128)
            ]
            return functional.normalize(torch.cat(parts), dim=-1)

    def scores(self, pictures: U8, prompt: str, negative: str = "") -> np.ndarray[Any, np.dtype[np.float32]]:
        """Cosine to the prompt, minus half of a positive cosine to the negative."""
        wanted = self.embed_texts([prompt, negative] if negative else [prompt])
        cosines = (self.embed_pictures(pictures) @ wanted.T).cpu().numpy()
        penalty = 0.5 * np.maximum(0, cosines[:, 1]) if negative else 0.0
        return np.asarray(cosines[:, 0] - penalty, np.float32)


def load_scorer(folder: Path) -> CustomTextCLIP:
    """The stock class from its config, with stored parts and packaged text trunk.

    All keys must match.
    """
    model = build(json.loads((folder / "open_clip_config.json").read_text("utf-8")))
    state = {k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()}
    trunk = load_file(texts.folder() / "model.safetensors")
    state |= {f"text.transformer.{k}": v for k, v in trunk.items()}
    expected = set(model.state_dict())
    model.load_state_dict({k: v for k, v in state.items() if k in expected or not k.startswith("text.transformer.")})
    return model.eval()
