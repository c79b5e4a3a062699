"""Messages as bytes, for workers in other processes.

Owns which classes may occur in them. Pickle of protocol 5, read by a reader that builds only values of the messages.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

_PACKAGES = ("app.domain.", "app.engine.", "models.protocols.", "models.loras")
"""Packages whose dataclasses and enumerations may occur."""

_ARRAYS = frozenset(
    {
        "numpy.ndarray",
        "numpy.dtype",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
    }
)
"""What arrays are built with."""


def encode(message: object) -> bytes:
    """The bytes of a message of `messages`."""
    return pickle.dumps(message, protocol=5)


def decode(data: bytes | memoryview) -> Any:
    """The message of these bytes.

    Raises ValueError for bytes that are no message, or that name other classes.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, KeyError) as error:
        raise ValueError(f"these bytes are no message between workers: {error}") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class of a name, if it may occur. Raises UnpicklingError."""
        full = f"{module}.{name}"
        if full in _ARRAYS:
            return super().find_class(module, name)
        if f"{module}.".startswith(_PACKAGES):
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Enum)):
                return found
        raise pickle.UnpicklingError(f"{full} is not part of any message")
