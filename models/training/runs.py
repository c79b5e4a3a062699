"""Shared code of all trainers: checkpoints, averaged weights, learning rate, log.

A run is a folder with these files:

    checkpoint.pt  everything needed to resume
    log.jsonl      one line per report
    final.pt       averaged weights
    plateau.pt     the checkpoint just before the rate decays; copy it over checkpoint.pt to continue at the full rate

The `.pt` files are written to a temporary file and then renamed, so they are never incomplete.
"""

import argparse
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn


@dataclasses.dataclass(slots=True)
class Schedule:
    """Learning rate over samples: linear warm-up, plateau, cosine decay to 1 %.

    The end is a number of samples (`samples`), or a time in seconds since the epoch (`ends_at`). With `ends_at`, the
    decay covers the last `decay_s` seconds before the end, at any training speed.
    """

    peak: float
    warmup: int
    samples: int = 0
    decay: int = 0
    ends_at: float = 0.0
    decay_s: float = 0.0

    def left(self, seen: int, now: float) -> float:
        """Remaining share of the decay: 1 on the plateau, 0 at the end."""
        if self.ends_at:
            return min(1.0, max(0.0, (self.ends_at - now) / max(self.decay_s, 1.0)))
        return min(1.0, max(0.0, (self.samples - seen) / max(self.decay, 1)))

    def rate(self, seen: int, now: float) -> float:
        """The learning rate after `seen` samples at the time `now`."""
        left = self.left(seen, now)
        cosine = 0.01 + 0.99 * (0.5 - 0.5 * math.cos(math.pi * left))
        return self.peak * min(1.0, (seen + 1) / max(self.warmup, 1)) * cosine

    def over(self, seen: int, now: float) -> bool:
        """Whether training has ended."""
        return now >= self.ends_at if self.ends_at else seen >= self.samples


def add_arguments(parser: argparse.ArgumentParser, *, rate: float, batch: int, samples: int) -> None:
    """The options that all trainers have."""
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all run state (default: runs)")
    parser.add_argument("--name", default=None, help="name of this run inside RUNS (default: the trainer's name)")
    parser.add_argument(
        "--init", type=Path, default=None, help="weights to start from (ignored if a checkpoint exists)"
    )
    parser.add_argument("--samples", type=int, default=samples, help="total number of pictures to train on")
    parser.add_argument("--decay", type=float, default=0.4, help="share of the samples over which the rate decays")
    parser.add_argument(
        "--ends-at", type=float, default=0.0, help="end at this time (epoch seconds) instead of SAMPLES"
    )
    parser.add_argument("--decay-s", type=float, default=2400.0, help="with --ends-at: seconds of decay before the end")
    parser.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the networks train: cpu, cuda (default: cpu)")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16: 1.5 times as fast on CPUs with AMX")
    parser.add_argument("--save-s", type=float, default=120.0, help="seconds between checkpoints")


class Run:
    """One resumable training run.

    `modules` are saved, and their weights averaged. The half-life of the average grows during training: the decay is
    min(`ema`, (1 + n) / (10 + n)) at update n.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, modules: nn.ModuleDict, ema: float = 0.999) -> None:
        self.folder, self.args, self.modules, self.ema_decay = folder, args, modules, ema
        folder.mkdir(parents=True, exist_ok=True)
        parameters = [p for p in modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)
        self.trained = [n for n, p in modules.named_parameters() if p.requires_grad]
        self.schedule = Schedule(
            args.rate, 200 * args.batch, args.samples, int(args.samples * args.decay), args.ends_at, args.decay_s
        )
        self.seen = self.updates = 0
        self.seconds = 0.0
        self.now = args.started
        self.saved_at = self.turned_at = time.monotonic()
        self.asked = self.stopping = False
        signal.signal(signal.SIGTERM, self.stop)
        self.window: dict[str, list[float | torch.Tensor]] = {}
        self.reported = (0, 0.0)
        self.average: dict[str, torch.Tensor] = {}
        self.resume()
        if not self.average:
            self.average = {n: p.detach().clone() for n, p in modules.named_parameters() if p.requires_grad}

    def resume(self) -> None:
        """Resumes from `checkpoint.pt`, if it exists.

        Otherwise the run starts from the weights in `--init`, or from random weights.
        """
        if (self.folder / "checkpoint.pt").exists():
            state = load(self.folder / "checkpoint.pt")
            self.modules.load_state_dict(state["modules"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = state["average"]
            self.seen, self.updates, self.seconds = state["seen"], state["updates"], state["seconds"]
            self.reported = (self.seen, self.seconds)
            print(f"resumed at {self.seen} samples", flush=True)
        elif self.args.init:
            given = load(self.args.init)["modules"]
            print(f"loaded {self.args.init}: {self.modules.load_state_dict(given, strict=False)}", flush=True)

    def autocast(self) -> torch.autocast:
        """Context in which the networks compute: bfloat16 with `--bf16`.

        Weights, averages and losses stay in float32.
        """
        return torch.autocast(torch.device(self.args.device).type, torch.bfloat16, enabled=self.args.bf16)

    def seeded(self) -> np.random.Generator:
        """Seeds torch, and returns a numpy generator.

        Both depend on the seed, the number of samples seen, and the worker.
        """
        torch.manual_seed(self.args.seed + self.seen + worker())
        return np.random.default_rng((self.args.seed, self.seen, worker()))

    def stop(self, *_: object) -> None:
        """Requests a checkpoint and an end after the next common step (SIGTERM).

        The step is common to all workers.
        """
        self.asked = True

    def step(self, loss: torch.Tensor, count: int) -> None:
        """One update from the loss of `count` samples, with clipped gradients."""
        if self.schedule.left(self.seen, self.now) < 1 and not (self.folder / "plateau.pt").exists():
            self.save("plateau.pt")
        rate = self.schedule.rate(self.seen, self.now)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.agree()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        self.seen += count * workers()
        self.updates += 1
        share = 1 - min(self.ema_decay, (1 + self.updates) / (10 + self.updates))
        named = dict(self.modules.named_parameters())
        with torch.no_grad():
            torch._foreach_lerp_([self.average[n] for n in self.trained], [named[n] for n in self.trained], share)
        turned = time.monotonic()
        self.seconds += min(turned - self.turned_at, 60.0)
        self.turned_at = turned
        if self.stopping or turned - self.saved_at > self.args.save_s:
            self.save()
        if self.stopping:
            raise SystemExit(f"stopped at {self.seen} samples; run the same command to resume")

    def agree(self) -> None:
        """Averages the gradients and the clock over all workers.

        A stop request to one worker stops all. Workers have equal weights and base every decision on equal values, so
        they cannot deadlock.
        """
        self.now, self.stopping = time.time(), self.asked
        if workers() == 1:
            return
        gradients = [p.grad for p in self.modules.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        clock = torch.tensor([self.now, float(self.asked)], dtype=torch.float64, device="cpu")
        dist.all_reduce(flat)
        dist.all_reduce(clock)
        self.now, self.stopping = clock[0].item() / workers(), clock[1].item() > 0
        parts = (flat / workers()).split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def note(self, **values: float | torch.Tensor) -> None:
        """Adds values to the means of the next report.

        Tensors stay on their device until then.
        """
        for key, value in values.items():
            self.window.setdefault(key, []).append(value.detach() if isinstance(value, torch.Tensor) else value)

    def report(self, **values: float) -> None:
        """Writes the means since the last report and `values` to log and stdout.

        Only the first worker writes.
        """
        if worker():
            return
        speed = (self.seen - self.reported[0]) / max(self.seconds - self.reported[1], 1e-9)
        self.reported = (self.seen, self.seconds)
        line = {"seen": self.seen, "minutes": round(self.seconds / 60, 1), "per_s": round(speed, 1)}
        line["rate"] = float(f"{self.schedule.rate(self.seen, self.now):.3g}")
        means = {k: float(np.mean([float(x) for x in v])) for k, v in self.window.items()}
        line |= {k: round(v, 5) for k, v in (means | values).items()}
        self.window.clear()
        print(json.dumps(line), flush=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def over(self) -> bool:
        """Whether the schedule has ended."""
        return self.schedule.over(self.seen, self.now)

    def save(self, name: str = "checkpoint.pt") -> None:
        """Writes everything needed to resume; only the first worker writes."""
        self.saved_at = time.monotonic()
        if worker():
            return
        state = {
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "seen": self.seen,
            "updates": self.updates,
            "seconds": self.seconds,
        }
        write(state, self.folder / name)

    def averaged(self) -> dict[str, torch.Tensor]:
        """The state dict with the averaged weights in place of the current ones."""
        return {**self.modules.state_dict(), **self.average}

    def finish(self, **extra: Any) -> None:
        """Saves the checkpoint and `final.pt` with the averaged weights."""
        self.save()
        if worker():
            return
        state = {"modules": self.averaged(), "seen": self.seen, "seconds": self.seconds, **extra}
        write(state, self.folder / "final.pt")


def load(path: Path) -> dict[str, Any]:
    """A saved state, with its tensors on the default device."""
    found: dict[str, Any] = torch.load(path, map_location=torch.get_default_device(), weights_only=True)
    return found


def write(state: dict[str, Any], path: Path) -> None:
    """Saves `state` atomically: `path` is never incomplete."""
    side = path.with_suffix(".tmp")
    torch.save(state, side)
    os.replace(side, path)


def batches(count: int, batch: int, seed: int, skip: int = 0) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Endless shuffled index batches over `count` rows.

    `skip` is the number of samples seen before a resume. Each worker gets its own `batch` rows of every
    `batch * workers()`.
    """
    whole, mine = batch * workers(), slice(worker() * batch, (worker() + 1) * batch)
    epoch, at = divmod(skip, count - count % whole)
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for start in range(at, count - whole + 1, whole):
            yield order[start : start + whole][mine]
        epoch, at = epoch + 1, 0


def workers() -> int:
    """Number of processes that train this run: 1, or as started by torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def worker() -> int:
    """Index of this process among the workers, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def prepare(args: argparse.Namespace) -> None:
    """Sets threads, device, seed and start time of a trainer.

    New tensors are then made on `args.device`. Under torchrun it also joins the other workers.
    """
    torch.set_num_threads(args.threads)
    use(args.device)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    torch.manual_seed(args.seed)
    args.started = time.time()


def use(device: str) -> None:
    """Makes `device` the default of new tensors.

    float32 products on CUDA use TF32.
    """
    torch.set_default_device(device)
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
