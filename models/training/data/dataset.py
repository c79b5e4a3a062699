"""Makes the training data in four steps.

    icons    install the icon sets with npm and render them (needs node; the only step that needs the network)
    scenes   compose the pictures and captions of the generator and of the scorers
    texts    encode the captions with the packaged sentence encoder
    latents  encode the generator's pictures with the trained autoencoder

An interrupted encoding of the generator's captions resumes.
"""

import argparse
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from models.training.data import icons, split
from models.training.data.captions import Captioner
from models.training.data.scenes import COMPOSED, PLAIN, SIZE_PX, Icons, Scene, SceneSampler, Thing, compose, variants


def write_pictures(scenes: list[Scene], source: Icons, path: Path) -> None:
    """Composes the scenes and writes uint8 (N, 64, 64, 3) to a .npy file."""
    table = np.lib.format.open_memmap(path, "w+", np.uint8, (len(scenes), SIZE_PX, SIZE_PX, 3))
    for i, scene in enumerate(scenes):
        table[i] = compose(scene, source)
        if i % 5000 == 0:
            print(f"{path.stem}: {i} of {len(scenes)}", flush=True)
    table.flush()


def as_json(scene: Scene) -> dict[str, Any]:
    """The scene as plain JSON values."""
    return {**dataclasses.asdict(scene), "stated": sorted(scene.stated)}


def from_json(row: dict[str, Any]) -> Scene:
    """The scene that `as_json` wrote; other keys are ignored."""
    things = tuple(Thing(**t) for t in row["things"])
    stated = frozenset(row["stated"])
    return Scene(things, row["style"], row["background"], row["size"], row["place"], stated, row.get("column", False))


def write_rows(scenes: list[Scene], path: Path, captioner: Captioner, negatives: bool, seed: int) -> None:
    """Writes one JSON line per picture: its scene and its caption.

    With `negatives`, a line also holds the caption of a near miss, or null.
    """
    rng = random.Random(seed)
    names = icons.pack_names()
    with path.open("w", encoding="utf-8") as out:
        for scene in scenes:
            row = {**as_json(scene), "caption": captioner.caption(scene)}
            if negatives:
                near = variants(scene, rng, names)
                row["negative"] = captioner.caption(rng.choice(near)) if near else None
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_rows` wrote."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def make_scenes(runs: Path, counts: dict[str, int], kinds: list[str], seed: int) -> None:
    """Composes the data sets, with the icon sets of `split`.

    Half of the things of scorers are mirrored.
    """
    folder = runs / "scenes"
    folder.mkdir(exist_ok=True)
    tags = {t.name: t.tags for t in icons.load_things(runs)}
    own: dict[str, split.Sets] = {"generator": split.GENERATOR, "scorer": split.SCORER, "second": split.SECOND}
    drawn = dataclasses.replace(COMPOSED, styles=split.GENERATOR_SHARES)
    ranked = dataclasses.replace(COMPOSED, styled=PLAIN.styled, mirrored=0.5)
    for offset, (kind, count) in enumerate(counts.items()):
        if kind not in kinds:
            continue
        styles = own[kind].trained
        source = icons.load_icons(runs, styles)
        mixture = drawn if kind == "generator" else ranked
        scenes = SceneSampler(source, icons.pack_names(), styles, seed + offset, mixture).draw(count)
        write_rows(scenes, folder / f"{kind}.jsonl", Captioner(seed + offset, tags), kind != "generator", seed)
        write_pictures(scenes, source, folder / f"{kind}.npy")


def make_texts(runs: Path, kinds: list[str]) -> None:
    """Encodes the distinct captions of each data set.

    `*.captions.json` holds their order.
    """
    from models.training.data import texts

    encoder = texts.TextEncoder()
    for kind in kinds:
        rows = read_rows(runs / "scenes" / f"{kind}.jsonl")
        captions = sorted({c for r in rows for c in (r["caption"], r.get("negative")) if c} | {""})
        (runs / "scenes" / f"{kind}.captions.json").write_text(json.dumps(captions), "utf-8")
        print(f"{kind}: {len(rows)} rows, {len(captions)} captions", flush=True)
        if kind == "generator":
            texts.cache_states(encoder, captions, runs / "scenes" / "generator.states.npy")
        else:
            texts.cache_pooled(encoder, captions, runs / "scenes" / f"{kind}.pooled.npy")


def make_latents(runs: Path, weights: Path, batch: int = 64) -> None:
    """Encodes the generator's pictures as float16 (N, 16, 8, 8)."""
    import torch

    from models.training.trainers import autoencoder as ae

    model = ae.build()
    state = torch.load(weights, weights_only=True)["modules"]
    model.load_state_dict(state)
    model.eval()
    pictures = np.load(runs / "scenes" / "generator.npy", mmap_mode="r")
    shape = (len(pictures), ae.LATENT_CHANNELS, ae.LATENT_SIZE, ae.LATENT_SIZE)
    table = np.lib.format.open_memmap(runs / "scenes" / "generator.latents.npy", "w+", np.float16, shape)
    with torch.inference_mode():
        for at in range(0, len(pictures), batch):
            table[at : at + batch] = model.encoder(ae.to_tensor(pictures[at : at + batch])).half().numpy()
    table.flush()
    some = table[:2000].astype(np.float32)
    print(f"latents of {len(table)} pictures: mean {some.mean():.3f}, deviation {some.std():.3f}")


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("icons", "scenes", "texts", "latents"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--generator-scenes", type=int, default=36_000)
    parser.add_argument("--scorer-scenes", type=int, default=60_000)
    parser.add_argument("--second-scenes", type=int, default=60_000)
    kinds = ("generator", *split.SCORERS)
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=kinds, help="data sets of the steps scenes and texts"
    )
    parser.add_argument(
        "--weights", type=Path, default=None, help="weights for the step latents (default: RUNS/autoencoder/final.pt)"
    )
    args = parser.parse_args()
    if args.step == "icons":
        icons.install(args.runs / "node")
        icons.render(args.runs)
    elif args.step == "scenes":
        counts = {kind: getattr(args, f"{kind}_scenes") for kind in kinds}
        make_scenes(args.runs, counts, args.kinds, args.seed)
    elif args.step == "texts":
        make_texts(args.runs, args.kinds)
    else:
        make_latents(args.runs, args.weights or args.runs / "autoencoder" / "final.pt")


if __name__ == "__main__":
    main()
