"""Writes the pack's CARD.md from figures, run logs and `card.template.md`."""

import argparse
import json
import string
from pathlib import Path
from typing import Any

LABELS = {
    ("costs", "mib"): "all files of the pack, in MiB",
    ("costs", "load_s"): "time to load the models after the import of torch, in seconds",
    ("costs", "step_ms"): "one guided step of one row at batch 16 on two cores, in ms",
    ("costs", "tower_ms"): "the same for the scorer's image tower",
    ("autoencoder", "psnr_db"): "autoencoder: PSNR in dB on pictures of things excluded from training",
    ("scorer", "r1"): "scorer: image to text over the names, unseen style, R@1",
    ("scorer", "r5"): "the same, R@5",
    ("scorer", "background"): "scorer: accuracy of the stated background among 11",
    ("arbiter", "r5"): "judge: R@5 over the names in noto and twemoji, which its training excludes",
    ("known", "random_top5"): "known things: the judge's top five contain the thing, random pick",
    ("known", "best_top5"): "the same, best of 16",
    ("known", "any_top5"): "the same, any of the 16",
    ("known", "judge_prefers_best"): "the judge prefers the best to a random other one",
    ("known", "spearman_25"): "rank correlation of preview and final score at 25 % of the steps",
    ("known", "spearman_50"): "the same at 50 %",
    ("composed", "random"): "two or more stated attributes all shown, by pixel checks, random pick",
    ("composed", "best"): "the same, best of 16",
    ("composed", "any"): "the same, any of the 16",
    ("known", "gain"): "known things: best of 16 minus random pick",
    ("composition", "random"): "several things with colours, numbers or an order, all shown, random pick",
    ("composition", "best"): "the same, best of 16",
    ("composition", "any"): "the same, any of the 16",
    ("layout", "random"): "two coloured things in stated places, all shown, random pick",
    ("layout", "best"): "the same, best of 16 by the scorer",
    ("layout", "layout"): "the same, best of 16 by `layout:pictogram`",
    ("field", "distinct"): "distinct drawings in a field of 16, nearest of eight true ones",
    ("field", "spread"): "the mean distance of two candidates by pixels, 0 to 1",
    ("negative", "yellow_without"): "share of yellow backgrounds in the top three for prompts without a background",
    ("negative", "yellow_with"): 'the same with the negative prompt "on a yellow background"',
    ("synonyms", "best_top5"): "synonyms excluded from training: the judge's top five contain the meaning, best of 16",
    (
        "russian",
        "ratio",
    ): "Russian prompts: the judge's top five contain the thing, best of 16, as a share of English ones",
    ("spread", "difference"): "a field spread over the styles: change of that for best of 16",
}


def last_line(log: Path) -> dict[str, Any]:
    """The last report of a run."""
    found: dict[str, Any] = json.loads(log.read_text("utf-8").splitlines()[-1])
    return found


def figures_table(figures: dict[str, Any]) -> str:
    """The table rows of the figures that were computed."""
    rows = [(label, figures.get(part, {}).get(key)) for (part, key), label in LABELS.items()]
    return "\n".join(f"| {label} | {value:.3g} |" for label, value in rows if value is not None)


def fill(runs: Path, pack: Path, figures: dict[str, Any]) -> str:
    """The text of the card."""
    meta = json.loads((pack / "pack.json").read_text("utf-8"))
    values = {
        "version": meta["version"],
        "distribution": meta["text_encoder"]["distribution"],
        "tower": _tower(pack / "scorer"),
        "second": _second(runs, pack) if "second" in meta else "",
        "guidance": f"{meta['generator']['defaults']['guidance_scale']:g}",
        "figures": figures_table(figures),
    }
    for kind in ("autoencoder", "generator", "scorer"):
        line = last_line(runs / kind / "log.jsonl")
        values |= {f"{kind}_seen": f"{line['seen']:,}", f"{kind}_minutes": f"{line['minutes']:.0f}"}
    template = (Path(__file__).parent / "card.template.md").read_text("utf-8")
    return string.Template(template).substitute(values)


def _tower(folder: Path) -> str:
    config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
    return str(config["model_cfg"]["vision_cfg"]["timm_model_name"])


def _second(runs: Path, pack: Path) -> str:
    """The table row of the second scorer."""
    line = last_line(runs / "second" / "log.jsonl")
    trained = f"{line['seen']:,} pictures in {line['minutes']:.0f} minutes"
    return f"| second | the same, image tower {_tower(pack / 'second')}; a member for ensembles | {trained} |\n"


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--pack", type=Path, default=None, help="the pack folder (default: RUNS/pack)")
    parser.add_argument(
        "--figures", type=Path, default=None, help="file of the figures (default: RUNS/figures/figures.json)"
    )
    args = parser.parse_args()
    pack: Path = args.pack or args.runs / "pack"
    figures = json.loads((args.figures or args.runs / "figures" / "figures.json").read_text("utf-8"))
    (pack / "CARD.md").write_text(fill(args.runs, pack, figures), "utf-8")
    print(pack / "CARD.md")


if __name__ == "__main__":
    main()
