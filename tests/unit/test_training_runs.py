"""Training in several processes: equal weights, every row once, one checkpoint."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from models.training import runs  # noqa: E402
from tests.servers import free_port  # noqa: E402

pytestmark = pytest.mark.torch


def train(rank: int, folder: Path, workers: int) -> None:
    """Four updates of a linear layer, each worker on its share of the rows; writes what it ended with."""
    if workers > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = (folder / "port").read_text()
    parser = argparse.ArgumentParser()
    runs.add_arguments(parser, rate=0.1, batch=8 // workers, samples=32)
    args = parser.parse_args(["--runs", str(folder)])
    runs.prepare(args)
    torch.manual_seed(3)
    layer = torch.nn.Linear(4, 1)
    run = runs.Run(folder / "run", args, torch.nn.ModuleDict({"layer": layer}))
    run.schedule.warmup = 0
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(4))
    order, used = runs.batches(64, args.batch, args.seed), []
    while not run.over():
        used.append(next(order))
        run.step(layer(rows[used[-1]]).square().mean(), args.batch)
    run.finish()
    state = {"weight": layer.weight.detach(), "seen": run.seen, "used": torch.from_numpy(np.concatenate(used))}
    torch.save(state, folder / f"worker-{workers}-{rank}.pt")


@pytest.mark.soak
def test_two_workers_train_what_one_would(tmp_path: Path) -> None:
    (tmp_path / "port").write_text(str(free_port()))
    torch.multiprocessing.spawn(train, args=(tmp_path, 2), nprocs=2)
    assert (tmp_path / "run" / "final.pt").exists()
    (tmp_path / "run").rename(tmp_path / "run-2")
    train(0, tmp_path, 1)
    one, first, second = (torch.load(tmp_path / f"worker-{n}.pt") for n in ("1-0", "2-0", "2-1"))
    assert torch.equal(first["weight"], second["weight"])
    assert torch.allclose(first["weight"], one["weight"], atol=1e-5)
    assert first["seen"] == second["seen"] == one["seen"] == 32
    both = torch.stack([first["used"].view(4, 4), second["used"].view(4, 4)], 1).reshape(-1)
    assert torch.equal(both, one["used"])


def new_run(folder: Path, layer: Any, *options: str) -> runs.Run:
    """A run of one batch."""
    parser = argparse.ArgumentParser()
    runs.add_arguments(parser, rate=0.1, batch=8, samples=8)
    args = parser.parse_args(["--runs", str(folder), *options])
    runs.prepare(args)
    return runs.Run(folder / "run", args, torch.nn.ModuleDict({"layer": layer}))


def test_a_report_is_the_mean_of_numbers_and_tensors(tmp_path: Path) -> None:
    run = new_run(tmp_path, torch.nn.Linear(4, 1))
    run.note(loss=1.0)
    run.note(loss=torch.tensor(2.0, requires_grad=True))
    run.report()
    assert '"loss": 1.5' in (tmp_path / "run" / "log.jsonl").read_text()


def test_bfloat16_computes_and_float32_keeps(tmp_path: Path) -> None:
    layer = torch.nn.Linear(4, 1)
    run = new_run(tmp_path, layer, "--bf16")
    with run.autocast():
        found = layer(torch.randn(8, 4))
    run.step(found.float().square().mean(), 8)
    assert found.dtype is torch.bfloat16
    assert {p.dtype for p in layer.parameters()} == {torch.float32}
    assert run.averaged()["layer.weight"].dtype is torch.float32


@pytest.mark.parametrize("seen", [0, 4, 8, 12, 20])
def test_a_run_goes_on_with_the_rows_it_had_not_seen(seen: int) -> None:
    """Ten rows in batches of four: the last two of an epoch are left out, and are not gone on with."""
    whole, rest = runs.batches(10, 4, 1), runs.batches(10, 4, 1, seen)
    for _ in range(seen // 4):
        next(whole)
    assert [next(whole).tolist() for _ in range(4)] == [next(rest).tolist() for _ in range(4)]
