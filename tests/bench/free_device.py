"""A server whose device costs nothing: what it measures is the control plane.

`python -m tests.bench.free_device` serves as `frontrunner serve` does, by the same settings. A denoiser call sleeps for
`CALL_S` of the environment, in seconds; by default not at all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import numpy as np

from models import registry
from models.protocols import Embeddings, Images, Latent, Models, Pixels, Schedule, StepRow
from models.synthetic.generator import CELL, FakeGenerator, FakeLatent
from models.synthetic.scorer import FakeScorer
from tests.servers import end, free_port, until

ROOT = Path(__file__).parents[2]
CALL_S = float(os.environ.get("CALL_S", "0"))


class FreeGenerator(FakeGenerator):
    """Every candidate is one constant image, made without work."""

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        return _schedule(sampler, steps, width, height)

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> FakeLatent:
        return _latent(width, height)

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        if CALL_S:  # to sleep for no time gives the CPU away: milliseconds beside other work
            time.sleep(CALL_S)
        return [row.latent for row in rows]

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        image = _image(*latents[0].x.shape[1:])
        return np.broadcast_to(image, (len(latents), *image.shape))


class FreeScorer(FakeScorer):
    """Embeds every image alike."""

    def embed_images(self, pixels: Pixels) -> Embeddings:
        one = np.zeros(self.info.dimensions, np.float32)
        one[0] = 1.0
        return np.broadcast_to(one, (len(pixels), len(one)))


@cache
def _schedule(sampler: str, steps: int, width: int, height: int) -> Schedule:
    return FakeGenerator().schedule(sampler, steps, width, height)


@cache
def _latent(width: int, height: int) -> FakeLatent:
    return FakeLatent(np.zeros((3, height // CELL, width // CELL), np.float32))


@cache
def _image(rows: int, columns: int) -> Images:
    height, width = rows * CELL, columns * CELL
    slope = np.linspace(40, 215, height)[:, None, None] * np.linspace(0.8, 1.0, width)[None, :, None]
    return np.broadcast_to(slope, (height, width, 3)).astype(np.uint8)


@contextmanager
def serving(
    folder: Path, settings: Mapping[str, str], code: Path = ROOT, call_s: float = 0.0
) -> Iterator[tuple[str, int]]:
    """Address and process id of a ready server of this `code`, with its data in `folder`."""
    port = free_port()
    own = {"HOST": "127.0.0.1", "PORT": str(port), "DATA_DIR": str(folder), "LOG_LEVEL": "warning", **settings}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRONTRUNNER_", "AWS_"))}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, "serve"],
            cwd=code,
            env=kept
            | {f"FRONTRUNNER_{k}": v for k, v in own.items()}
            | {"PYTHONPATH": str(code), "CALL_S": f"{call_s}"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(ready)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        end(process, signal.SIGTERM, 30)


def main() -> None:
    """Serve."""
    registry.load_models = lambda *_: Models(FreeGenerator(), FreeScorer())
    from app.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
