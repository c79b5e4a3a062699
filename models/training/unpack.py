"""Converts a pack to the weights of its runs.

A trainer starts from them with `--init`, and `export` accepts them. A pack does not contain the optimizer states or the
classifiers of scorer and judge; these are initialised again.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from models.training import runs


def states(pack: Path, judge: Path | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of every network by kind, in float32, with their training names.

    `judge` adds the weights of a stored judge.
    """
    generator = pack / "generator"
    named = {
        "autoencoder": load_file(generator / "vae" / "diffusion_pytorch_model.safetensors"),
        "generator": {
            f"unet.{name}": tensor
            for name, tensor in load_file(generator / "unet" / "diffusion_pytorch_model.safetensors").items()
        },
    }
    for kind in ("scorer", "second"):
        if (file := pack / kind / "open_clip_model.safetensors").exists():
            named[kind] = {
                name.replace("text.proj.", "proj.").replace("logit_scale", "scale.logit_scale"): tensor
                for name, tensor in load_file(file).items()
            }
    if judge is not None:
        named["judge"] = {f"judge.{name}": tensor for name, tensor in load_file(judge / "judge.safetensors").items()}
    return {kind: {k: v.float() if v.is_floating_point() else v for k, v in s.items()} for kind, s in named.items()}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=None, help="the pack folder (default: RUNS/pack)")
    parser.add_argument("--judge", type=Path, default=None, help="folder of a stored judge to convert too")
    args = parser.parse_args()
    out: Path = args.runs / "unpacked"
    out.mkdir(parents=True, exist_ok=True)
    for kind, state in states(args.pack or args.runs / "pack", args.judge).items():
        runs.write({"modules": state}, out / f"{kind}.pt")
        print(out / f"{kind}.pt")


if __name__ == "__main__":
    main()
