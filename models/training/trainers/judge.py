"""Trains the independent judge on the names of the pack.

The judge trains on styles that no scorer uses (see `split`). A plain classifier over the names trains on the same
image features and is discarded afterwards. Without the classifier, the two towers, both with random initial weights,
made no progress for 25,000 pictures.

Pictures and their twins on another background or in another style must get equal logits. Candidates often differ in
little else, and the judge must compare their things, not these attributes. The figure is recall over the pack's names
in two of the generator's styles, which are excluded from the judge's training.
"""

import argparse
import dataclasses
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.training import runs
from models.training.data import icons, split
from models.training.data.augment import augment
from models.training.data.captions import DISPLAY, SYNONYMS
from models.training.data.scenes import Mixture, SceneSampler, compose, twins
from models.training.evaluation import judge
from models.training.trainers.autoencoder import to_tensor
from models.training.trainers.scorer import CHECKED, Table, Unseen, naming_loss, say

TWINS = 16
"""Pictures in each batch that are compared with their twins."""


class Pool:
    """Composed pictures of the judge's styles, each with a twin, cached on disk.

    `things` holds the indices of their things among the names.
    """

    def __init__(self, folder: Path, table: Table, seed: int, count: int) -> None:
        path = folder / "scenes" / f"judge-pairs-{seed}-{count}.npz"
        if not path.exists():
            source = icons.load_icons(folder, split.JUDGE.trained)
            sampler = SceneSampler(source, table.names, split.JUDGE.trained, seed, Mixture(pairs=0.15, mirrored=0.5))
            scenes = sampler.draw(count)
            things = [[table.place[t.name] for t in (s.things * 2)[:2]] for s in scenes]
            chance = random.Random(seed)
            free = [twins(dataclasses.replace(s, stated=frozenset()), source, split.JUDGE.trained) for s in scenes]
            pictures, others = (
                np.stack([compose(s, source) for s in some]) for some in (scenes, [chance.choice(t) for t in free])
            )
            np.savez(path, pictures=pictures, twins=others, things=np.array(things))
        found = np.load(path)
        self.pictures, self.twins = found["pictures"], found["twins"]
        self.things = torch.from_numpy(found["things"]).to(torch.get_default_device())


def spoken(rng: np.random.Generator, names: list[str]) -> list[str]:
    """A random text for each name.

    Half of the time it is the display name, otherwise the label or a trained synonym.
    """
    return [DISPLAY.get(n, n) if rng.random() < 0.5 else str(rng.choice([n, *SYNONYMS.get(n, [])])) for n in names]


def apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Distance between two sets of logits (B, N), a scalar.

    It is the mean of the Kullback-Leibler divergences in both directions.
    """
    first, second = one.log_softmax(1), other.log_softmax(1)
    both = functional.kl_div(first, second, log_target=True, reduction="batchmean") + functional.kl_div(
        second, first, log_target=True, reduction="batchmean"
    )
    return both / 2


def check(model: judge.Judge, table: Table, unseen: Unseen) -> dict[str, float]:
    """Recall in the unseen styles."""
    model.eval()
    with torch.inference_mode():
        image = torch.cat([model.images(x) for x in unseen.pictures.split(100)])
        found = unseen.recall(image, model.texts([say(n) for n in table.names]))
    model.train()
    return found


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    runs.add_arguments(parser, rate=1.5e-3, batch=64, samples=400_000)
    parser.add_argument("--out", type=Path, default=None, help="folder of the stored judge (default: RUNS/NAME)")
    args = parser.parse_args()
    runs.prepare(args)
    table = Table(args.runs)
    model, head = judge.Judge(), nn.Linear(judge.WIDTH, len(table.names))
    folder = args.runs / (args.name or "judge")
    run = runs.Run(folder, args, nn.ModuleDict({"judge": model, "head": head}), ema=0.998)
    pool = Pool(args.runs, table, args.seed + 40, 36_000)
    unseen = Unseen(args.runs, table, split.JUDGE.measured, 2 * CHECKED)
    rng = run.seeded()
    order = runs.batches(len(pool.things), args.batch, args.seed, run.seen)
    while not run.over():
        rows = next(order)
        plain, others = (to_tensor(some[rows[:TWINS]]) for some in (pool.pictures, pool.twins))
        pictures = torch.cat([augment(to_tensor(pool.pictures[rows])), plain, others])
        with run.autocast():
            features = model.image(pictures.contiguous(memory_format=torch.channels_last))
        logits = model.logits(features.float(), model.texts(spoken(rng, table.names)))
        things = pool.things[torch.from_numpy(rows).to(pool.things.device)]
        named = naming_loss(logits[: len(rows)], things)
        classed = naming_loss(head(features[: len(rows)].float()), things)
        moved = apart(*logits[len(rows) :].chunk(2))
        run.step(named + classed + moved, len(rows))
        run.note(named=named, classed=classed, moved=moved)
        if run.updates % 200 == 0:
            run.report(**check(model, table, unseen))
    run.modules.load_state_dict(run.averaged())
    figures = check(model, table, unseen)
    run.report(**{f"final_{k}": v for k, v in figures.items()})
    run.finish()
    judge.save(model, args.out or folder, {"pictures": run.seen, **figures})


if __name__ == "__main__":
    main()
