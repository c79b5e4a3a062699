"""Where models run: device, number format, threads, and memory errors.

Owns what generators and scorers share on the torch side, such as the packaged text encoder. Knows no pipeline.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import threadpoolctl
import torch
import transformers
from safetensors import SafetensorError

from models.errors import ModelUnsupported, is_host_out_of_memory
from models.pack import Pack
from models.protocols import OutOfMemory
from models.runtime.row_parallel import RowParallel
from models.runtime.traced_calls import TracedCall

FILE_ERRORS = (OSError, ValueError, SafetensorError)
"""Errors of the libraries for a missing, partial or unreadable model."""

_DEVICE_FULL = (
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""Texts of errors of libraries on a full device.

The allocator of torch has an error class of its own.
"""

_FINGERPRINT_VALUES = 32
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, slots=True)
class DevicePlacement:
    """Device and floating-point type of a model, and the sharing of its rows.

    `traces` is whether calls on a host may be traced.
    """

    device: Any
    dtype: Any
    parallel: RowParallel
    traces: bool = True

    @property
    def on_cpu(self) -> bool:
        """Whether the model runs in host memory."""
        return bool(self.device.type == "cpu")

    def traced(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call for this device: traced on the host, unchanged elsewhere."""
        return TracedCall(call) if self.on_cpu and self.traces else call

    def untraced(self) -> DevicePlacement:
        """The same device without traces and without row parallelism."""
        return replace(self, parallel=RowParallel(1), traces=False)

    def wait(self) -> None:
        """Return once the device has done all calls of this thread; a host always has.

        Calls of a GPU return before they are done. So without this the seconds of a call are those of another one.
        """
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @property
    def dtype_name(self) -> str:
        """The type without the `torch.` prefix, such as `float32`."""
        return str(self.dtype).removeprefix("torch.")


def select_device(device: str, dtype: str = "auto") -> DevicePlacement:
    """The placement for a device name; `auto` is CUDA if available.

    `dtype` is a number format; `auto` is float32 on CPUs, where half precision is slow, and on Apple GPUs (`mps`). On
    CUDA it is bfloat16, or float16 before Ampere. Raises ModelUnsupported for a device that is not available.
    """
    device = _available(device)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelUnsupported(f"device {device!r} is not available; use auto, cpu, cuda[:n] or mps") from error
    where = torch.device(device)
    parallel = RowParallel(torch.get_num_threads() if where.type == "cpu" else 1)
    if dtype != "auto" or where.type != "cuda":
        return DevicePlacement(where, torch.float32 if dtype == "auto" else getattr(torch, dtype), parallel)
    ampere = torch.cuda.get_device_capability(where) >= (8, 0)
    return DevicePlacement(where, torch.bfloat16 if ampere else torch.float16, RowParallel(1))


def device_name(device: str) -> str:
    """The one name of a device that has several: `cuda:0` for `auto` and `cuda`."""
    found = _available(device)
    return f"cuda:{torch.cuda.current_device()}" if found == "cuda" and torch.cuda.is_available() else found


def _available(device: str) -> str:
    """The device that `auto` stands for; any other one as it is."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare_process() -> None:
    """Use all available cores, and silence the libraries. Once per process.

    NumPy's matrix products get one thread. More threads of its own pool would spin on the cores that torch needs.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_available_cores())
    threadpoolctl.threadpool_limits(1, user_api="blas")
    with contextlib.suppress(RuntimeError):  # only the first call in a process can set it
        torch.set_num_interop_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _available_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CGROUP_QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress the libraries' deprecation warnings while models are loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "The `local_dir_use_symlinks`", UserWarning)
        yield


@contextlib.contextmanager
def memory_guard(placement: DevicePlacement | None = None) -> Iterator[None]:
    """Run device work without gradients; raise `OutOfMemory` if memory is full.

    With a placement, the block ends when the device has done the work.
    """
    try:
        with torch.inference_mode():
            yield
        if placement is not None:
            placement.wait()
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory("the device is out of memory") from error
    except (RuntimeError, MemoryError) as error:
        if any(sign in str(error) for sign in _DEVICE_FULL):
            _empty_caches()
            raise OutOfMemory("the device is out of memory") from error
        if not is_host_out_of_memory(error):
            raise
        raise OutOfMemory("the host is out of memory") from error


@contextlib.contextmanager
def gradient_guard() -> Iterator[None]:
    """Run device work with gradients; raise `OutOfMemory` if memory is full."""
    with memory_guard(), torch.inference_mode(False), torch.enable_grad():
        yield


def _empty_caches() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def fingerprint(*modules: Any) -> str:
    """Twelve hex digits that change when a tensor of these modules changes."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            if not isinstance(tensor, torch.Tensor):
                continue
            flat = _dense(tensor.detach()).flatten()
            sample = flat[:: max(1, len(flat) // _FINGERPRINT_VALUES)][:_FINGERPRINT_VALUES]
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(sample.cpu().double().numpy().tobytes())
    return digest.hexdigest()[:12]


def _dense(tensor: Any) -> Any:
    """The values of a tensor, quantised or not."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return tensor
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor.dequantize()


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A pack's text encoder: float32 `model` on its device, and its `tokenizer`."""

    model: Any
    tokenizer: Any
    folder: Path


def load_text_encoder(pack: Pack, placement: DevicePlacement) -> TextEncoder:
    """The packaged text encoder, for the generator and the scorer."""
    folder = pack.text_encoder_folder()
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True)
    model.config.use_attention_mask = pack.text_encoder["use_attention_mask"]
    tokenizer = transformers.BertTokenizer.from_pretrained(
        folder, local_files_only=True, model_max_length=pack.text_encoder["max_length"]
    )
    return TextEncoder(model.to(placement.device).eval(), tokenizer, folder)
