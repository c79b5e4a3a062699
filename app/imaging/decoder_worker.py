"""Child process that decodes uploads one by one for `app.imaging.decoder_pool`.

Run as `python -m app.imaging.decoder_worker MEMORY_MIB`. It sends `{}` when it is ready and ends with its stdin. A job
on stdin is one line of JSON and `length` bytes. A response on stdout is four bytes of length, JSON of that length and,
after a decode, the pixels: width x height x 3 bytes, or x 4 with alpha. The process limits its own address space. An
alarm ends a job that a dead parent cannot stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from app.errors import FrontrunnerError, TooComplex
from app.imaging.decoding import decoded, measure, parse_image_text, strips, texts

_STATUS = Path("/proc/self/statm")

_NICENESS = 5
"""Lowers the priority of decoding below that of answering requests."""


def main() -> None:
    """Serve jobs until stdin ends."""
    memory_mib = int(sys.argv[1])
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries must not mix with responses
    _limit_memory(memory_mib * 2**20)
    with suppress(AttributeError):  # Windows has none
        os.nice(_NICENESS)
    _say(answers, {})
    while line := jobs.readline():
        job = json.loads(line)
        with suppress(AttributeError):  # Windows has no alarm
            signal.alarm(job["alarm_s"])
        _answer(answers, job, jobs.read(job["length"]), memory_mib)
        with suppress(AttributeError):
            signal.alarm(0)


def _answer(answers: BinaryIO, job: dict[str, Any], data: bytes, memory_mib: int) -> None:
    try:
        if job["uri"]:
            data = parse_image_text(data.decode("utf-8", "surrogatepass"))
        if job["task"] == "measure":
            width, height = measure(data, job["max_pixels"], job["declared"])
            _say(answers, {"width": width, "height": height})
            return
        if job["task"] == "texts":
            _say(answers, {"texts": texts(data, job["max_pixels"], job["declared"])})
            return
        with decoded(data, job["max_pixels"], job["declared"]) as image:
            _send(answers, image, job["alpha"])
    except FrontrunnerError as error:
        _say(answers, {"error": error.code, "detail": error.detail})
    except MemoryError:
        limit = TooComplex(
            f"decoding the image exceeds the limit of {memory_mib} MiB of memory: send it with fewer pixels"
        )
        _say(answers, {"error": limit.code, "detail": limit.detail})


def _send(answers: BinaryIO, image: Image.Image, alpha: bool) -> None:
    """Send the pixels.

    A failure ends the process: a started pixel stream cannot become an error.
    """
    try:
        _say(answers, {"width": image.width, "height": image.height})
        for strip in strips(image, alpha=alpha):
            answers.write(strip.data)
        answers.flush()
    except BaseException:
        os._exit(1)


def _say(answers: BinaryIO, told: dict[str, Any]) -> None:
    text = json.dumps(told).encode()
    answers.write(len(text).to_bytes(4, "big") + text)
    answers.flush()


def _limit_memory(size: int) -> None:
    """Allow `size` bytes beyond the current mapping, where supported."""
    try:
        import resource
    except ImportError:  # Windows
        return
    mapped = int(_STATUS.read_text().split()[0]) * resource.getpagesize() if _STATUS.exists() else 0
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        _, most = resource.getrlimit(kind)
        limit = mapped + size if most == resource.RLIM_INFINITY else min(most, mapped + size)
        with suppress(ValueError, OSError):  # macOS rejects some of them
            resource.setrlimit(kind, (limit, limit))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
