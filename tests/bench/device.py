"""`python -m tests.bench.device`: real sizes with random weights on a device, against a script that a user would write.

For each model 16 candidates are made through the service, unpruned and pruned, and by the stock pipeline. Prints and
stores seconds, memory and ratios. Random weights take the time and memory of trained ones; images mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import registry
from models.families import NATIVE_LOOPS
from models.protocols import Embedder, Models
from models.runtime.placement import prepare_process, select_device
from tests.api.kit import House, running
from tests.bench.kit import RESULTS, machine
from tests.bench.real_models import MODELS, RealModel

PROMPT = "a red apple on a white background"
CANDIDATES, KEPT = 16, 4


def main() -> None:
    """Measure the models asked for; stop when the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.device", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tiny", action="store_true", help="the same code at a size for a test")
    parser.add_argument("--minutes", type=float, default=9.0, help="no model is begun after this time")
    parser.add_argument("--out", type=Path, default=RESULTS / "device.json")
    asked = parser.parse_args()
    began, rows = time.monotonic(), dict[str, Any]()
    for name in asked.models:
        if time.monotonic() - began > 60 * asked.minutes:
            rows[name] = {"skipped": f"{asked.minutes:g} minutes were over"}
            continue
        try:
            rows[name] = measure(name, MODELS[name], asked.device, tiny=asked.tiny)
        except torch.OutOfMemoryError:
            rows[name] = {"skipped": "it does not fit into the device memory"}
        print(name, json.dumps(rows[name]), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        asked.out.parent.mkdir(exist_ok=True)
        asked.out.write_text(json.dumps({"machine": machine(), "tiny": asked.tiny, "models": rows}, indent=1) + "\n")
    print(f"wrote {asked.out}")


def measure(name: str, model: RealModel, device: str, *, tiny: bool = False) -> dict[str, Any]:
    """Seconds of 16 candidates by the service, unpruned and pruned, and by the script; memory of each."""
    prepare_process()
    placement = select_device(device)
    pipe = model.build(placement.device, placement.dtype, tiny)
    pipe.set_progress_bar_config(disable=True)
    size, scorer = 64 if tiny else model.size, registry.load_models("fake", "pictogram", device).scorer
    _forget_peak()
    straight = _script(pipe, scorer, model, size)
    found: dict[str, Any] = {
        "denoiser_parameters": sum(each.numel() for each in _denoiser(pipe).parameters()),
        "device": str(placement.device),
        "dtype": placement.dtype_name,
        "size": size,
        "steps": model.steps,
        "script": {"seconds": straight, "memory_gib": _peak()},
    }

    def load() -> Models:
        defaults = {"width": size, "height": size, "steps": model.steps, "guidance_scale": model.guidance}
        options = {"id": name, "revision": "random", "defaults": defaults}
        return Models(NATIVE_LOOPS[type(pipe).__name__](pipe, placement, **options), scorer)

    with tempfile.TemporaryDirectory() as folder, running(Path(folder), load=load, ready_s=600) as house:
        at = max(1, model.steps // 2)
        for kind, pruning in (("unpruned", "off"), ("pruned", [{"at": at, "keep": KEPT}])):
            _forget_peak()
            seconds, work = _race(house, pruning)
            found[kind] = {
                "seconds": seconds,
                "of_script": round(seconds / straight, 4),
                "memory_gib": _peak(),
                "rows_stepped": work["rows_stepped"],
                "decodes": work["decodes"],
            }
    return found


def _race(house: House, pruning: Any) -> tuple[float, dict[str, Any]]:
    """Seconds of the second of two races, and its work: the first one learns what calls cost."""
    for seed in (0, 100):
        began = time.perf_counter()
        made = house.post(
            json={"prompt": PROMPT, "n_candidates": CANDIDATES, "n": 1, "seed": seed, "pruning": pruning}, timeout=600
        )
        made.raise_for_status()
        seconds = time.perf_counter() - began
    return round(seconds, 3), made.json()["work"]


def _script(pipe: Any, scorer: Embedder, model: RealModel, size: int) -> float:
    """Seconds of the same by hand, in the largest batches that fit: sample, decode, embed, take the best."""
    batch = CANDIDATES
    while True:
        try:
            _by_hand(pipe, scorer, model, size, batch)
            began = time.perf_counter()
            _by_hand(pipe, scorer, model, size, batch)
            return round(time.perf_counter() - began, 3)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            gc.collect()
            torch.cuda.empty_cache()


def _by_hand(pipe: Any, scorer: Embedder, model: RealModel, size: int, batch: int) -> int:
    (text,) = scorer.embed_texts([PROMPT])
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, CANDIDATES, batch):
            images = pipe(
                PROMPT,
                num_inference_steps=model.steps,
                guidance_scale=model.guidance,
                width=size,
                height=size,
                num_images_per_prompt=batch,
                generator=[torch.Generator().manual_seed(seed) for seed in range(start, start + batch)],
            ).images
            scores += (scorer.embed_images(np.stack([np.asarray(each) for each in images])) @ text.vector).tolist()
    return int(np.argmax(scores))


def _denoiser(pipe: Any) -> Any:
    return pipe.components.get("transformer") or pipe.components["unet"]


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> float:
    """GiB of the device's memory at its peak; on a host, of the process since its start."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
