"""Pool of killable child processes that decode uploads.

A decoder in C cannot be interrupted within a process, and its thread delays shutdown. So children parse every byte of
a caller's image, with a deadline and a memory limit. The pool kills and replaces a child whose result is no longer
needed. Children import Pillow and NumPy; they start with the first upload.

Owns the children and the parent side of the protocol. `app.imaging.decoding` owns the limits of uploads.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import (
    BadImage,
    DecoderUnavailable,
    FrontrunnerError,
    InvalidRequest,
    TooComplex,
    TooLarge,
    UnsupportedMedia,
)

ROOT = Path(__file__).parents[2]
"""The folder that contains `app`."""

HEADER, MAX_TOLD = 4, 2**19
"""Bytes of a response's length field, and of its longest JSON."""

FAREWELL_S = 1.0
"""Seconds that a child may take to end once its pipes are closed."""

_ERRORS = {error.code: error for error in (BadImage, InvalidRequest, TooComplex, TooLarge, UnsupportedMedia)}
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONHOME")
"""Environment variables of a child; none holds an address or secret."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upload:
    """An image as received: file bytes with `declared` media type, or a data URI.

    With `alpha`, it is decoded to four channels; otherwise transparency becomes white.
    """

    data: bytes | str
    declared: str | None = None
    alpha: bool = False


class _Died(Exception):
    """The child ended during a job; if `by_system`, the system killed it."""

    by_system = False


class GuardedDecoder:
    """Decodes images of remote generators in child processes, as uploads are."""

    def __init__(self, max_pixels: int = 40_000_000) -> None:
        self._pool = DecoderPool()
        self._max_pixels = max_pixels

    async def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return pixels (H, W, 3).

        Raises ValueError for what is no image within the limits.
        """
        try:
            return await self._pool.decode(Upload(data), self._max_pixels)
        except FrontrunnerError as error:
            raise ValueError(error.detail) from error

    async def close(self) -> None:
        """Kill every child."""
        await self._pool.close()


class DecoderPool:
    """Pool of at most `processes` children.

    A job may take `timeout_s` seconds and `memory_mib` MiB beyond the interpreter's own memory.
    """

    def __init__(self, processes: int = 2, timeout_s: float = 15.0, memory_mib: int = 1024) -> None:
        self._timeout_s = timeout_s
        self._memory_mib = memory_mib
        self._slots = [_Slot(memory_mib) for _ in range(processes)]
        self._free: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in reversed(self._slots):
            self._free.put_nowait(slot)
        self._threads = ThreadPoolExecutor(processes, "decoders")

    async def measure(self, upload: Upload, max_pixels: int) -> tuple[int, int]:
        """Return width and height from the header, before rotation. Raises as `decode`."""
        told, _ = await self._run(upload, max_pixels, "measure")
        return int(told["width"]), int(told["height"])

    async def texts(self, upload: Upload, max_pixels: int) -> dict[str, str]:
        """Return texts of the metadata, as `decoding.texts` does. Raises as `decode`."""
        told, _ = await self._run(upload, max_pixels, "texts")
        return {str(name): str(text) for name, text in told["texts"].items()}

    async def decode(self, upload: Upload, max_pixels: int) -> NDArray[np.uint8]:
        """Return pixels (H, W, 3), or (H, W, 4) with alpha, see `strips`.

        Cancelling kills the child.
        Raises BadImage, InvalidRequest, TooComplex, TooLarge, UnsupportedMedia and DecoderUnavailable.
        """
        _, pixels = await self._run(upload, max_pixels, "decode")
        return pixels

    async def close(self) -> None:
        """Kill every child and wait for its end. The pool accepts no further job."""
        for slot in self._slots:
            slot.kill()
        await asyncio.to_thread(self._threads.shutdown)
        for slot in self._slots:
            slot.end()

    async def _run(self, upload: Upload, max_pixels: int, task: str) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        job = {
            "uri": isinstance(upload.data, str),
            "declared": upload.declared,
            "max_pixels": max_pixels,
            "task": task,
            "alpha": upload.alpha,
            "alarm_s": math.ceil(self._timeout_s) + 5,
        }
        slot = await self._free.get()

        def free(ended: asyncio.Future[Any]) -> None:
            """Release the slot once its thread has ended, even for a killed child."""
            if not ended.cancelled():
                ended.exception()  # the result may have no reader
            self._free.put_nowait(slot)

        starting = self._in_thread(slot.start)
        try:
            await asyncio.shield(starting)  # a cancelled job does not stop its thread
        except BaseException:
            starting.add_done_callback(free)
            raise
        working = self._in_thread(lambda: slot.exchange(job, upload.data))
        working.add_done_callback(free)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(working)
        except TimeoutError:
            raise TooComplex(
                f"decoding the image exceeds the limit of {self._timeout_s:g} s: send it with fewer pixels"
            ) from None
        except _Died as died:
            raise self._refusal(died) from None
        finally:
            if not working.done():
                slot.kill()

    def _refusal(self, died: _Died) -> BadImage | TooComplex:
        if died.by_system:
            return TooComplex(
                f"the system stopped decoding the image; the limits are {self._memory_mib} MiB of memory"
                f" and {self._timeout_s:g} s: send it with fewer pixels"
            )
        return BadImage("the decoder failed on this image: save the image again with an editor")

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Slot:
    """One child process.

    `start`, `exchange` and `end` block; call them one at a time. Any thread may call `kill`.
    """

    def __init__(self, memory_mib: int) -> None:
        self._memory_mib = memory_mib
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a child unless one is ready. Raises DecoderUnavailable."""
        if self._child is not None and self._child.poll() is None:
            return
        self.end()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-W", "ignore", "-m", "app.imaging.decoder_worker", str(self._memory_mib)]
        try:
            self._child = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._heard()
        except (OSError, _Died) as error:
            self.end()
            raise DecoderUnavailable("no image decoder process can be started: retry later") from error

    def exchange(self, job: dict[str, Any], data: bytes | str) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """Run a job; return its response, and the pixels of a decode (else empty).

        Raises _Died and the errors that the child reports.
        """
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        try:
            self._send(json.dumps({**job, "length": len(raw)}).encode() + b"\n")
            self._send(raw)
            told = self._heard()
            if "error" in told:
                raise _ERRORS[told["error"]](told["detail"])
            width, height = (int(told[side]) if job["task"] == "decode" else 0 for side in ("width", "height"))
            return told, self._pixels(width, height, job)
        except (OSError, ValueError, LookupError, _Died) as error:
            died = _Died()
            died.by_system = self.end() == -signal.SIGKILL
            raise died from error

    def kill(self) -> None:
        """Kill the child immediately."""
        child = self._child
        if child is not None:
            child.kill()

    def end(self) -> int | None:
        """Close the pipes and end the child; return its exit status, if any."""
        child, self._child = self._child, None
        if child is None:
            return None
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):  # unflushed data has no reader
                    pipe.close()
        try:
            return child.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def _send(self, data: bytes) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        left = memoryview(data)
        while left:
            left = left[self._child.stdin.write(left) :]

    def _heard(self) -> dict[str, Any]:
        length = int.from_bytes(self._received(bytearray(HEADER)), "big")
        told: dict[str, Any] = json.loads(bytes(self._received(bytearray(min(length, MAX_TOLD)))))
        return told

    def _received(self, place: bytearray | memoryview) -> bytearray | memoryview:
        """Fill `place` from the child without Python's buffers.

        So new memory pages are first touched within a system call. That may take long, but other threads can run.
        """
        assert self._child is not None
        assert self._child.stdout is not None
        left = memoryview(place)
        while left:
            got = self._child.stdout.readinto(left)  # type: ignore[attr-defined]
            if not got:
                raise _Died
            left = left[got:]
        return place

    def _pixels(self, width: int, height: int, job: Mapping[str, Any]) -> NDArray[np.uint8]:
        if not 0 <= width * height <= job["max_pixels"]:
            raise _Died
        pixels = np.empty((height, width, 4 if job["alpha"] else 3), np.uint8)
        if pixels.size:
            self._received(pixels.data.cast("B"))
        return pixels
