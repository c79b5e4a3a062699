"""Trains the generator: a two-level UNet2DConditionModel.

It trains on cached latents (8x8x16) and cached text states (24x384). The method is v-prediction on the squared-cosine
schedule, with min-SNR-5 weights and averaged weights. A tenth of the captions are dropped for guidance. The figures are
the errors of the averaged weights on fixed latents, noises and steps of each style.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from models.training import runs
from models.training.data.dataset import read_rows
from models.training.data.texts import MAX_TOKENS, WIDTH
from models.training.trainers.autoencoder import LATENT_CHANNELS, LATENT_SIZE

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}
SNR_CAP = 5.0

Denoiser = Callable[..., tuple[torch.Tensor]]
"""Noisy latents, steps and text states -> the found v, in a tuple."""


def build(widths: tuple[int, int] = (112, 224)) -> UNet2DConditionModel:
    """The untrained denoiser.

    Cross-attention to the text is at 4x4 (cells of 16 px). The pooled text is added to the step embedding.
    """
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=384,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )


class Latents:
    """The cached data set: latents (N, 16, 8, 8) and text states of each row.

    Both are float16, on a CPU memory-mapped, else wholly on the default device.
    """

    def __init__(self, folder: Path) -> None:
        scenes = folder / "scenes"
        captions: list[str] = json.loads((scenes / "generator.captions.json").read_text("utf-8"))
        place = {c: i for i, c in enumerate(captions)}
        rows = read_rows(scenes / "generator.jsonl")
        device = torch.get_default_device()
        self.caption = torch.tensor([place[r["caption"]] for r in rows])
        self.plain = np.array([is_plain(r) for r in rows])
        self.style = np.array([r["style"] for r in rows])
        self.empty = place[""]
        tables = (np.load(scenes / f"generator.{name}.npy", mmap_mode="c") for name in ("latents", "states"))
        self.latents, self.states = (torch.from_numpy(table).to(device) for table in tables)

    def batch(self, rows: np.ndarray[Any, np.dtype[np.int64]], drop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 latents and text states of `rows`.

        Rows with `drop` get the text states of the empty caption.
        """
        chosen = torch.from_numpy(rows).to(self.caption.device)
        texts = torch.where(drop, self.empty, self.caption[chosen])
        return self.latents[chosen].float(), self.states[texts].float()


def is_plain(row: dict[str, Any]) -> bool:
    """Whether a picture shows one thing in the centre, not small, in its own colours.

    The generator learns shapes from these pictures.
    """
    alone = len(row["things"]) == 1 and row["things"][0]["hue"] is None
    return alone and row["place"] == "centre" and row["size"] != "small"


class Objective:
    """The weighted v-prediction loss."""

    def __init__(self) -> None:
        cumulative = DDIMScheduler(**SCHEDULE).alphas_cumprod.double()
        snr = cumulative / (1 - cumulative)
        self.signal = cumulative.sqrt().float()
        self.noise = (1 - cumulative).sqrt().float()
        self.weight = (snr.clamp(max=SNR_CAP) / (snr + 1)).float()

    def loss(
        self,
        unet: Callable[..., tuple[torch.Tensor]],
        z: torch.Tensor,
        texts: torch.Tensor,
        noise: torch.Tensor,
        steps: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted loss and unweighted squared error of v, both means over the batch."""
        a, b = (table[steps].view(-1, 1, 1, 1) for table in (self.signal, self.noise))
        found = unet(a * z + b * noise, steps, texts, return_dict=False)[0]
        error = (found - (a * noise - b * z)).square().mean((1, 2, 3))
        weight = self.weight[steps]
        return (weight * error).mean() / self.weight.mean(), error.mean()


def check(run: runs.Run, objective: Objective, data: Latents, count: int = 96) -> dict[str, float]:
    """Unweighted v error of the averaged weights, on fixed rows, noises and steps.

    `fixed_STYLE` is the mean over `count` rows of a style, and `fixed` the mean over the styles.
    """
    source, chance = torch.Generator("cpu").manual_seed(5), np.random.default_rng(5)
    current = {k: v.clone() for k, v in run.modules.state_dict().items()}
    run.modules.load_state_dict(run.averaged())
    found: dict[str, float] = {}
    with torch.inference_mode():
        for style in sorted(set(data.style)):
            rows = chance.permutation(np.flatnonzero(data.style == style))[:count]
            z, texts = data.batch(rows, torch.zeros(len(rows), dtype=torch.bool))
            noise = torch.randn(z.shape, generator=source, device="cpu").to(z.device)
            steps = torch.randint(0, 1000, (len(rows),), generator=source, device="cpu").to(z.device)
            found[f"fixed_{style}"] = objective.loss(run.modules["unet"], z, texts, noise, steps)[1].item()
    run.modules.load_state_dict(current)
    return {"fixed": float(np.mean(list(found.values()))), **found}


class Tensors(nn.Module):
    """The denoiser as a function of tensors only, as CUDA graphs need it."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, steps: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """The found v, of the shape of `x`."""
        found: torch.Tensor = self.unet(x, steps, texts, return_dict=False)[0]
        return found


def graphed(unet: nn.Module, run: runs.Run) -> Denoiser:
    """The denoiser, forward and backward, as CUDA graphs of the batch size of `run`.

    Small networks on fast devices otherwise wait for the launch of each kernel.
    """
    count = run.args.batch
    latents = torch.zeros(count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    sample = (latents, torch.zeros(count, dtype=torch.int64), torch.zeros(count, MAX_TOKENS, WIDTH))
    x = sample[0].contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=run.args.bf16, cache_enabled=False):
        replay = torch.cuda.make_graphed_callables(Tensors(unet), (x, *sample[1:]), allow_unused_input=True)

    def call(x: torch.Tensor, steps: torch.Tensor, texts: torch.Tensor, **_: bool) -> tuple[torch.Tensor]:
        return (replay(x, steps, texts),)

    return call


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    runs.add_arguments(parser, rate=8e-4, batch=32, samples=1_000_000)
    parser.add_argument("--widths", type=int, nargs=2, default=(112, 224), help="channels of the two levels")
    parser.add_argument("--compile", action="store_true", help="train with torch.compile (needs a C++ compiler)")
    parser.add_argument("--graph", action="store_true", help="replay the network as a CUDA graph (needs CUDA)")
    parser.add_argument("--plain", type=int, default=3, help="how often plain rows occur for each other row")
    parser.add_argument("--drop", type=float, default=0.1, help="share of captions dropped")
    args = parser.parse_args()
    runs.prepare(args)
    unet = build(tuple(args.widths)).to(memory_format=torch.channels_last)
    run = runs.Run(args.runs / (args.name or "generator"), args, nn.ModuleDict({"unet": unet}), ema=0.9995)
    data, objective = Latents(args.runs), Objective()
    run.seeded()
    if args.bf16:
        unet.set_attn_processor(AttnProcessor())  # the fused one needs a fifth of the training time in bfloat16
    denoiser = torch.compile(unet, dynamic=False) if args.compile else graphed(unet, run) if args.graph else unet
    often = np.arange(len(data.latents)).repeat(np.where(data.plain, args.plain, 1))
    order = runs.batches(len(often), args.batch, args.seed, run.seen)
    while not run.over():
        z, texts = data.batch(often[next(order)], torch.rand(args.batch) < args.drop)
        z = z.contiguous(memory_format=torch.channels_last)
        with run.autocast():
            loss, plain = objective.loss(denoiser, z, texts, torch.randn_like(z), torch.randint(0, 1000, (len(z),)))
        run.step(loss, len(z))
        run.note(loss=loss, v_error=plain)
        if run.updates % 250 == 0:
            run.report(**(check(run, objective, data) if run.updates % 1000 == 0 else {}))
    run.report(**check(run, objective, data))
    run.finish(widths=list(args.widths))


if __name__ == "__main__":
    main()
