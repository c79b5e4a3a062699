"""Errors of the libraries that load models, as errors that name the model.

Their messages hold no local path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import ModelNotFound, ModelUnsupported, is_host_out_of_memory
from models.protocols import OutOfMemory
from models.runtime.placement import FILE_ERRORS

SAVE_MEMORY = "use a smaller model, FRONTRUNNER_QUANTIZATION or FRONTRUNNER_OFFLOAD"
"""What to do if a model does not fit."""

_INCONSISTENT = (RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError)
"""Errors of the libraries for files that can be read and do not fit each other."""


@contextmanager
def named_errors(model: str, *, missing: str, device: object) -> Iterator[None]:
    """Load a model; raises ModelNotFound and ModelUnsupported with its name.

    `model` is its kind and name, `missing` what an unreadable file means, `device` where it is to run.
    """
    try:
        yield
    except (ModelNotFound, ModelUnsupported) as error:
        raise type(error)(f"{model}: {error}") from error
    except ImportError as error:
        raise ModelUnsupported(f"{model}: a part of the model needs a missing package; install it: {error}") from error
    except FILE_ERRORS as error:
        raise ModelNotFound(f"{model}: {missing}") from error
    except (MemoryError, *_INCONSISTENT) as error:
        if isinstance(error, torch.OutOfMemoryError | OutOfMemory) or is_host_out_of_memory(error):
            reason = f"the model does not fit into the memory of {device}; {SAVE_MEMORY}"
            raise ModelUnsupported(f"{model}: {reason}") from error
        raise ModelUnsupported(
            f"{model}: the model's files are inconsistent ({type(error).__name__}); download or save it again"
        ) from error
