"""Errors of the libraries that load models, as errors that name the model.

Owns the refusal of incomplete weights, which the libraries fill at random. Messages hold no local path.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import transformers

from models.errors import ModelNotFound, ModelUnsupported, is_host_out_of_memory
from models.protocols import OutOfMemory
from models.runtime.placement import FILE_ERRORS

SAVE_MEMORY = "use a smaller model, FRONTRUNNER_QUANTIZATION or FRONTRUNNER_OFFLOAD"
"""What to do if a model does not fit."""

Gaps: TypeAlias = list[tuple[Any, frozenset[str]]]
"""Loaded models, each with the names of tensors that its files lack."""

_NO_WEIGHTS = re.compile(r"(^|\.)position_ids$")
"""Tensors that are made, not trained; only older files hold them."""

_NO_PART_OF_TEXTS = re.compile(r"(^|\.)(position_ids|logit_scale|lm_head(\.\w+)*)$")
"""Tensors that no text encoding depends on; publishers leave them out."""

_NAMED_TENSORS = 3

_INCONSISTENT = (
    RuntimeError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    pickle.UnpicklingError,
)
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


@contextmanager
def noted_gaps() -> Iterator[Gaps]:
    """Load models; yields those of transformers that lack tensors.

    transformers draws missing tensors at random and only logs it. Its loaders report them on request; libraries that
    load whole pipelines make no such request, so it is added here. Use it from one thread.
    """
    gaps: Gaps = []
    base = transformers.PreTrainedModel
    own = vars(base)["from_pretrained"]

    def from_pretrained(cls: Any, /, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        model, info = own.__func__(cls, *args, output_loading_info=True, **options)
        if info["missing_keys"]:
            gaps.append((model, frozenset(info["missing_keys"])))
        return (model, info) if output_loading_info else model

    base.from_pretrained = classmethod(from_pretrained)
    try:
        yield gaps
    finally:
        base.from_pretrained = own


def check_complete(parts: Mapping[str, Any], gaps: Gaps, *, heads: bool = False) -> None:
    """Raise ModelNotFound for the first part whose files lack tensors that it needs.

    With `heads`, the model's answers are used, not only its encodings of texts. diffusers leaves missing tensors
    without values, on the device `meta`.
    """
    unused = _NO_WEIGHTS if heads else _NO_PART_OF_TEXTS
    for name, part in parts.items():
        if not isinstance(part, torch.nn.Module):
            continue
        tensors = part.state_dict()
        missing = {key for key, tensor in tensors.items() if getattr(tensor, "is_meta", False)}
        missing |= {key for model, keys in gaps if model is part for key in keys}
        lost = sorted(key for key in missing if not unused.search(key))
        if lost:
            shown = ", ".join(lost[:_NAMED_TENSORS]) + (", ..." if len(lost) > _NAMED_TENSORS else "")
            raise ModelNotFound(
                f"the {name} lacks {len(lost)} of {len(tensors)} tensors ({shown}); download or save the model again"
            )
