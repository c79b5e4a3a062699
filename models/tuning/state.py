"""The folder of a run: its state, its log, and files that are whole or absent."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from models.tuning.settings import TuningError

ADAPTER = "pytorch_lora_weights.safetensors"
"""The adapter's file, by the name that diffusers and LoRA folders expect."""

REPORT, LOG = "report.json", "log.jsonl"

_STATE = "state/run.safetensors"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, then move it there.

    Raises TuningError if it cannot be written, such as on a full disk; then the earlier file stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> TuningError:
    """The error of a file that cannot be written."""
    why = getattr(error, "strerror", None) or str(error)
    return TuningError(
        f"cannot write {path.name}: {why}. --out must be a folder with free space that you may write to; then the same "
        "command resumes"
    )


def damaged() -> TuningError:
    """The error of a state that cannot be read."""
    return TuningError("the state in --out is damaged: use another folder, or delete its folder state")


class RunFolder:
    """The folder `--out` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def has_state(self) -> bool:
        """Whether a run has begun in it."""
        return (self.folder / _STATE).is_file()

    def save(self, tensors: dict[str, Any], facts: dict[str, Any]) -> None:
        """Replace the state. Raises TuningError."""
        meta = {"run": json.dumps(facts, allow_nan=False)}
        write_whole(self.folder / _STATE, lambda part: save_file(tensors, part, meta))

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Tensors and facts of the state; None if there is none.

        Raises TuningError for a damaged one.
        """
        path = self.folder / _STATE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["run"])
            return load_file(path), facts
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise damaged() from error

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to the log. Raises TuningError."""
        path = self.folder / LOG
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise unwritable(path, error) from error

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes out of the folder; it ends with the process.

        Raises TuningError if another one is in it, and if the folder cannot be written.
        """
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise unwritable(path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TuningError(
                    "another process tunes into --out: wait until it ends, or use another folder"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # file systems without locks
                    raise
            yield

    def begin(self) -> None:
        """Make the folder, without an earlier log.

        Raises TuningError if it cannot be written, and for an adapter that no run has made: it would be lost.
        """
        if (self.folder / ADAPTER).is_file() and self.read_json(REPORT) is None:
            raise TuningError("--out holds an adapter without the report of a run: use another folder")
        self.rewind(-1)

    def rewind(self, iteration: int) -> None:
        """Drop lines of the log after an iteration, and torn ones.

        Makes the folder and the log if there are none. Raises TuningError if that fails.
        """
        path = self.folder / LOG
        kept = []
        for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
            with suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["iteration"] <= iteration:
                    kept.append(line)
        write_whole(path, lambda part: part.write_text("".join(f"{line}\n" for line in kept)))

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Replace a JSON file. Raises TuningError."""
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        write_whole(self.folder / name, lambda part: part.write_text(text))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None if there is none, or if it is damaged."""
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text())
        except (OSError, ValueError):
            return None
        return found

    def save_adapter(self, pipe: Any, part: str, tensors: dict[str, Any]) -> None:
        """Replace the adapter's file, which stock diffusers loads. Raises TuningError."""

        def write(path: Path) -> None:
            layers = {f"{part}_lora_layers": tensors}
            path.touch()
            mode = path.stat().st_mode
            type(pipe).save_lora_weights(path.parent, weight_name=path.name, **layers)
            path.chmod(mode)  # safetensors makes files private; a server may run as another user

        write_whole(self.folder / ADAPTER, write)
