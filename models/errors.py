"""Errors of loading models and of scorers, and the check for a full host.

Messages hold no local path, address or key.

    ModelError
    ├── ModelNotFound      no such pack, folder, hub id or package
    ├── ModelUnsupported   found, but it cannot run here
    └── PackCorrupt        a file of a pack is missing or does not match its checksum

`ScoringFailed` is apart: the model is loaded, and one call of it gave no scores.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

FailureReason: TypeAlias = Literal[
    "timeout", "unreachable", "rate_limited", "refused", "unreadable", "budget_spent", "no_positions"
]
"""Why a scorer gave no scores.

`refused`: the endpoint rejects the request or the key. `unreadable`: the answer holds no score. `budget_spent`: the
calls of today are used up. `no_positions`: the text does not say where things are.
"""


class ModelError(RuntimeError):
    """A model could not be loaded."""


class ModelNotFound(ModelError):
    """No model has that name, or its hub is unreachable."""


class ModelUnsupported(ModelError):
    """The model exists, but needs something that is not available here."""


class PackCorrupt(ModelError):
    """A file of a pack is missing or does not match its checksum."""


class ScoringFailed(RuntimeError):
    """A scorer gave no scores of these images. The message can be shown to users."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_host_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch means that host memory is full.

    Torch has no error class for it.
    """
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
