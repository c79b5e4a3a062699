"""Trains the outside judge on four styles that the generator does not draw in, against the names of the pack.

A plain classifier over the names is trained beside it on the same image features and thrown away: without it the two
towers, both from scratch, found nothing to agree on for 25,000 pictures.
The figure is recall over the pack's names in the generator's own two styles, which the judge never sees.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.training import icons, judge, runs
from models.training.augment import augment
from models.training.captions import DISPLAY, SYNONYMS
from models.training.scenes import SceneSampler, compose
from models.training.train_autoencoder import to_tensor
from models.training.train_scorer import Table, Unseen, naming_loss, say


class Pool:
    """Composed pictures of the judge's styles with the places of their things among the names, cached on disk."""

    def __init__(self, folder: Path, table: Table, seed: int, count: int) -> None:
        path = folder / "scenes" / f"judge-{seed}-{count}.npz"
        if not path.exists():
            source = icons.load_icons(folder, icons.JUDGE_STYLES)
            scenes = SceneSampler(source, table.names, icons.JUDGE_STYLES, seed, pairs=0.15).draw(count)
            things = [[table.place[t.name] for t in (s.things * 2)[:2]] for s in scenes]
            np.savez(path, pictures=np.stack([compose(s, source) for s in scenes]), things=np.array(things))
        found = np.load(path)
        self.pictures, self.things = found["pictures"], torch.from_numpy(found["things"])


def spoken(rng: np.random.Generator, names: list[str]) -> list[str]:
    """A way to call each name: its label, display name or a trained synonym."""
    return [str(rng.choice([n, DISPLAY.get(n, n), DISPLAY.get(n, n), *SYNONYMS.get(n, [])])) for n in names]


def check(model: judge.Judge, table: Table, unseen: Unseen) -> dict[str, float]:
    """Recall in the unseen styles."""
    model.eval()
    with torch.inference_mode():
        image = torch.cat([model.images(x) for x in unseen.pictures.split(100)])
        found = unseen.recall(image, model.texts([say(n) for n in table.names]))
    model.train()
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    runs.add_arguments(parser, rate=1.5e-3, batch=64, samples=400_000)
    parser.add_argument("--out", type=Path, default=None, help="where the judge is stored (default: RUNS/judge)")
    args = parser.parse_args()
    runs.prepare(args)
    table = Table(args.runs)
    model, head = judge.Judge(), nn.Linear(judge.WIDTH, len(table.names))
    folder = args.runs / (args.name or "judge")
    run = runs.Run(folder, args, nn.ModuleDict({"judge": model, "head": head}), ema=0.998)
    pool, unseen = Pool(args.runs, table, args.seed + 40, 24_000), Unseen(args.runs, table, icons.JUDGE_UNSEEN)
    rng = run.seeded()
    order = runs.batches(len(pool.things), args.batch, args.seed, run.seen)
    while not run.over():
        rows = next(order)
        pictures = augment(to_tensor(pool.pictures[rows])).contiguous(memory_format=torch.channels_last)
        with run.autocast():
            features = model.image(pictures)
        features = features.float()
        named = naming_loss(model.logits(features, model.texts(spoken(rng, table.names))), pool.things[rows])
        classed = naming_loss(head(features), pool.things[rows])
        run.step(named + classed, len(rows))
        run.note(named=named.item(), classed=classed.item())
        if run.updates % 200 == 0:
            run.report(**check(model, table, unseen))
    run.modules.load_state_dict(run.averaged())
    figures = check(model, table, unseen)
    run.report(**{f"final_{k}": v for k, v in figures.items()})
    run.finish()
    judge.save(model, args.out or folder, {"pictures": run.seen, **figures})


if __name__ == "__main__":
    main()
