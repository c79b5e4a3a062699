"""Computes the figures of a pack and writes them as JSON, with sheets as PNG.

Each prompt of a part gets 16 candidates, with seeds that no other prompt of the part has. The figure "random" is the
mean over the 16, and "best" is that of the candidate with the highest score. The figure "any" is how often at least one
of the 16 passes: the upper bound of any choice. The judge is independent of the scorer: its weights and vocabulary
differ. `--share` takes a part of every prompt list.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from models.training.data import icons
from models.training.data.palette import U8
from models.training.data.scenes import SceneSampler
from models.training.evaluation import checks, judge, prompts
from models.training.evaluation.sampling import Drawn, Pack
from models.training.trainers.autoencoder import Pictures, to_tensor
from models.training.trainers.scorer import Table, Unseen, say

CANDIDATES = 16
PARTS = ("costs", "autoencoder", "scorer", "arbiter", "known", "composed", "negative", "synonyms")
JUDGED = {"arbiter", "known", "synonyms"}
"""Parts that need the judge."""

LOAD = """
import sys, time
import torch
started = time.perf_counter()
from models import registry
registry.load_models(sys.argv[1], sys.argv[1], "cpu")
print(time.perf_counter() - started)
"""
"""Loads both models in a process; prints the seconds without torch's import."""

Prompts = list[prompts.Prompt]


class Evaluation:
    """One pack and one set of run data.

    The parts in JUDGED also need a judge in `judge_folder`.
    """

    def __init__(self, pack: Pack, judge_folder: Path, runs: Path, share: float) -> None:
        self.pack, self.judge_folder, self.runs, self.share = pack, judge_folder, runs, share
        self.table = Table(runs)
        self.steps = pack.meta["generator"]["defaults"]["steps"]
        self.icons = icons.load_icons(runs, icons.GENERATOR_STYLES)
        self.sheets: dict[str, list[U8]] = {}
        self.captions: dict[str, list[str]] = {}

    @functools.cached_property
    def judge(self) -> judge.Judge:
        """The judge, loaded at first use."""
        return judge.load(self.judge_folder)

    @functools.cached_property
    def names(self) -> torch.Tensor:
        """The judge's embeddings of all names."""
        with torch.inference_mode():
            return self.judge.texts([say(n) for n in self.table.names])

    def some(self, every: Prompts) -> Prompts:
        """The first `share` of a list, but at least four prompts."""
        return every[: max(4, round(len(every) * self.share))]

    def judged(self, pictures: U8) -> torch.Tensor:
        """Log-probabilities (B, names) by the judge."""
        with torch.inference_mode():
            return self.judge.logits(self.judge.image(to_tensor(pictures)), self.names).log_softmax(1)

    def holds(self, logp: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        """Whether the judge's top five contain every name: bool (B,)."""
        top = logp.topk(5, dim=1).indices
        return torch.stack([(top == self.table.place[n]).any(1) for n in names]).all(0)

    def draw(self, place: int, prompt: prompts.Prompt, negative: str = "", checkpoints: tuple[int, ...] = ()) -> Drawn:
        """The candidates of the prompt at index `place` of its list."""
        return self.pack.draw(prompt.text, CANDIDATES, CANDIDATES * place, negative, checkpoints)

    def keep(self, sheet: str, prompt: prompts.Prompt, pictures: U8) -> None:
        """Adds five pictures of a prompt to a sheet."""
        self.sheets.setdefault(sheet, []).append(pictures)
        self.captions.setdefault(sheet, []).append(prompt.text)

    def costs(self) -> dict[str, float]:
        """Size of the pack in MiB, load time in seconds, times per row in ms.

        The times per row are of a guided step and of the image tower, at batch 16. Times are medians: of three loads
        in separate processes, without torch's import, and of nine calls.
        """
        size = sum(f.stat().st_size for f in self.pack.folder.rglob("*") if f.is_file())
        command = [sys.executable, "-c", LOAD, str(self.pack.folder)]
        loads = [float(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(3)]
        states = self.pack.encoder.states(["", "a cat"]).repeat_interleave(CANDIDATES, 0)
        x, pictures = torch.randn(2 * CANDIDATES, 16, 8, 8), torch.rand(CANDIDATES, 3, 64, 64)
        with torch.inference_mode():
            step = milliseconds(lambda: self.pack.unet(x, 500, states, return_dict=False)) / CANDIDATES
            tower = milliseconds(lambda: self.pack.scorer.visual(pictures)) / CANDIDATES
        return {"mib": size / 2**20, "load_s": statistics.median(loads), "step_ms": step, "tower_ms": tower}

    def autoencoder(self) -> dict[str, float]:
        """PSNR in dB on things excluded from training, with the stored float16 weights."""
        pictures = to_tensor(Pictures(self.runs, 7, 192, unseen=True).pool)
        with torch.inference_mode():
            found = self.pack.vae.decoder(self.pack.vae.encoder(pictures)).clamp(-1, 1)
        error = ((found - pictures) / 2).square().mean((1, 2, 3))
        return {"psnr_db": float((-10 * error.log10()).mean())}

    def scorer(self) -> dict[str, float]:
        """Retrieval in a style excluded from training, and background accuracy.

        The background accuracy is the share of stated backgrounds that rank first among eleven.
        """
        unseen = Unseen(self.runs, self.table, (icons.SCORER_UNSEEN,))
        with torch.inference_mode():
            image = torch.cat([self.pack.scorer.visual(x) for x in unseen.pictures.split(100)])
            image = functional.normalize(image, dim=-1)
            names = functional.normalize(self.pack.scorer.text.proj(self.table.bare), dim=-1)
            on = functional.normalize(self.pack.scorer.text.proj(self.table.on[unseen.target]), dim=-1)
        right = (on @ image[:, :, None])[..., 0].argmax(1) == unseen.background
        return {**unseen.recall(image, names), "background": float(right.float().mean())}

    def arbiter(self) -> dict[str, float]:
        """The judge's recall in the generator's styles, which its training excludes."""
        unseen = Unseen(self.runs, self.table, icons.JUDGE_UNSEEN)
        with torch.inference_mode():
            return unseen.recall(torch.cat([self.judge.images(x) for x in unseen.pictures.split(100)]), self.names)

    def known(self) -> dict[str, Any]:
        """Figures of known things.

        They measure whether the judge names the things, and whether it prefers the best to a random other candidate.
        They also measure whether previews and final pictures rank alike.
        """
        marks = {4: self.steps // 4, 8: self.steps // 2}
        hits: list[tuple[float, bool, bool]] = []
        prefers: list[float] = []
        ranks: dict[int, list[float]] = {k: [] for k in marks}
        for place, prompt in enumerate(self.some(prompts.known(self.table.names, 200))):
            drawn = self.draw(place, prompt, checkpoints=tuple(marks.values()))
            scores = self.pack.scores(drawn.pictures, prompt.text)
            best = int(scores.argmax())
            logp = self.judged(drawn.pictures)
            found = self.holds(logp, prompt.names)
            hits.append((float(found.float().mean()), bool(found[best]), bool(found.any())))
            others = [i for i in range(CANDIDATES) if i != best]
            own = logp[:, self.table.place[prompt.names[0]]]
            prefers.append(float((own[best] > own[others]).float().mean()))
            for k, step in marks.items():
                ranks[k].append(spearman(self.pack.scores(drawn.previews[step], prompt.text), scores))
            self.keep("known", prompt, in_order(drawn, scores))
        random_pick, best_of, any_of = np.mean(hits, axis=0).tolist()
        return {
            "prompts": len(hits),
            "random_top5": random_pick,
            "best_top5": best_of,
            "any_top5": any_of,
            "judge_prefers_best": float(np.mean(prefers)),
            "spearman_25": float(np.mean(ranks[4])),
            "spearman_50": float(np.mean(ranks[8])),
        }

    def composed(self) -> dict[str, Any]:
        """Shares of pictures that show two or more stated attributes, by pixel checks."""
        sampler = SceneSampler(self.icons, self.table.names, icons.GENERATOR_STYLES, seed=77, pairs=0.3)
        every, best_of, any_of = list[dict[str, bool]](), list[dict[str, bool]](), list[bool]()
        for place, prompt in enumerate(self.some(prompts.composed(sampler, 100))):
            assert prompt.scene is not None
            drawn = self.draw(place, prompt)
            scores = self.pack.scores(drawn.pictures, prompt.text)
            each = [checks.attributes(p, prompt.scene) for p in drawn.pictures]
            every += each
            best_of.append(each[int(scores.argmax())])
            any_of.append(any(all(rights.values()) for rights in each))
            self.keep("composed", prompt, in_order(drawn, scores))
        shares = {"random": shown(every), "best": shown(best_of), "any": float(np.mean(any_of))}
        return {"prompts": len(best_of), **shares, "random_by_kind": by_kind(every), "best_by_kind": by_kind(best_of)}

    def negative(self) -> dict[str, Any]:
        """Share of yellow backgrounds in the top three.

        It is measured without and with the negative prompt.
        """
        yellow: dict[str, list[float]] = {"": [], "on a yellow background": []}
        for place, prompt in enumerate(self.some(prompts.open_background(self.table.names, 40))):
            for negative, shares in yellow.items():
                drawn = self.draw(place, prompt, negative)
                order = np.argsort(-self.pack.scores(drawn.pictures, prompt.text, negative))[:3]
                shares.append(float(np.mean([checks.background(drawn.pictures[i]) == "yellow" for i in order])))
        without, with_it = (float(np.mean(v)) for v in yellow.values())
        return {"yellow_without": without, "yellow_with": with_it, "ratio": with_it / without if without else None}

    def synonyms(self) -> dict[str, Any]:
        """Recall of synonyms excluded from training, best of 16."""
        hits = []
        for place, prompt in enumerate(self.some(prompts.synonyms())):
            drawn = self.draw(place, prompt)
            scores = self.pack.scores(drawn.pictures, prompt.text)
            hits.append(bool(self.holds(self.judged(drawn.pictures), prompt.names)[int(scores.argmax())]))
            self.keep("synonyms", prompt, in_order(drawn, scores))
        return {"prompts": len(hits), "best_top5": float(np.mean(hits))}


def milliseconds(call: Callable[[], object]) -> float:
    """Median time in ms of nine calls, after one warm-up call."""
    times = [time.perf_counter()]
    for _ in range(10):
        call()
        times.append(time.perf_counter())
    return 1000 * statistics.median(np.diff(times)[1:].tolist())


def shown(pictures: list[dict[str, bool]]) -> float:
    """Share of pictures that show every attribute."""
    return float(np.mean([all(rights.values()) for rights in pictures]))


def by_kind(pictures: list[dict[str, bool]]) -> dict[str, float]:
    """Share of pictures that show each kind of attribute.

    Only pictures with a check of that kind count.
    """
    kinds = {kind: [p[kind] for p in pictures if kind in p] for p in pictures for kind in p}
    return {kind: round(float(np.mean(rights)), 3) for kind, rights in kinds.items()}


def in_order(drawn: Drawn, scores: np.ndarray[Any, Any]) -> U8:
    """The random pick, then the best four: (5, 64, 64, 3)."""
    return drawn.pictures[[0, *np.argsort(-scores)[:4]]]


def spearman(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Rank correlation of two score lists."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def write_sheet(rows: list[U8], path: Path, columns: int = 3, scale: int = 2) -> None:
    """Writes a sheet as PNG, `columns` groups per line, at most 20 lines.

    A group is the five pictures of one prompt: random pick, gap, best four.
    """
    gap = np.full((64, 4, 3), 255, np.uint8)
    groups = [np.concatenate([r[0], gap, *r[1:], gap, gap], 1) for r in rows[: columns * 20]]
    groups += [np.full_like(groups[0], 255)] * (-len(groups) % columns)
    lines = [np.concatenate(groups[i : i + columns], 1) for i in range(0, len(groups), columns)]
    sheet = np.concatenate(lines, 0)
    Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=None, help="the pack folder (default: RUNS/pack)")
    parser.add_argument("--judge", type=Path, default=None, help="folder of the judge (default: RUNS/judge)")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder of figures.json and sheets (default: RUNS/figures)"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of every prompt list")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=None, help="measure only these parts again: " + " ".join(PARTS)
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out: Path = args.out or args.runs / "figures"
    out.mkdir(parents=True, exist_ok=True)
    pack = Pack(args.pack or args.runs / "pack")
    run = Evaluation(pack, args.judge or args.runs / "judge", args.runs, args.share)
    judged = (run.judge_folder / "judge.safetensors").exists()
    if not judged:
        print(f"no judge in {run.judge_folder}: skipping {', '.join(sorted(JUDGED))}", flush=True)
    kept = out / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text("utf-8")) if args.only and kept.exists() else {}
    for part in args.only or [p for p in PARTS if judged or p not in JUDGED]:
        started = time.monotonic()
        figures[part] = getattr(run, part)()
        print(part, json.dumps(figures[part]), f"{time.monotonic() - started:.0f} s", flush=True)
        kept.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    for name, rows in run.sheets.items():
        write_sheet(rows, out / f"{name}.png")
        (out / f"{name}.txt").write_text("\n".join(run.captions[name]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
