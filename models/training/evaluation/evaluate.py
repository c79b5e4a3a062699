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

from models.training.data import icons, split
from models.training.data.palette import U8
from models.training.data.scenes import Mixture, SceneSampler
from models.training.evaluation import checks, fields, judge, layouts, prompts, wordings
from models.training.evaluation.sampling import Drawn, Pack
from models.training.runs import use
from models.training.trainers.autoencoder import Pictures, to_tensor
from models.training.trainers.scorer import Table, Unseen, say

CANDIDATES = 16
PARTS = (
    *("costs", "autoencoder", "scorer", "arbiter", "known", "composed", "composition", "field", "negative", "synonyms"),
    *("russian", "spread", "languages", "layout"),
)
JUDGED = {"arbiter", "known", "synonyms", "russian", "spread"}
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

    def __init__(self, pack: Pack, judge_folder: Path, runs: Path, share: float, base: Path | None = None) -> None:
        self.pack, self.judge_folder, self.runs, self.share, self.base = pack, judge_folder, runs, share, base
        self.table = Table(runs)
        self.steps = pack.meta["generator"]["defaults"]["steps"]
        self.icons = icons.load_icons(runs, fields.SETS)
        self.sheets: dict[str, list[U8]] = {}
        self.captions: dict[str, list[str]] = {}

    @functools.cached_property
    def judge(self) -> judge.Judge:
        """The judge, loaded at first use."""
        return judge.load(self.judge_folder).to(torch.get_default_device())

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
        """Adds a row of pictures of a prompt to a sheet."""
        self.sheets.setdefault(sheet, []).append(pictures)
        self.captions.setdefault(sheet, []).append(prompt.text)

    def costs(self) -> dict[str, float]:
        """Size of the pack in MiB, load time in seconds, times per row in ms.

        The times per row are of a guided step and of the image tower, at batch 16. Times are medians: of three loads
        in separate processes, without torch's import, and of nine calls. `step_ratio` is the time of a step divided by
        that of the pack `base`, measured in turns.
        """
        size = sum(f.stat().st_size for f in self.pack.folder.rglob("*") if f.is_file())
        command = [sys.executable, "-c", LOAD, str(self.pack.folder)]
        loads = [float(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(3)]
        steps = [guided_step(pack) for pack in (self.pack, *([Pack(self.base)] if self.base else []))]
        pictures = torch.rand(CANDIDATES, 3, 64, 64)
        with torch.inference_mode():
            found = milliseconds(*steps, lambda: self.pack.scorer.visual(pictures))
        each = [ms / CANDIDATES for ms in found]
        ratio = {"step_ratio": each[0] / each[1]} if self.base else {}
        loaded = statistics.median(loads)
        return {"mib": size / 2**20, "load_s": loaded, "step_ms": each[0], "tower_ms": each[-1], **ratio}

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
        unseen = Unseen(self.runs, self.table, split.SCORER.measured)
        with torch.inference_mode():
            image = torch.cat([self.pack.scorer.visual(x) for x in unseen.pictures.split(100)])
            image = functional.normalize(image, dim=-1)
            names = functional.normalize(self.pack.scorer.text.proj(self.table.bare), dim=-1)
            on = functional.normalize(self.pack.scorer.text.proj(self.table.on[unseen.target]), dim=-1)
        right = (on @ image[:, :, None])[..., 0].argmax(1) == unseen.background
        return {**unseen.recall(image, names), "background": float(right.float().mean())}

    def arbiter(self) -> dict[str, float]:
        """The judge's recall in generator styles that its training excludes."""
        unseen = Unseen(self.runs, self.table, split.JUDGE.measured)
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
            **fields.gain([h[0] for h in hits], [h[1] for h in hits]),
            "judge_prefers_best": float(np.mean(prefers)),
            "spearman_25": float(np.mean(ranks[4])),
            "spearman_50": float(np.mean(ranks[8])),
        }

    def composed(self) -> dict[str, Any]:
        """Shares of pictures that show two or more stated attributes, by pixel checks."""
        sampler = SceneSampler(self.icons, self.table.names, prompts.STYLES, 77, Mixture(pairs=0.3))
        return self.checked("composed", prompts.composed(sampler, 100))

    def composition(self) -> dict[str, Any]:
        """The same for several things, with colours, a number or an order."""
        sampler = SceneSampler(self.icons, self.table.names, prompts.STYLES, 78, prompts.COMPOSITIONS)
        return self.checked("composition", prompts.composition(sampler, 100))

    def checked(self, part: str, asked: Prompts) -> dict[str, Any]:
        """Shares of pictures that show every stated attribute.

        They are those of a random pick, of the best, and of any in the field. `ordered` is the mean of
        `fields.ordered` over the `mixed` fields, .5 by chance.
        """
        every, best_of = list[list[dict[str, bool]]](), list[dict[str, bool]]()
        orders: list[float | None] = []
        for place, prompt in enumerate(self.some(asked)):
            assert prompt.scene is not None
            drawn = self.draw(place, prompt)
            scores = self.pack.scores(drawn.pictures, prompt.text)
            every.append([checks.attributes(p, prompt.scene) for p in drawn.pictures])
            orders.append(fields.ordered(scores, [all(rights.values()) for rights in every[-1]]))
            best_of.append(every[-1][int(scores.argmax())])
            self.keep(part, prompt, in_order(drawn, scores))
        random_pick, best = [shown(field) for field in every], [shown([rights]) for rights in best_of]
        flat = [rights for field in every for rights in field]
        mixed = [share for share in orders if share is not None]
        return {
            "prompts": len(best_of),
            "random": float(np.mean(random_pick)),
            "best": float(np.mean(best)),
            "any": float(np.mean([share > 0 for share in random_pick])),
            **fields.gain(random_pick, best),
            "mixed": len(mixed),
            "ordered": float(np.mean(mixed)) if mixed else None,
            "random_by_kind": by_kind(flat),
            "best_by_kind": by_kind(best_of),
        }

    def field(self) -> dict[str, Any]:
        """Variety of fields without a stated style.

        `distinct` is the number of true drawings that are nearest to some candidate.
        `spread` is the mean distance of two candidates by pixels, `score_spread` the mean deviation of the scores in a
        field, and `shares` how often each set is nearest.
        """
        many = [n for n in self.table.names if len(fields.held_by(n, self.icons)) >= 6]
        distinct, spreads, scored, sets = list[int](), list[float](), list[float](), list[str]()
        for place, prompt in enumerate(self.some(prompts.open_style(many, 60))):
            drawn = self.draw(place, prompt)
            found = fields.nearest(drawn.pictures, prompt.names[0], self.icons)
            sets += found
            distinct.append(len(set(found)))
            spreads.append(fields.spread(drawn.pictures))
            scored.append(float(self.pack.scores(drawn.pictures, prompt.text).std()))
            self.keep("field", prompt, drawn.pictures)
        return {
            "prompts": len(distinct),
            "distinct": float(np.mean(distinct)),
            "distinct_error": float(np.std(distinct) / len(distinct) ** 0.5),
            "of": len(fields.SETS),
            "spread": float(np.mean(spreads)),
            "score_spread": float(np.mean(scored)),
            "shares": {style: round(sets.count(style) / len(sets), 3) for style in fields.SETS},
        }

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

    def russian(self) -> dict[str, Any]:
        """Russian prompts beside English ones of the same meaning."""
        return wordings.measure_russian(self)

    def spread(self) -> dict[str, Any]:
        """Fields of open style, as asked and spread over the named styles."""
        return wordings.measure_spread(self, self.table.names, self.icons)

    def languages(self) -> dict[str, Any]:
        """Names in languages that the text path does not translate."""
        return wordings.measure_languages(self.pack, self.table.names, icons.labels(self.runs / "node"))

    def layout(self) -> dict[str, Any]:
        """Prompts that say where two things are."""
        return layouts.measure_layout(self)


def guided_step(pack: Pack) -> Callable[[], object]:
    """A call that runs one guided step of a batch."""
    states = pack.encoder.states(["", "a cat"]).repeat_interleave(CANDIDATES, 0)
    channels, edge = pack.unet.config.in_channels, pack.unet.config.sample_size
    x = torch.randn(2 * CANDIDATES, channels, edge, edge)
    return lambda: pack.unet(x, 500, states, return_dict=False)


def milliseconds(*calls: Callable[[], object]) -> list[float]:
    """Median time in ms of nine runs of each call.

    The calls take turns, after a warm-up run of each.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(10):
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return [1000 * statistics.median(taken[1:]) for taken in times]


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


def write_sheet(rows: list[U8], path: Path, scale: int = 2) -> None:
    """Writes a sheet as PNG of 256 colours, at most 20 lines of about 15 pictures.

    A group is the pictures of one prompt: random pick, gap, best four; or a random pick and the rest of its field.
    """
    columns = max(1, 15 // len(rows[0]))
    gap = np.full((64, 4, 3), 255, np.uint8)
    groups = [np.concatenate([r[0], gap, *r[1:], gap, gap], 1) for r in rows[: columns * 20]]
    groups += [np.full_like(groups[0], 255)] * (-len(groups) % columns)
    lines = [np.concatenate(groups[i : i + columns], 1) for i in range(0, len(groups), columns)]
    sheet = np.concatenate(lines, 0)
    large = Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST)
    large.quantize(256).save(path, optimize=True)


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
    parser.add_argument("--base", type=Path, default=None, help="pack to which the costs are compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where to measure: cpu, cuda (which leaves out costs)")
    args = parser.parse_args()
    if args.only and "costs" in args.only and args.device != "cpu":
        parser.error("--only costs: costs are measured with --device cpu")
    torch.set_num_threads(args.threads)
    use(args.device)
    out: Path = args.out or args.runs / "figures"
    out.mkdir(parents=True, exist_ok=True)
    pack = Pack(args.pack or args.runs / "pack")
    run = Evaluation(pack, args.judge or args.runs / "judge", args.runs, args.share, args.base)
    judged = (run.judge_folder / "judge.safetensors").exists()
    if not judged:
        print(f"no judge in {run.judge_folder}: skipping {', '.join(sorted(JUDGED))}", flush=True)
    kept = out / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text("utf-8")) if args.only and kept.exists() else {}
    timed = args.device == "cpu"  # times of calls that return before the device ends mean nothing
    for part in args.only or [p for p in PARTS if (judged or p not in JUDGED) and (timed or p != "costs")]:
        started = time.monotonic()
        figures[part] = getattr(run, part)()
        print(part, json.dumps(figures[part]), f"{time.monotonic() - started:.0f} s", flush=True)
        kept.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    for name, rows in run.sheets.items():
        write_sheet(rows, out / f"{name}.png")
        (out / f"{name}.txt").write_text("\n".join(run.captions[name]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
