"""Compares values of the guidance on one pack, with the same prompts and seeds.

A third of the prompts are known things, a third single things with two attributes, a third several things. For each
value the output holds means over prompts, and the mean difference to the first value with its standard error. `judge`
is the judge's log-probability of the things, and `pixels` the share of pictures that show every stated attribute. Both
are given for a random pick and for the best of the field. `cosine` is the mean similarity of two candidates, and
`spread` their distance by pixels. `preview_K` is the rank correlation of the scores after K steps with the final ones.
An interrupted comparison resumes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.training.data.scenes import Mixture, SceneSampler
from models.training.evaluation import checks, fields, prompts
from models.training.evaluation.evaluate import Evaluation, Prompts, shown, spearman
from models.training.evaluation.sampling import Pack

CHECKPOINTS = (2, 4, 6, 8, 10, 12)


def asked(run: Evaluation, count: int) -> Prompts:
    """`count` prompts of the three kinds in turn."""
    each = -(-count // 3)
    plain = SceneSampler(run.icons, run.table.names, prompts.STYLES, 79, Mixture(pairs=0.0))
    several = SceneSampler(run.icons, run.table.names, prompts.STYLES, 80, prompts.COMPOSITIONS)
    kinds = (
        prompts.known(run.table.names, each),
        prompts.single(plain, each, 2),
        prompts.composition(several, each),
    )
    return [prompt for turn in zip(*kinds, strict=True) for prompt in turn][:count]


def measure(run: Evaluation, prompt: prompts.Prompt, place: int, candidates: int, value: float) -> dict[str, float]:
    """The figures of one field."""
    drawn = run.pack.draw(prompt.text, candidates, candidates * place, checkpoints=CHECKPOINTS, guidance=value)
    embedded = run.pack.embed_pictures(drawn.pictures)
    scores = (embedded @ run.pack.embed_texts([prompt.text]).T).cpu().numpy()[:, 0]
    best = int(scores.argmax())
    logp = run.judged(drawn.pictures)
    own = logp[:, [run.table.place[n] for n in prompt.names]].mean(1)
    top = run.holds(logp, prompt.names).float()
    alike = (embedded @ embedded.T)[~torch.eye(candidates, dtype=torch.bool)]
    found = {
        "score": float(scores.mean()),
        "judge": float(own.mean()),
        "judge_best": float(own[best]),
        "top5": float(top.mean()),
        "top5_best": float(top[best]),
        "cosine": float(alike.mean()),
        "spread": fields.spread(drawn.pictures),
        "score_deviation": float(scores.std()),
    }
    if prompt.scene is not None:
        rights = [checks.attributes(p, prompt.scene) for p in drawn.pictures]
        found |= {"pixels": shown(rights), "pixels_best": shown([rights[best]])}
    for step, previews in drawn.previews.items():
        found[f"preview_{step}"] = spearman(run.pack.scores(previews, prompt.text), scores)
    return found


def summary(rows: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    """Means, and differences to `base` with standard errors.

    Each figure covers the prompts that have it.
    """
    out: dict[str, Any] = {}
    for key in dict.fromkeys(k for row in rows for k in row):
        pairs = np.array([(row[key], first[key]) for row, first in zip(rows, base, strict=True) if key in row])
        difference = pairs[:, 0] - pairs[:, 1]
        error = float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else 0.0
        out[key] = {
            "mean": round(float(pairs[:, 0].mean()), 4),
            "difference": round(float(difference.mean()), 4),
            "error": round(error, 4),
        }
    return out


def kept(out: Path, values: Sequence[float], candidates: int) -> dict[float, list[dict[str, float]]]:
    """The rows of an interrupted comparison with the same values and candidates.

    Without one, there are none.
    """
    found = json.loads(out.read_text("utf-8")) if out.exists() else {}
    rows = found.get("rows", {})
    if found.get("candidates") != candidates or list(rows) != [f"{value:g}" for value in values]:
        return {value: [] for value in values}
    return {value: rows[f"{value:g}"] for value in values}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=Path("models/packs/pictogram"))
    parser.add_argument("--judge", type=Path, default=Path("tests/bench/judge"), help="folder of the judge")
    parser.add_argument("--values", type=float, nargs="+", default=(1.25, 1.5, 2.0, 2.5), help="the first is the base")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None, help="file (default: RUNS/figures/guidance.json)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out: Path = args.out or args.runs / "figures" / "guidance.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    run = Evaluation(Pack(args.pack), args.judge, args.runs, 1.0)
    rows = kept(out, args.values, args.candidates)
    for place, prompt in enumerate(asked(run, args.prompts)):
        if place < len(rows[args.values[0]]):
            continue
        for value in args.values:
            rows[value].append(measure(run, prompt, place, args.candidates, value))
        figures = {f"{value:g}": summary(found, rows[args.values[0]]) for value, found in rows.items()}
        told = {"prompts": place + 1, "candidates": args.candidates, "guidance": figures}
        every = {f"{value:g}": found for value, found in rows.items()}
        out.write_text(json.dumps({**told, "rows": every}, indent=1) + "\n", "utf-8")
    print(out)


if __name__ == "__main__":
    main()
