"""The gate against the stock pipeline, on a random SD3 whose steps take a tenth of a second and more."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Failed
from models.generators.gate.generator import PipelineGate
from models.protocols import Models
from models.runtime.placement import prepare_process, select_device
from models.synthetic.scorer import FakeScorer
from tests.bench.kit import Figure, paired
from tests.contract.families import FAMILIES

PROMPTS = tuple(f"a {colour} apple" for colour in ("red", "tan", "sky", "ivy", "sea", "ash", "jet", "bay"))
"""Of equal length, so that their rows share calls."""

STEPS = (4, 5, 6, 7, 4, 5, 6, 7)
WEIGHTS = "random SD3"


def pipeline(width: int = 384, layers: int = 4) -> Any:
    """Stable Diffusion 3 with tiny text encoders and a denoiser of this width and depth; images of 64 pixels."""
    pipe = FAMILIES["stable_diffusion_3"].build("stable_diffusion_3")
    torch.manual_seed(0)
    pipe.transformer = diffusers.SD3Transformer2DModel(
        sample_size=64,
        patch_size=4,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=64,
        num_attention_heads=width // 64,
        caption_projection_dim=width,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=64,
    ).eval()
    return pipe


class Pair:
    """The stock pipeline, and the engine over its gate."""

    def __init__(self, pipe: Any, size: int = 64) -> None:
        prepare_process()
        self.pipe, self.size = pipe, size
        defaults = {"width": size, "height": size, "steps": 4, "guidance_scale": 4.0}
        self.gate = PipelineGate(pipe, select_device("cpu"), id="sd3", defaults=defaults)
        self.core = EngineCore(Models(self.gate, FakeScorer()), EngineConfig())
        self.core.measure()

    def stock(self, prompt: str, steps: int, seed: int) -> Any:
        """One image by the stock pipeline."""
        with torch.inference_mode():
            return self.pipe(
                prompt,
                num_inference_steps=steps,
                guidance_scale=4.0,
                width=self.size,
                height=self.size,
                generator=torch.Generator().manual_seed(seed),
            )

    def served(self, jobs: Sequence[tuple[str, int, int]]) -> int:
        """One candidate for each job, all at once; returns the denoiser calls."""
        before = self.core.denoiser_calls
        for number, (prompt, steps, seed) in enumerate(jobs):
            spec = GenerationSpec(
                f"gate_{number}", prompt, "", 1, 1, self.size, self.size, steps, 4.0, self.gate.info.sampler, seed
            )
            self.core.submit(spec, time.perf_counter())
        while not self.core.idle:
            for _, update in self.core.tick():
                if isinstance(update, Failed):
                    raise update.error
        return self.core.denoiser_calls - before


def figures(runs: int, pipe: Any | None = None) -> list[Figure]:
    """Seconds of one request alone, and the throughput of eight mixed ones, against the stock pipeline."""
    pair = Pair(pipeline() if pipe is None else pipe)
    step_s = _step_seconds(pair, 1)
    alone = (PROMPTS[0], 6, 1)
    ratio, detail = paired(lambda: pair.served([alone]), lambda: pair.stock(*alone), runs)
    jobs = [(prompt, steps, seed) for seed, (prompt, steps) in enumerate(zip(PROMPTS, STEPS, strict=True))]
    mixed, told = paired(lambda: [pair.stock(*job) for job in jobs], lambda: pair.served(jobs), runs)
    gain = len(jobs) * step_s / _step_seconds(pair, len(jobs))
    detail |= {"step_ms": round(1000 * step_s, 1)}
    told |= {"bare_gain": round(gain, 4), "calls": pair.served(jobs), "longest": max(STEPS)}
    against = "stock pipeline, one guided request"
    return [
        Figure("gate: one request alone", ratio, against, at_most=1.03, detail=detail, weights=WEIGHTS),
        Figure(
            "gate: 8 mixed requests, images per second",
            mixed,
            f"stock pipeline one by one; a bare batch of 8 gains {gain:.3f}",
            at_least=round(0.95 * gain, 4),
            detail=told,
            weights=WEIGHTS,
        ),
    ]


def _step_seconds(pair: Pair, rows: int) -> float:
    """Median seconds of a bare guided call of the denoiser with this many rows."""
    module = pair.pipe.transformer
    texts, cells = 2 * rows, pair.size
    inputs = {
        "hidden_states": torch.randn(texts, 4, cells, cells),
        "encoder_hidden_states": torch.randn(texts, 333, 32),
        "pooled_projections": torch.randn(texts, 64),
        "timestep": torch.full((texts,), 500.0),
    }
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            module(**inputs)
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
