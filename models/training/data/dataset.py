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
import multiprocessing
import random
from pathlib import Path
from typing import Any

import numpy as np

from models.training.data import icons, split
from models.training.data.captions import Captioner
from models.training.data.palette import U8
from models.training.data.scenes import (
    COMPOSED,
    PLAIN,
    SIZE_PX,
    TOLD_COLOURS,
    Icons,
    Scene,
    SceneSampler,
    Thing,
    compose,
    twins,
    variants,
)

CHUNK = 500
"""Pictures that a process composes at a time."""


class Composer:
    """Composes pictures of the icons of `styles`, in this or several processes.

    Each process opens the icons itself.
    """

    icons: Icons

    def __init__(self, runs: Path, styles: tuple[str, ...], workers: int) -> None:
        opened = (runs, styles)
        self.pool = multiprocessing.Pool(workers, self._open, opened) if workers > 1 else None
        if self.pool is None:
            self._open(*opened)

    def close(self) -> None:
        """Ends the processes."""
        if self.pool is not None:
            self.pool.terminate()

    @staticmethod
    def _open(runs: Path, styles: tuple[str, ...]) -> None:
        Composer.icons = icons.load_icons(runs, styles)

    @staticmethod
    def _some(scenes: list[Scene]) -> U8:
        return np.stack([compose(scene, Composer.icons) for scene in scenes])

    def write(self, scenes: list[Scene], path: Path) -> None:
        """Composes the scenes and writes uint8 (N, 64, 64, 3) to a .npy file."""
        table = np.lib.format.open_memmap(path, "w+", np.uint8, (len(scenes), SIZE_PX, SIZE_PX, 3))
        chunks = [scenes[at : at + CHUNK] for at in range(0, len(scenes), CHUNK)]
        found = map(self._some, chunks) if self.pool is None else self.pool.imap(self._some, chunks)
        for i, made in enumerate(found):
            table[i * CHUNK : i * CHUNK + len(made)] = made
            if i % 10 == 0:
                print(f"{path.stem}: {i * CHUNK} of {len(scenes)}", flush=True)
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


def write_relatives(scenes: list[Scene], source: Icons, path: Path, composer: Composer, seed: int) -> None:
    """Writes a picture of a near miss and of a twin of each scene.

    A near miss differs in one attribute that the caption states; a twin only in attributes that it does not state.
    The pictures go to KIND.misses.npy and KIND.twins.npy, the rows that have them to KIND.relatives.npz.
    """
    rng, styles = random.Random(seed), sorted({style for style, _ in source})
    names = {s: [n for n in icons.pack_names() if (s, n) in source] for s in styles}
    coloured = [s for s in styles if s not in icons.INKED]
    rows = read_rows(path.with_suffix(".jsonl"))
    misses = [variants(scene, rng, names[scene.style]) for scene in scenes]
    alike = [
        twins(scene, source, styles if colourless(row) else coloured) for scene, row in zip(scenes, rows, strict=True)
    ]
    places = dict[str, Any]()
    for kind, found in (("misses", misses), ("twins", alike)):
        places[kind] = np.array([i for i, some in enumerate(found) if some])
        composer.write([rng.choice(found[i]) for i in places[kind]], path.with_suffix(f".{kind}.npy"))
    np.savez(path.with_suffix(".relatives.npz"), **places)


def colourless(row: dict[str, Any]) -> bool:
    """Whether a row states no colour of a thing.

    This applies to its caption and to the names of its things.
    """
    told = [w for w in row["caption"].replace(",", " ").split() if w in TOLD_COLOURS]
    named = any(TOLD_COLOURS & set(t["name"].split()) for t in row["things"])
    return not named and len(told) <= ("background" in row["stated"])


def make_scenes(runs: Path, counts: dict[str, int], kinds: list[str], seed: int, workers: int) -> None:
    """Composes the data sets, with the icon sets of `split`.

    Half of the things of scorers are mirrored. The pictures of scorers have relatives.
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
        composer = Composer(runs, styles, workers)
        composer.write(scenes, folder / f"{kind}.npy")
        if kind != "generator":
            write_relatives(scenes, source, folder / f"{kind}.npy", composer, seed)
        composer.close()


def make_texts(runs: Path, kinds: list[str]) -> None:
    """Encodes the distinct captions of each data set.

    `*.captions.json` holds their order.
    """
    from models.training.data import texts

    encoder = texts.TextEncoder()
    batch = 64 if encoder.model.device.type == "cpu" else 1024
    for kind in kinds:
        rows = read_rows(runs / "scenes" / f"{kind}.jsonl")
        captions = sorted({c for r in rows for c in (r["caption"], r.get("negative")) if c} | {""})
        (runs / "scenes" / f"{kind}.captions.json").write_text(json.dumps(captions), "utf-8")
        print(f"{kind}: {len(rows)} rows, {len(captions)} captions", flush=True)
        if kind == "generator":
            texts.cache_states(encoder, captions, runs / "scenes" / "generator.states.npy", batch)
        else:
            texts.cache_pooled(encoder, captions, runs / "scenes" / f"{kind}.pooled.npy", batch)


def make_latents(runs: Path, weights: Path, batch: int = 64) -> None:
    """Encodes the generator's pictures as float16 (N, 16, 8, 8)."""
    import torch

    from models.training.runs import load
    from models.training.trainers import autoencoder as ae

    model = ae.build()
    state = load(weights)["modules"]
    model.load_state_dict(state)
    model.eval().to(torch.get_default_device())
    pictures = np.load(runs / "scenes" / "generator.npy", mmap_mode="r")
    shape = (len(pictures), ae.LATENT_CHANNELS, ae.LATENT_SIZE, ae.LATENT_SIZE)
    table = np.lib.format.open_memmap(runs / "scenes" / "generator.latents.npy", "w+", np.float16, shape)
    with torch.inference_mode():
        for at in range(0, len(pictures), batch):
            table[at : at + batch] = model.encoder(ae.to_tensor(pictures[at : at + batch])).half().cpu().numpy()
    table.flush()
    some = table[:2000].astype(np.float32)
    print(f"latents of {len(table)} pictures: mean {some.mean():.3f}, deviation {some.std():.3f}")


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("icons", "scenes", "texts", "latents"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--workers", type=int, default=1, help="processes that compose pictures")
    parser.add_argument("--device", default="cpu", help="where texts and latents are encoded: cpu, cuda")
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
        return
    if args.step == "scenes":
        counts = {kind: getattr(args, f"{kind}_scenes") for kind in kinds}
        make_scenes(args.runs, counts, args.kinds, args.seed, args.workers)
        return
    from models.training import runs

    runs.use(args.device)
    if args.step == "texts":
        make_texts(args.runs, args.kinds)
    else:
        make_latents(args.runs, args.weights or args.runs / "autoencoder" / "final.pt")


if __name__ == "__main__":
    main()
