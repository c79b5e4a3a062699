"""What models do on a device that is not a host: waiting for its calls, its number formats, its memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from models.families import NATIVE_LOOPS
from models.protocols import OutOfMemory, StepRow
from models.runtime.placement import DevicePlacement, memory_guard, select_device
from models.runtime.row_parallel import RowParallel
from models.scorers.batching import arithmetic
from tests.contract import tiny

pytestmark = pytest.mark.torch


def test_a_step_ends_when_the_device_has_done_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the engine would learn from the seconds of another call."""
    pipe, placement = tiny.sd(tmp_path, "epsilon"), select_device("cpu")
    generator = NATIVE_LOOPS[type(pipe).__name__](pipe, placement, id="tiny", revision="1")
    waits = list[DevicePlacement]()
    monkeypatch.setattr(DevicePlacement, "wait", lambda self: waits.append(self))
    info = generator.info
    schedule, text = generator.schedule(info.sampler, 2, 16, 16), generator.encode(["a"])[0]
    row = StepRow(generator.noise(0, 16, 16, schedule), text, None, 1.0, schedule, 0, 0)
    assert not waits
    generator.step([row], 1)
    assert waits == [placement]


def test_waiting_is_for_the_stream_of_the_devices_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[str]()

    def stream(device: Any) -> Any:
        return SimpleNamespace(synchronize=lambda: waited.append(str(device)))

    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    DevicePlacement(torch.device("cuda:1"), torch.bfloat16, RowParallel(1)).wait()
    DevicePlacement(torch.device("cpu"), torch.float32, RowParallel(1)).wait()
    assert waited == ["cuda:1"]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    ],
)
def test_a_library_without_memory_on_the_device_is_out_of_memory(text: str) -> None:
    """Then the engine makes smaller calls, instead of failing the generation."""
    with pytest.raises(OutOfMemory, match="device"), memory_guard():
        raise RuntimeError(text)


def test_errors_of_waiting_are_those_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: DevicePlacement) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(DevicePlacement, "wait", full)
    with pytest.raises(OutOfMemory), memory_guard(select_device("cpu")):
        pass


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", torch.bfloat16), ("float32", None)])
def test_scorers_compute_in_half_precision_only_if_the_placement_is_of_it(dtype: str, wanted: Any) -> None:
    device = SimpleNamespace(type="cpu")
    placement: Any = SimpleNamespace(on_cpu=False, dtype=getattr(torch, dtype), device=device)
    with arithmetic(placement):
        assert torch.is_autocast_enabled("cpu") is (wanted is not None)
        if wanted is not None:
            assert torch.get_autocast_dtype("cpu") == wanted
