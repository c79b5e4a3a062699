"""Folders of tuning runs: full disks and devices, limits, damaged and unwritable files, TensorBoard."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file

from models.protocols import OutOfMemory
from models.tuning import state, stops
from models.tuning.learning import memory
from models.tuning.learning.trainer import Trainer
from models.tuning.run import TuningRun, tune
from models.tuning.settings import TuningError
from tests.contract.tuning_kit import QUICK, opinion, task, tiny

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_the_minutes_of_earlier_processes_count(tmp_path: Path) -> None:
    settings = replace(QUICK, iterations=50, minutes=1000.0)
    run = TuningRun(task(tiny("stable_diffusion_3"), tmp_path, settings), lambda *_: None)
    run.begin()
    vars(run)["_spent"] = 60 * 999.9999
    run.advance()
    assert run.stop == stops.Stop("minutes", "1000 minutes are used")
    resumed = TuningRun(task(tiny("stable_diffusion_3"), tmp_path, settings), lambda *_: None)
    resumed.begin()
    assert resumed.stop == run.stop
    more = TuningRun(task(tiny("stable_diffusion_3"), tmp_path, replace(settings, minutes=2000.0)), lambda *_: None)
    more.begin()
    assert more.stop is None


def test_a_limit_that_a_resumed_run_has_reached_ends_it_with_a_measurement(tmp_path: Path) -> None:
    """Else iterations since the last measurement would be rejected unseen."""
    settings = replace(QUICK, iterations=9, evaluate_every=5)
    run = TuningRun(task(tiny("stable_diffusion_3"), tmp_path, settings), lambda *_: None)
    run.begin()
    run.advance()
    assert run.stop is None
    report = tune(task(tiny("stable_diffusion_3"), tmp_path, replace(settings, iterations=1)))
    assert (report["iterations"], report["chosen"]) == (1, 1)
    assert [row["iteration"] for row in report["measurements"]] == [0, 1]


def test_a_full_disk_ends_the_run_and_it_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, saves = save_file, 0

    def full(tensors: Any, path: Path, meta: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(tensors, path, meta)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(TuningError, match="No space left on device"):
        tune(task(tiny("stable_diffusion_3"), tmp_path / "a"))
    assert [path.name for path in (tmp_path / "a" / "state").iterdir()] == ["run.safetensors"]
    tune(task(tiny("stable_diffusion_3"), tmp_path / "a"))
    tune(task(tiny("stable_diffusion_3"), tmp_path / "b"))
    assert len({(tmp_path / each / state.ADAPTER).read_bytes() for each in "ab"}) == 1


def test_a_full_device_ends_the_run_and_it_resumes_with_checkpointing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    settings = replace(QUICK, iterations=1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "loss", full)
        with pytest.raises(OutOfMemory, match="the device is out of memory"):
            tune(task(tiny("stable_diffusion_3"), tmp_path, settings))
    texts = list[str]()
    resumed = task(tiny("stable_diffusion_3"), tmp_path, replace(settings, checkpointing=True, rows=2))
    assert tune(resumed, lambda _done, text: texts.append(text))["iterations"] == 1
    assert "resumed after iteration 0" in texts


def test_too_little_memory_is_reported_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free_bytes", lambda _device: 2**10)
    with pytest.raises(TuningError, match="use a smaller --batch"):
        tune(task(tiny("stable_diffusion_3"), tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    def unused(prompt: str, images: Any) -> Any:
        raise AssertionError("scored before the folder was tried")

    (tmp_path / "file").touch()
    with pytest.raises(TuningError, match=r"cannot write .lock: .* --out must be a folder"):
        tune(task(tiny("stable_diffusion_3"), tmp_path / "file", reward=opinion("redness", unused)))


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with state.RunFolder(tmp_path).exclusive(), pytest.raises(TuningError, match="another process tunes into --out"):
        tune(task(tiny("stable_diffusion_3"), tmp_path))
    with state.RunFolder(tmp_path).exclusive():
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_adapter_that_no_run_has_made_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / state.ADAPTER).write_bytes(b"bought")
    with pytest.raises(TuningError, match="adapter without the report of a run: use another folder"):
        tune(task(tiny("stable_diffusion_3"), tmp_path))
    assert (tmp_path / state.ADAPTER).read_bytes() == b"bought"
    (tmp_path / state.REPORT).write_text("{}")
    TuningRun(task(tiny("stable_diffusion_3"), tmp_path), lambda *_: None).begin()


def test_a_state_without_all_its_facts_is_damaged(tmp_path: Path) -> None:
    run = TuningRun(task(tiny("stable_diffusion_3"), tmp_path), lambda *_: None)
    run.begin()
    folder = state.RunFolder(tmp_path)
    found = folder.load()
    assert found is not None
    changes: list[dict[str, Any]] = [{"limits": {"blue": 1.0}}, {"history": [{}]}, {"task": None}]
    for change in changes:
        folder.save(found[0], {**found[1], **change})
        with pytest.raises(TuningError, match="state in --out is damaged"):
            TuningRun(task(tiny("stable_diffusion_3"), tmp_path), lambda *_: None).begin()


def test_tensorboard_hides_what_a_dead_process_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[tuple[str, int]]()
    known = dict[tuple[str, int], float]()

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            made.append((Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            known[name, step] = value
            if step == 2:
                raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            made.append(("closed", 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    tune(task(tiny("stable_diffusion_3"), tmp_path, replace(QUICK, iterations=1)))
    assert made == [("tensorboard", 0), ("closed", 0)]
    report = (tmp_path / state.REPORT).read_bytes()
    tune(task(tiny("stable_diffusion_3"), tmp_path, replace(QUICK, iterations=1)))
    assert len(made) == 2, "a run that is done writes nothing"
    assert (tmp_path / state.REPORT).read_bytes() == report
    assert {"held_out/reward", "training/loss"} <= {name for name, step in known if step == 1}
    with pytest.raises(TuningError, match="cannot write tensorboard: No space left on device"):
        tune(task(tiny("stable_diffusion_3"), tmp_path))
    assert made[2:] == [("tensorboard", 2)]


def test_a_run_without_a_state_drops_an_earlier_log(tmp_path: Path) -> None:
    (tmp_path / state.LOG).write_text('{"iteration": 0}\n{"iteration": 7}\n')
    TuningRun(task(tiny("stable_diffusion_3"), tmp_path), lambda _d, _t: None).begin()
    (line,) = map(json.loads, (tmp_path / state.LOG).read_text().splitlines())
    assert line["measured"]
