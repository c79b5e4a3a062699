"""Start-up of a model as large as SD-Turbo, with random weights: seconds to load, to be ready, and to the best of 4.

`python -m tests.bench.large FOLDER` builds the model there unless it is there already (7 GB in float32), then serves
it with the embedded scorer and prints each part of the start-up as `/readyz` names it.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import httpx

from app.cli.local_server import running_service
from tests.bench import server

PROMPT = "a red apple on a white background"

CHARACTERS = [chr(code) for code in range(33, 127)]
START, END = "<|startoftext|>", "<|endoftext|>"


def build(folder: Path) -> dict[str, float]:
    """Save a pipeline with SD-Turbo's denoiser and autoencoder and a small text encoder; millions of parameters."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    words = [*CHARACTERS, *(f"{each}</w>" for each in CHARACTERS), START, END]
    tokens = transformers.CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77)
    text = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=16,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    pipe = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokens,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return {name: _millions(getattr(pipe, name)) for name in ("unet", "vae", "text_encoder")}


def _millions(module: object) -> float:
    return round(sum(each.numel() for each in module.parameters()) / 1e6, 1)  # type: ignore[attr-defined]


class Parts:
    """Prints what `/readyz` says, when it says something else than before, with the seconds since the start."""

    def __init__(self) -> None:
        self._began, self._last = time.monotonic(), ""

    def __call__(self, detail: str) -> None:
        if detail != self._last:
            print(f"{time.monotonic() - self._began:7.1f} s  {detail}", flush=True)
            self._last = detail


def main() -> None:
    """Build, serve, ask for the best of 4 at one step, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.large", description=__doc__)
    parser.add_argument("folder", type=Path, help="its name should hold `turbo`: one step and no guidance by default")
    asked = parser.parse_args()
    if not (asked.folder / "model_index.json").is_file():
        print(f"built: millions of parameters {build(asked.folder)}", flush=True)
    os.environ["FRONTRUNNER_GENERATOR"] = str(asked.folder.absolute())
    parts = Parts()
    with running_service(parts) as url, httpx.Client(base_url=url, timeout=None, trust_env=False) as client:
        parts("ready")
        began = time.monotonic()
        made = server.generate(client, PROMPT, n_candidates=4, n=1, steps=1)
        took = time.monotonic() - began
        print(f"best of 4 at one step, 512 x 512: {took:.1f} s, {made['timings']}, {made['work']}", flush=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"largest resident size of the service: {most:.1f} GiB")


if __name__ == "__main__":
    main()
