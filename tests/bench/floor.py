"""What the software adds to the bare model calls, and what the model calls make of the machine."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.cost_model import CostModel
from app.engine.trajectories import default_spec
from models.protocols import GeneratorInfo, Models, Pixels
from tests.bench import bare, server
from tests.bench.kit import Figure, paired, seconds
from tests.bench.straight import Straight

PROMPT = "a red apple on a white background"

DIRECT = """
import sys, time
from models import registry
from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
models = registry.load_models("pictogram", "pictogram")
core, info = EngineCore(models, EngineConfig()), models.generator.info
core.measure()
shape = info.width, info.height
for _ in sys.stdin:
    started = time.perf_counter()
    spec = GenerationSpec("bench", sys.argv[1], "", 1, 1, *shape, 1, info.guidance_scale, info.sampler, 7)
    core.submit(spec, started)
    while not core.idle: core.tick()
    print(time.perf_counter() - started, flush=True)
"""
"""One step of one candidate for every line that comes in; the seconds it took go out."""


def costs(models: Models) -> CostModel:
    """What device work costs here and now."""
    core = EngineCore(models, EngineConfig())
    core.measure()
    return core.costs


def overhead(models: Models, runs: int) -> Figure:
    """Seconds of the engine for 16 candidates of a new prompt against those of the bare model calls that it made.

    The bare calls of a run are made right after it. A first run does not count.
    """
    core = EngineCore(models, EngineConfig())
    core.measure()
    pairs = []
    for run in range(runs + 1):
        with bare.kept(models) as calls:
            took = seconds(partial(_generate, core, models.generator.info, run))
        pairs.append((took, bare.seconds(calls)))
    del pairs[0]
    ratios = sorted(took / sum(floor.values()) for took, floor in pairs)
    detail = {
        "runs": runs,
        "ratios": [round(ratio, 4) for ratio in ratios],
        "engine_s": round(statistics.median(took for took, _ in pairs), 4),
        "bare_s": {part: round(statistics.median(floor[part] for _, floor in pairs), 4) for part in pairs[0][1]},
    }
    return Figure("engine seconds", statistics.median(ratios), "bare model calls", at_most=1.10, detail=detail)


def _generate(core: EngineCore, info: GeneratorInfo, run: int) -> None:
    core.submit(replace(default_spec(info, "bench", f"{PROMPT} {run}", 16, run), n=1), time.perf_counter())
    while not core.idle:
        core.tick()


@torch.inference_mode()
def machine_share(models: Models, runs: int) -> Figure:
    """FLOP a second of the denoiser at 16 guided rows, against a large matrix product."""
    generator = cast(Any, models.generator)
    unet, parallel = generator._family.denoiser, generator._placement.parallel
    config, rows = unet.config, 32
    x = torch.randn(rows, config.in_channels, config.sample_size, config.sample_size)
    text = torch.randn(rows, 24, config.cross_attention_dim)
    t = torch.full((rows,), 500.0)

    def call(x: Any, t: Any, text: Any) -> Any:
        return unet(x, t, encoder_hidden_states=text, return_dict=False)[0]

    def denoise() -> None:
        parallel(call, x, t, text)

    with FlopCounterMode(display=False) as counter:  # sees its own thread only
        call(x, t, text)
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    denoise()
    pairs = [(seconds(denoise), seconds(lambda: a @ b)) for _ in range(runs)]
    shares = [(counter.get_total_flops() / d) / (2 * side**3 / g) for d, g in pairs]
    detail = {
        "runs": runs,
        "gflop_a_call": round(counter.get_total_flops() / 1e9, 2),
        "gemm_gflop_s": round(2 * side**3 / statistics.median(g for _, g in pairs) / 1e9, 1),
        "ms_a_guided_row": round(1000 * statistics.median(d for d, _ in pairs) / 16, 2),
    }
    return Figure(
        "denoiser FLOP/s at 16 guided rows", statistics.median(shares), "matrix product", at_least=0.5, detail=detail
    )


def embedding(models: Models, script: Straight, runs: int) -> Figure:
    """Images a second of the scorer over 256 host images, against open_clip and PIL image by image."""
    draw = np.random.default_rng(0)
    pixels: Pixels = draw.integers(0, 256, (256, 64, 64, 3), np.uint8)
    pictures = script.pipe.numpy_to_pil(pixels / 255.0)
    value, detail = paired(lambda: script.embed_one_by_one(pictures), lambda: models.scorer.embed_images(pixels), runs)
    return Figure(
        "embedding 256 images: images a second", value, "open_clip + PIL, one by one", at_least=3.0, detail=detail
    )


def http_added(client: Any, runs: int) -> Figure:
    """Milliseconds that HTTP, stores and files add to a one-step, one-candidate request.

    The engine called directly is a process of its own, whose threads wait as the service's do; each pair is asked for
    one after the other, so neither side runs beside the other.
    """
    over_http = partial(server.generate, client, PROMPT, n_candidates=1, n=1, steps=1, seed=7)
    with subprocess.Popen(
        [sys.executable, "-c", DIRECT, PROMPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as direct:
        assert direct.stdin is not None
        assert direct.stdout is not None
        added = []
        for _ in range(runs + 1):
            direct.stdin.write("\n")
            alone = float(direct.stdout.readline())
            added.append(1000 * (seconds(over_http) - alone))
        direct.stdin.close()
    value = statistics.median(added[1:])
    return Figure(
        "HTTP adds to one step of one candidate, ms", value, "the engine called directly", 5.0, detail={"runs": runs}
    )
