"""Samples races with a pack, so that the scorer can learn to score previews.

Writes RUNS/scenes/races.npz. For each caption it holds candidates, with their final pictures and their previews at the
steps in `STEPS`. It also holds the composed picture of the caption after encoding and decoding by the pack's
autoencoder. The pack may be unfinished, if its generator samples like the finished one.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.training import runs
from models.training.data.dataset import read_rows
from models.training.data.races import STEPS
from models.training.evaluation.sampling import Drawn, Pack

CANDIDATES = 8


def race(pack: Pack, captions: list[str], seeds: list[int]) -> Drawn:
    """`CANDIDATES` candidates of each caption, whose seeds begin at its own."""
    defaults = pack.meta["generator"]["defaults"]
    with torch.inference_mode():
        states = pack.encoder.states(["", *captions])
        own = states[1:].repeat_interleave(CANDIDATES, 0)
        x = pack.noise([seed + i for seed in seeds for i in range(CANDIDATES)])
        both = torch.cat([states[:1].expand_as(own), own])
        return pack.denoise(x, both, defaults["steps"], defaults["guidance_scale"], STEPS)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=None, help="the pack folder (default: RUNS/pack)")
    parser.add_argument("--captions", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--together", type=int, default=4, help="captions sampled at once")
    parser.add_argument("--device", default="cpu", help="where to sample: cpu, cuda")
    parser.add_argument("--seed", type=int, default=31)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs.use(args.device)
    pack = Pack(args.pack or args.runs / "pack")
    rows = read_rows(args.runs / "scenes" / "generator.jsonl")
    places = {row["caption"]: i for i, row in enumerate(rows)}
    pictures = np.load(args.runs / "scenes" / "generator.npy", mmap_mode="r")
    chosen = random.Random(args.seed).sample(sorted(places), args.captions)
    made: dict[str, list[Any]] = {"finals": [], "previews": [], "composed": []}
    for start in range(0, len(chosen), args.together):
        some = chosen[start : start + args.together]
        made["composed"].append(pack.rebuild(np.stack([pictures[places[caption]] for caption in some])))
        drawn = race(pack, some, [args.seed + 1000 * (start + i) for i in range(len(some))])
        apart = (len(some), CANDIDATES, *drawn.pictures.shape[1:])
        made["finals"].append(drawn.pictures.reshape(apart))
        made["previews"].append(np.stack([drawn.previews[s].reshape(apart) for s in STEPS], 2))
        print(f"races {start} of {len(chosen)}", flush=True)
    path = args.runs / "scenes" / "races.npz"
    finals, previews, composed = (np.concatenate(made[k]) for k in ("finals", "previews", "composed"))
    pooled = pack.encoder.pooled(chosen).cpu().numpy()
    np.savez(path, finals=finals, previews=previews, composed=composed, pooled=pooled)
    path.with_suffix(".captions.json").write_text(json.dumps(chosen), "utf-8")


if __name__ == "__main__":
    main()
