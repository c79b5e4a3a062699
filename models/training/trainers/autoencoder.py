"""Trains the autoencoder (AutoencoderTiny): 64x64 pictures, 8x8x16 latents.

Training pictures are composed of all things in all coloured styles, except held-out names; the figure is PSNR on those.
On the plateau of the rate, training uses crops of 32 px, which cost a quarter of the time. During the decay it uses
whole pictures. A loss term moves the latents to mean 0 and deviation 1 per channel. Noise is added to the latents, so
that small errors of the generator cause small errors in the picture.

`--decoder-only` freezes the encoder, so the latents stay unchanged while the pictures improve. `--anchor` trains the
encoder too, but keeps its latents close to the original ones, so that a trained generator can adapt.
"""

import argparse
import copy
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional

from models.training import runs
from models.training.data import icons
from models.training.data.palette import U8
from models.training.data.scenes import SIZE_PX, SceneSampler, compose

LATENT_CHANNELS, LATENT_SIZE = 16, 8
POOL = 40_000
"""Number of composed pictures to train on."""


def build() -> AutoencoderTiny:
    """The untrained network.

    All blocks have equal channels; most of the computation is at low resolution.
    """
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 1, 3, 4),
        num_decoder_blocks=(5, 4, 1, 0),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )


def held_out(name: str) -> bool:
    """Whether training excludes a thing.

    This holds for about one in sixteen of the names outside the pack.
    """
    return name not in set(icons.pack_names()) and hashlib.sha256(name.encode()).digest()[0] < 16


def to_tensor(pictures: U8) -> torch.Tensor:
    """uint8 (B, 64, 64, 3) -> float32 (B, 3, 64, 64) in [-1, 1], channels last.

    The result is on the default device.
    """
    table = torch.from_numpy(np.array(pictures)).to(torch.get_default_device())
    return table.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Pictures:
    """Composed pictures of the coloured sets, cached on disk.

    With `unseen`, the pool contains only the held-out names.
    """

    def __init__(self, folder: Path, seed: int, count: int, unseen: bool = False) -> None:
        path = folder / "scenes" / f"autoencoder-{'unseen' if unseen else 'seen'}-{seed}-{count}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            styles = tuple(style for style in icons.SETS if style not in icons.INKED)
            source = icons.load_icons(folder, styles)
            names = sorted({n for _, n in source if held_out(n) == unseen})
            scenes = SceneSampler(source, names, styles, seed).draw(count)
            np.save(path, np.stack([compose(s, source) for s in scenes]))
        self.pool: U8 = np.load(path)

    def batch(self, random: np.random.Generator, count: int, crop: int = SIZE_PX) -> torch.Tensor:
        """`count` random pictures, or square crops of `crop` px, mostly near the middle."""
        rows = random.integers(0, len(self.pool), count)
        room = SIZE_PX - crop
        if not room:
            return to_tensor(self.pool[rows])
        corners = random.triangular(0, room / 2, room, (count, 2)).round().astype(int)
        cut = [self.pool[r, y : y + crop, x : x + crop] for r, (y, x) in zip(rows, corners, strict=True)]
        return to_tensor(np.stack(cut))


def psnr(network: nn.ModuleDict, pictures: torch.Tensor) -> float:
    """Mean PSNR in dB over pictures, for values in the range 0 to 1."""
    with torch.inference_mode():
        found = network["decoder"](network["encoder"](pictures)).clamp(-1, 1)
        error = ((found - pictures) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def loss_of(network: nn.ModuleDict, x: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total loss, mean squared error, and latents of one batch."""
    z = network["encoder"](x).float()
    spread = z.transpose(0, 1).flatten(1)
    pull = spread.mean(1).square().mean() + spread.std(1).log().square().mean()
    y = network["decoder"](z + noise * torch.randn_like(z)).float()
    squared = functional.mse_loss(y, x)
    edges = (y.diff(dim=2) - x.diff(dim=2)).abs().mean() + (y.diff(dim=3) - x.diff(dim=3)).abs().mean()
    return 4 * squared + 0.5 * functional.l1_loss(y, x) + 0.25 * edges + 0.02 * pull, squared, z


def anchored(network: nn.ModuleDict, init: Path) -> nn.Module:
    """The frozen encoder with the weights in `init`."""
    first = copy.deepcopy(network)
    first.load_state_dict(runs.load(init)["modules"])
    return first["encoder"].requires_grad_(False)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    runs.add_arguments(parser, rate=1.5e-3, batch=24, samples=250_000)
    parser.add_argument("--noise", type=float, default=0.03, help="deviation of the noise on latents")
    parser.add_argument("--decoder-only", action="store_true", help="freeze the encoder and train the decoder")
    parser.add_argument("--anchor", type=float, default=0.0, help="weight of the distance to the latents of --init")
    args = parser.parse_args()
    runs.prepare(args)
    model = build()
    network = nn.ModuleDict({"encoder": model.encoder, "decoder": model.decoder}).to(memory_format=torch.channels_last)
    if args.decoder_only:
        network["encoder"].requires_grad_(False)
    run = runs.Run(args.runs / (args.name or "autoencoder"), args, network)
    first = anchored(network, args.init) if args.anchor else None
    pictures = Pictures(args.runs, args.seed, POOL)
    unseen = to_tensor(Pictures(args.runs, 7, 192, unseen=True).pool)
    random, crop = run.seeded(), 32
    while not run.over():
        if crop < SIZE_PX and run.schedule.left(run.seen, time.time()) < 1:
            crop, args.batch = SIZE_PX, max(args.batch // 3, 8)
        x = pictures.batch(random, args.batch, crop).contiguous(memory_format=torch.channels_last)
        with run.autocast():
            loss, squared, z = loss_of(network, x, args.noise)
            if first is not None:
                moved = functional.mse_loss(z, first(x).float())
                loss = loss + args.anchor * moved
                run.note(moved=moved)
        run.step(loss, len(x))
        run.note(loss=loss, psnr=-10 * (squared.detach() / 4).log10(), latent_std=z.detach().std())
        if run.updates % 300 == 0:
            run.report(unseen_psnr=psnr(network, unseen))
    current = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(run.averaged())
    final = psnr(network, unseen)
    network.load_state_dict(current)
    run.report(final_psnr=final)
    run.finish(psnr=final)


if __name__ == "__main__":
    main()
