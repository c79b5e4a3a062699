"""Writes a pack folder from the trained runs.

A pack holds float16 safetensors, configs, and pack.json with the sha256 of every file. The text encoder is not copied:
pack.json names the package that contains it, and its sha256. A second scorer is an entry of its own, so that the
revision of generator and scorer does not depend on it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file

from models.protocols import QUADRATIC
from models.training.data import captions, icons, languages, split, texts
from models.training.trainers import autoencoder as train_autoencoder
from models.training.trainers import generator, scorer

VERSION = "0.11"
DEFAULTS = {"steps": 16, "guidance_scale": 1.25, "sampler": QUADRATIC}
"""Default parameters of requests to the pack.

The guidance is low: selection among many candidates replaces it.
"""

_PHRASES = [captions.STYLE_WORDS[style][0] for style in split.GENERATOR.trained]
TRAINED = ["visual.", "text.proj.", "logit_scale"]
SECOND = "second"
"""Folder and entry of the second scorer."""

STYLES = {
    "phrases": _PHRASES,
    "words": sorted({*" ".join(_PHRASES).split(), "стиль", "стиле", "ното", "твемоджи"}),
    "spread": True,
}
"""Styles that prompts can name, and the words that name one."""

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "BertModel"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def weights(path: Path) -> dict[str, Any]:
    """A `final.pt` unchanged, or a `checkpoint.pt` with averaged weights.

    A `checkpoint.pt` comes from a run that has not ended.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "average" in state:
        state["modules"] = {**state["modules"], **state["average"]}
    return state


def halves(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors, with floats as float16."""
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}


def export_generator(out: Path, autoencoder: Path, unet: Path) -> None:
    """The diffusers folder: vae, unet, scheduler, model_index.json."""
    vae = train_autoencoder.build()
    vae.load_state_dict(weights(autoencoder)["modules"])
    vae.half().save_pretrained(out / "vae")
    state = weights(unet)["modules"]
    widths = (state["unet.conv_in.weight"].shape[0], state["unet.mid_block.resnets.0.conv1.weight"].shape[0])
    denoiser = generator.build(widths)
    denoiser.load_state_dict({k.removeprefix("unet."): v for k, v in state.items()})
    denoiser.half().save_pretrained(out / "unet")
    DDIMScheduler(**generator.SCHEDULE).save_pretrained(out / "scheduler")
    (out / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", "utf-8")


def mean(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean weights of several states of one run (Wortsman et al. 2022).

    Integer tensors are taken from the first state.
    """
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v for k, v in states[0].items()
    }


def export_scorer(out: Path, paths: list[Path], tower: str) -> None:
    """The open_clip folder without the text trunk.

    For several states of the run, it holds their mean.
    """
    out.mkdir(parents=True, exist_ok=True)
    states = [weights(path)["modules"] for path in paths]
    state = mean([{k: v for k, v in s.items() if not k.startswith("head.")} for s in states])
    places = {"proj.": "text.proj.", "scale.": ""}
    for prefix, place in places.items():
        state = {place + k.removeprefix(prefix) if k.startswith(prefix) else k: v for k, v in state.items()}
    save_file(halves(state), out / "open_clip_model.safetensors", metadata={"format": "pt"})
    (out / "open_clip_config.json").write_text(json.dumps(scorer.config(tower), indent=2) + "\n", "utf-8")


NULL_PICTURES = 400
"""Composed pictures of the null statistics."""


def null_statistics(out: Path, runs: Path, part: str = "scorer") -> dict[str, float]:
    """Cosines between composed pictures and captions of other pictures.

    `part` is the entry of the scorer.

    Returns `mean`, `std` and the number of `pairs`.
    """
    import numpy as np

    from models.training.data.dataset import read_rows
    from models.training.evaluation.sampling import Pack

    pack = Pack(out, part)
    pictures = np.load(runs / "scenes" / "generator.npy", mmap_mode="r")
    chosen = np.random.default_rng(3).choice(len(pictures), NULL_PICTURES, replace=False)
    rows = read_rows(runs / "scenes" / "generator.jsonl")
    chosen.sort()
    cosines = pack.embed_pictures(pictures[chosen]) @ pack.embed_texts([rows[i]["caption"] for i in chosen]).T
    others = cosines[~torch.eye(len(chosen), dtype=torch.bool)]
    return {"mean": round(float(others.mean()), 5), "std": round(float(others.std()), 5), "pairs": len(others)}


def write_index(out: Path, extra: dict[str, Any]) -> None:
    """Writes pack.json.

    It lists every file except itself, the card, the sheets and the second scorer.
    """
    listed, unlisted = {".json", ".safetensors"}, {"pack.json", "figures.json", languages.FILE}
    found = sorted(p for p in out.rglob("*") if p.suffix in listed and p.name not in unlisted)
    files = [p for p in found if not p.is_relative_to(out / SECOND)]
    meta = {
        "id": "pictogram",
        "version": VERSION,
        "size": [64, 64],
        "text_encoder": {
            "distribution": texts.DISTRIBUTION,
            "package": texts.PACKAGE,
            "folder": texts.FOLDER,
            "weights_sha256": languages.sha256(texts.folder() / "model.safetensors"),
            "max_length": texts.MAX_TOKENS,
            "use_attention_mask": True,
        },
        "generator": {"folder": "generator", "defaults": DEFAULTS, "styles": STYLES},
        "scorer": {"folder": "scorer", "trained": TRAINED, **extra},
        "files": {str(p.relative_to(out)): languages.sha256(p) for p in files},
        "names": "names.json",
        "words": languages.entry(out),
    }
    (out / "pack.json").write_text(json.dumps(meta, indent=1) + "\n", "utf-8")


def add_second(out: Path, paths: list[Path], tower: str, runs: Path) -> None:
    """Writes the second scorer into an existing pack and its pack.json.

    It replaces an earlier one.
    """
    if (out / SECOND).exists():
        shutil.rmtree(out / SECOND)
    export_scorer(out / SECOND, paths, tower)
    files = {str(p.relative_to(out)): languages.sha256(p) for p in sorted((out / SECOND).iterdir())}
    index = out / "pack.json"
    meta = json.loads(index.read_text("utf-8"))
    meta[SECOND] = {"folder": SECOND, "trained": TRAINED, "files": files}
    index.write_text(json.dumps(meta, indent=1) + "\n", "utf-8")
    meta[SECOND]["null"] = null_statistics(out, runs, SECOND)
    index.write_text(json.dumps(meta, indent=1) + "\n", "utf-8")


def adopt(out: Path, calibration: Path) -> None:
    """Adds the output of `frontrunner calibrate` for this pack to its pack.json.

    The probability of a match replaces an earlier one, which was measured with other weights.
    """
    index = out / "pack.json"
    found = json.loads(calibration.read_text("utf-8"))
    match = found.pop("match", None)
    earlier = {name: part for name, part in json.loads(index.read_text("utf-8")).items() if name != "match"}
    meta = earlier | {"calibration": found} | ({} if match is None else {"match": match})
    index.write_text(json.dumps(meta, indent=1) + "\n", "utf-8")


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--out", type=Path, default=None, help="the pack folder to write (default: RUNS/pack)")
    parser.add_argument("--autoencoder", type=Path, default=None, help="weights (default: RUNS/autoencoder/final.pt)")
    parser.add_argument("--generator", type=Path, default=None, help="weights (default: RUNS/generator/final.pt)")
    parser.add_argument(
        "--scorer", type=Path, nargs="+", help="weights, averaged over files (default: RUNS/scorer/final.pt)"
    )
    parser.add_argument("--tower", default="regnety_002", help="timm name of the scorer's image tower")
    parser.add_argument("--second", type=Path, nargs="+", help="weights of a second scorer, averaged (default: none)")
    parser.add_argument("--second-tower", default="efficientnet_lite0", help="timm name of its image tower")
    parser.add_argument("--only-second", action="store_true", help="only add the second scorer to the existing pack")
    parser.add_argument("--calibration", type=Path, default=None, help="only add this file to the existing pack")
    args = parser.parse_args()
    out: Path = args.out or args.runs / "pack"
    if args.only_second and not args.second:
        parser.error("--only-second: name its weights with --second")
    if args.calibration:
        adopt(out, args.calibration)
        return
    if not args.only_second:
        export_all(out, args)
    if args.second:
        add_second(out, args.second, args.second_tower, args.runs)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB")


def export_all(out: Path, args: argparse.Namespace) -> None:
    """Writes generator, scorer and index to a new folder."""
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    finals = {kind: args.runs / kind / "final.pt" for kind in ("autoencoder", "generator", "scorer")}
    export_generator(
        out / "generator", args.autoencoder or finals["autoencoder"], args.generator or finals["generator"]
    )
    export_scorer(out / "scorer", args.scorer or [finals["scorer"]], args.tower)
    (out / "names.json").write_text(json.dumps(icons.pack_names(), indent=0, ensure_ascii=False) + "\n", "utf-8")
    shutil.copy(languages.EMBEDDED / languages.FILE, out)
    write_index(out, {})
    write_index(out, {"null": null_statistics(out, args.runs)})


if __name__ == "__main__":
    main()
