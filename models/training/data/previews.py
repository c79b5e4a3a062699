"""Samples races with a pack, so that the scorer can learn to score previews.

Writes RUNS/scenes/races.npz. For each caption it holds candidates, with their final pictures and their previews at the
steps in `STEPS`. It also holds the composed picture of the caption after encoding and decoding by the pack's
autoencoder. Pixel checks give the share of the stated attributes that each final picture shows. The pack may be
unfinished, if its generator samples like the finished one.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.training import runs
from models.training.data.dataset import from_json, read_rows
from models.training.data.palette import U8
from models.training.data.races import STEPS
from models.training.data.scenes import Scene
from models.training.evaluation import checks
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


def choose(scenes: dict[str, Scene], count: int, composed: float, seed: int) -> list[str]:
    """Captions to sample races of, in random order.

    The share `composed` of them is of several things; the others are of one.
    """
    rng, wanted = random.Random(seed), round(count * composed)
    several = sorted(caption for caption, scene in scenes.items() if len(scene.things) > 1)
    single = sorted(caption for caption, scene in scenes.items() if len(scene.things) == 1)
    chosen = rng.sample(several, wanted) + rng.sample(single, count - wanted)
    rng.shuffle(chosen)
    return chosen


def shown(pictures: U8, scene: Scene) -> list[float]:
    """Share of the checked attributes that each picture shows.

    `pictures`: uint8 (N, 64, 64, 3). The share is 1 where nothing can be checked.
    """
    found = [list(checks.attributes(picture, scene).values()) for picture in pictures]
    return [float(np.mean(rights)) if rights else 1.0 for rights in found]


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=None, help="the pack folder (default: RUNS/pack)")
    parser.add_argument("--captions", type=int, default=400)
    parser.add_argument("--composed", type=float, default=0.6, help="share of captions of several things")
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
    scenes = {caption: from_json(rows[place]) for caption, place in places.items()}
    chosen = choose(scenes, args.captions, args.composed, args.seed)
    made: dict[str, list[Any]] = {"finals": [], "previews": [], "composed": [], "shown": []}
    for start in range(0, len(chosen), args.together):
        some = chosen[start : start + args.together]
        made["composed"].append(pack.rebuild(np.stack([pictures[places[caption]] for caption in some])))
        drawn = race(pack, some, [args.seed + 1000 * (start + i) for i in range(len(some))])
        apart = (len(some), CANDIDATES, *drawn.pictures.shape[1:])
        made["finals"].append(drawn.pictures.reshape(apart))
        made["shown"].append([shown(p, scenes[c]) for c, p in zip(some, made["finals"][-1], strict=True)])
        made["previews"].append(np.stack([drawn.previews[s].reshape(apart) for s in STEPS], 2))
        print(f"races {start} of {len(chosen)}", flush=True)
    path = args.runs / "scenes" / "races.npz"
    found: dict[str, Any] = {kind: np.concatenate(parts) for kind, parts in made.items()}
    np.savez(path, pooled=pack.encoder.pooled(chosen).cpu().numpy(), **found)
    path.with_suffix(".captions.json").write_text(json.dumps(chosen), "utf-8")


if __name__ == "__main__":
    main()
