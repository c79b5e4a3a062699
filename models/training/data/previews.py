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

from models.training.data.dataset import read_rows
from models.training.data.races import STEPS
from models.training.evaluation.sampling import Pack

CANDIDATES = 8


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=None, help="the pack folder (default: RUNS/pack)")
    parser.add_argument("--captions", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=31)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pack = Pack(args.pack or args.runs / "pack")
    rows = read_rows(args.runs / "scenes" / "generator.jsonl")
    places = {row["caption"]: i for i, row in enumerate(rows)}
    pictures = np.load(args.runs / "scenes" / "generator.npy", mmap_mode="r")
    chosen = random.Random(args.seed).sample(sorted(places), args.captions)
    made: dict[str, list[Any]] = {"finals": [], "previews": [], "composed": []}
    for i, caption in enumerate(chosen):
        made["composed"].append(pack.rebuild(pictures[places[caption]][None])[0])
        drawn = pack.draw(caption, CANDIDATES, args.seed + 1000 * i, checkpoints=STEPS)
        made["finals"].append(drawn.pictures)
        made["previews"].append(np.stack([drawn.previews[s] for s in STEPS], 1))
        if i % 20 == 0:
            print(f"races {i} of {len(chosen)}", flush=True)
    path = args.runs / "scenes" / "races.npz"
    finals, previews, composed = (np.stack(made[k]) for k in ("finals", "previews", "composed"))
    pooled = pack.encoder.pooled(chosen).numpy()
    np.savez(path, finals=finals, previews=previews, composed=composed, pooled=pooled)
    path.with_suffix(".captions.json").write_text(json.dumps(chosen), "utf-8")


if __name__ == "__main__":
    main()
