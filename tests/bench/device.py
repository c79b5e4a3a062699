"""`python -m tests.bench.device`: real sizes with random weights on a device, against a script that a user would write.

Each model makes candidates through the service, unpruned and pruned, and by the stock pipeline with a ViT-B-32 scorer.
Stores seconds, memory and ratios after every part. Random weights take the time and memory of trained ones; images
mean nothing. `--check` checks the embedded pack on the device instead, see `device_check`.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.families import NATIVE_LOOPS
from models.protocols import Embedder, Models
from models.runtime.placement import DevicePlacement, prepare_process, select_device
from tests.api.kit import House, running
from tests.bench.kit import RESULTS, machine
from tests.bench.real_models import MODELS, RealModel, random_scorer

PROMPT = "a red apple on a white background"
EFFECTIVE_FLOPS = 4e14
"""Assumed speed of a device, to tell whether a model fits into the time that is left."""

BUILDING_S = 12.0
"""Assumed seconds of building a model and starting a service on it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What is measured of each model.

    `candidates` are raced and a quarter is kept by pruning. `most_steps` limits a model's usual steps, `first_steps`
    those of the run before each measured one; None is no limit.
    """

    candidates: int = 16
    most_steps: int | None = None
    first_steps: int | None = None

    @property
    def kept(self) -> int:
        """Candidates after pruning."""
        return max(1, self.candidates // 4)

    def steps(self, model: RealModel) -> int:
        """Steps of the measured runs."""
        return min(model.steps, self.most_steps or model.steps)

    def row_steps(self, model: RealModel) -> int:
        """Rows stepped by all runs of a model."""
        steps, first = self.steps(model), min(self.steps(model), self.first_steps or model.steps)
        unpruned = 2 * self.candidates * (steps + first)
        return unpruned + sum(self._pruned(each) for each in (steps, first))

    def _pruned(self, steps: int) -> int:
        at = checkpoint(steps)
        return self.candidates * at + self.kept * (steps - at)


FULL, QUICK = Effort(), Effort(candidates=8, most_steps=10, first_steps=2)


def main() -> None:
    """Measure the models asked for; begin none that would not end in time."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.device", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tiny", action="store_true", help="the same code at a size for a test")
    parser.add_argument("--quick", action="store_true", help="8 candidates, at most 10 steps, first runs of 2 steps")
    parser.add_argument("--seconds", type=float, default=540.0, help="no model is begun that would take longer")
    parser.add_argument("--check", action="store_true", help="check the embedded pack on the device; no model")
    parser.add_argument("--out", type=Path, default=RESULTS / "device.json")
    asked = parser.parse_args()
    told: dict[str, Any] = {"machine": machine(), "tiny": asked.tiny, "models": {}}

    def store() -> None:
        asked.out.parent.mkdir(exist_ok=True)
        asked.out.write_text(json.dumps(told, indent=1) + "\n")

    if asked.check:
        from tests.bench import device_check

        told["checks"] = {}
        device_check.run(asked.device, told["checks"], store)
        raise SystemExit(not all(each["ok"] for each in told["checks"].values()))
    effort = QUICK if asked.quick else FULL
    for name in asked.models:
        rows = told["models"][name] = {}
        needed = 0.0 if asked.tiny else estimated_seconds(MODELS[name], effort)
        left = asked.seconds - (time.monotonic() - began)
        if needed > left:
            rows["skipped"] = f"it takes about {needed:.0f} s, and {max(0.0, left):.0f} s are left"
        else:
            _attempt(rows, partial(measure, name, MODELS[name], asked.device, asked.tiny, effort, rows, store))
        store()
        print(name, json.dumps(rows), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(table(told["models"]))
    print(f"wrote {asked.out}, {time.monotonic() - began:.0f} s")


def _attempt(rows: dict[str, Any], work: Callable[[], object]) -> None:
    """Measure; say why a model has no or not all figures, and go on with the next."""
    try:
        work()
    except torch.OutOfMemoryError:
        rows["skipped"] = "it does not fit into the device memory"
    except Exception as error:  # the other models' figures are worth more than this one's traceback
        rows["skipped"] = f"{type(error).__name__}: {error}"[:500]


def estimated_seconds(model: RealModel, effort: Effort) -> float:
    """Seconds that a model would take on a device of `EFFECTIVE_FLOPS`."""
    return BUILDING_S + effort.row_steps(model) * model.tera_per_step * 1e12 / EFFECTIVE_FLOPS


def checkpoint(steps: int) -> int:
    """The step after which candidates are dropped."""
    return max(1, steps // 2)


def measure(
    name: str,
    model: RealModel,
    device: str,
    tiny: bool = False,
    effort: Effort = FULL,
    found: dict[str, Any] | None = None,
    store: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Fill `found` with seconds and memory of the script and of the service; `store` is called after each part."""
    found = {} if found is None else found
    prepare_process()
    placement = select_device(device)
    began = time.perf_counter()
    pipe = model.build(placement.device, placement.dtype, tiny)
    pipe.set_progress_bar_config(disable=True)
    scorer = random_scorer(placement, tiny)
    placement.wait()
    size, steps = 64 if tiny else model.size, effort.steps(model)
    found |= {
        "denoiser_parameters": sum(each.numel() for each in denoiser(pipe).parameters()),
        "device": str(placement.device),
        "dtype": placement.dtype_name,
        "size": size,
        "steps": steps,
        "usual_steps": model.steps,
        "candidates": effort.candidates,
        "kept": effort.kept,
        "build_seconds": round(time.perf_counter() - began, 2),
    }
    store()
    _forget_peak()
    found["script"] = Script(pipe, scorer, model, size, effort).measured(placement)
    store()

    def load() -> Models:
        defaults = {"width": size, "height": size, "steps": steps, "guidance_scale": model.guidance}
        options = {"id": name, "revision": "random", "defaults": defaults}
        return Models(NATIVE_LOOPS[type(pipe).__name__](pipe, placement, **options), scorer)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), load=load, ready_s=600, warmup_s=5.0) as house:
        found["start_up_seconds"] = round(time.perf_counter() - began, 2)
        for kind in ("unpruned", "pruned"):
            found[kind] = _race(house, effort, model, pruned=kind == "pruned")
            found[kind]["of_script"] = round(found[kind]["seconds"] / found["script"]["seconds"], 4)
            store()
        costs = house.app.state.engine.costs
        found["seconds_by_rows"] = {"step": costs.step, "preview": costs.preview, "finish": costs.finish}
    store()
    return found


def _race(house: House, effort: Effort, model: RealModel, *, pruned: bool) -> dict[str, Any]:
    """The second of two races: the first one learns what calls cost."""
    steps, first = effort.steps(model), min(effort.steps(model), effort.first_steps or model.steps)
    _forget_peak()
    for seed, made_steps in ((0, first), (100, steps)):
        calls, began = house.app.state.engine.stats().denoiser_calls, time.perf_counter()
        pruning: Any = [{"at": checkpoint(made_steps), "keep": effort.kept}] if pruned and made_steps > 1 else "off"
        asked = {"prompt": PROMPT, "n_candidates": effort.candidates, "n": 1, "steps": made_steps, "seed": seed}
        made = house.post(json={**asked, "pruning": pruning}, timeout=600)
        seconds = time.perf_counter() - began
        if made.status_code != 200:
            raise RuntimeError(f"the race failed: {made.text[:300]}")
    answer = made.json()
    return {
        "seconds": round(seconds, 3),
        "memory_gib": _peak(),
        "denoiser_calls": house.app.state.engine.stats().denoiser_calls - calls,
        "stage_ms": {stage: round(ms) for stage, ms in answer["timings"].items()},
        **{name: answer["work"][name] for name in ("rows_stepped", "previews", "decodes")},
    }


@dataclass(frozen=True, slots=True)
class Script:
    """The same by hand, in the largest batches that fit: sample, decode, embed, take the best.

    It decodes image by image (`enable_slicing`), since large batches have more elements than some kernels count.
    """

    pipe: Any
    scorer: Embedder
    model: RealModel
    size: int
    effort: Effort

    def measured(self, placement: DevicePlacement) -> dict[str, Any]:
        """Seconds of the second run, its memory and batch."""
        self.pipe.vae.enable_slicing()
        try:
            return self._in_batches(placement)
        finally:
            self.pipe.vae.disable_slicing()

    def _in_batches(self, placement: DevicePlacement) -> dict[str, Any]:
        batch, refused = self.effort.candidates, list[str]()
        steps = self.effort.steps(self.model)
        first = min(steps, self.effort.first_steps or steps)
        while True:
            try:
                self.best(batch, first)
                began = time.perf_counter()
                self.best(batch, steps)
                placement.wait()
                seconds = round(time.perf_counter() - began, 3)
                return {"seconds": seconds, "memory_gib": _peak(), "batch": batch, "refused": refused}
            except RuntimeError as error:  # also kernels that refuse so many elements
                if batch == 1:
                    raise
                refused.append(f"{batch}: {error}"[:200])
            batch //= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def best(self, batch: int, steps: int) -> int:
        """The place of the best candidate."""
        (text,) = self.scorer.embed_texts([PROMPT])
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, self.effort.candidates, batch):
                images = self.pipe(
                    PROMPT,
                    num_inference_steps=steps,
                    guidance_scale=self.model.guidance,
                    width=self.size,
                    height=self.size,
                    num_images_per_prompt=batch,
                    generator=[torch.Generator().manual_seed(seed) for seed in range(start, start + batch)],
                ).images
                pixels = np.stack([np.asarray(each) for each in images])
                scores += (self.scorer.embed_images(pixels) @ text.vector).tolist()
        return int(np.argmax(scores))


def table(models: dict[str, dict[str, Any]]) -> str:
    """A line for each model."""
    lines = [f"{'model':<16} {'steps':>5} {'n':>3} {'script s':>9} {'unpruned':>9} {'pruned':>7} {'GiB':>6}"]
    for name, row in models.items():
        if "pruned" not in row:
            lines.append(f"{name:<16} {row.get('skipped', 'not ended')}")
            continue
        shares = f"{row['unpruned']['of_script']:>9.3f} {row['pruned']['of_script']:>7.3f}"
        made = f"{row['steps']:>5} {row['candidates']:>3} {row['script']['seconds']:>9.2f}"
        lines.append(f"{name:<16} {made} {shares} {row['unpruned']['memory_gib']:>6.1f}")
    return "\n".join(lines)


def denoiser(pipe: Any) -> Any:
    """The module that makes predictions."""
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
