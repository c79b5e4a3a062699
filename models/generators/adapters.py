"""LoRA adapters of a pipeline: loading, and switching between calls.

Adapters are global to a module, so all rows of a call have the same. peft holds them beside the weights: without active
adapters a layer computes what it did before. Compiled models run uncompiled with adapters: each weight would be a
compilation.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError

from models.errors import ModelUnsupported
from models.loras import Lora, LoraFolder
from models.runtime.placement import quiet_libraries

LOADED = 16
"""Adapters that stay loaded; the least recently used one is unloaded first."""

_PEFT = "0.21.0"
"""The oldest peft that is tested with text encoders.

transformers asks for a later one.
"""

_Version: TypeAlias = tuple[int, int]


class Adapters:
    """The adapters of one pipeline. Use it from one thread.

    `active` are those of the next call.
    """

    def __init__(self, pipe: Any, loras: LoraFolder | None, *, own_texts: bool = True) -> None:
        """Take a loaded pipeline and the folder of adapters, if any.

        `own_texts`: adapters may change the text encoders, because nothing else uses them. Raises ModelUnsupported if
        there is a folder and peft is missing.
        """
        self.active: tuple[Lora, ...] = ()
        self._pipe = pipe
        self._folder = loras if hasattr(pipe, "load_lora_weights") else None
        self._own_texts = own_texts
        self._loaded: OrderedDict[str, tuple[str, _Version]] = OrderedDict()
        self._weighted: tuple[Lora, ...] | None = None
        self._layers: list[Any] = []
        self._count = 0
        self._compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part in self._modules())
        if self._folder is not None:
            try:
                import peft  # noqa: F401
            except ImportError as error:
                raise ModelUnsupported("LoRA adapters need the package peft: install it") from error

    @property
    def default(self) -> tuple[Lora, ...] | None:
        """The adapters of requests that name none; None if the pipeline takes no adapters."""
        return None if self._folder is None else self._folder.default

    def current(self) -> tuple[Lora, ...]:
        """The active adapters."""
        return self.active

    def use(self, loras: tuple[Lora, ...]) -> None:
        """Activate these adapters, and only these, for the next calls.

        Raises ValueError for an unknown name, a file that is damaged, and an adapter of another model; then none is
        active.
        """
        if loras == self.active:
            return
        self._enable(on=False)
        self.active = ()
        if not loras:
            return
        if self._folder is None:
            raise ValueError("this model takes no LoRA adapters: omit `loras`")
        names = [self._load(lora.name) for lora in loras]
        if loras != self._weighted:
            with loading():
                self._pipe.set_adapters(names, [lora.weight for lora in loras])
            self._weighted = loras
        self._enable(on=True)
        self.active = loras

    def _load(self, name: str) -> str:
        """The adapter's name in the pipeline, after it was loaded.

        A changed file is loaded again.
        """
        assert self._folder is not None
        path = self._folder.file(name)
        status = path.stat()
        version = status.st_mtime_ns, status.st_size
        known = self._loaded.get(name)
        if known is not None and known[1] == version:
            self._loaded.move_to_end(name)
            return known[0]
        if known is not None:
            self._unload(name)
        own = f"adapter{self._count}"
        self._count += 1
        self._weighted = None
        try:
            self._read(path, own, name)
        except BaseException:
            self._delete(own)
            raise
        finally:
            self._find_layers()
            self._enable(on=False)
        self._loaded[name] = own, version
        while len(self._loaded) > LOADED:
            self._unload(next(iter(self._loaded)))
        return own

    def _read(self, path: Path, own: str, name: str) -> None:
        refusal = f"the LoRA adapter {name!r} cannot be used with this model"
        try:
            with loading():
                self._pipe.load_lora_weights(
                    path.parent, weight_name=path.name, adapter_name=own, local_files_only=True
                )
        except (SafetensorError, OSError, EOFError) as error:
            raise ValueError(f"the file of the LoRA adapter {name!r} is damaged: replace it") from error
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{refusal}: it was made for another one ({type(error).__name__})") from error
        parts = [part for part, adapters in self._pipe.get_list_adapters().items() if own in adapters]
        if not parts:
            raise ValueError(f"{refusal}: it holds no weights for it")
        if not self._own_texts and any(part.startswith("text_encoder") for part in parts):
            raise ValueError(f"{refusal}: it changes the text encoder, which the scorer shares")

    def _unload(self, name: str) -> None:
        own, _ = self._loaded.pop(name)
        self._delete(own)
        self._weighted = None
        self._find_layers()

    def _delete(self, own: str) -> None:
        with contextlib.suppress(ValueError, KeyError, AttributeError), loading():
            self._pipe.delete_adapters(own)

    def _find_layers(self) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._layers = [part for part in self._modules() if isinstance(part, BaseTunerLayer)]
        for layer in self._layers:
            layer.requires_grad_(False)

    def _modules(self) -> Iterator[Any]:
        """All modules inside the pipeline's models."""
        models = (each for each in self._pipe.components.values() if isinstance(each, torch.nn.Module))
        return (part for model in models for part in model.modules())

    def _enable(self, *, on: bool) -> None:
        if self._compiled:
            torch.compiler.set_stance("force_eager" if on else "default")
        for layer in self._layers:
            layer.enable_adapters(on)
            layer.requires_grad_(False)


@contextmanager
def loading() -> Iterator[None]:
    """Load adapters quietly, into text encoders also with peft from `_PEFT` on.

    Outside of inference mode, in which quantised weights cannot be wrapped.
    """
    from transformers.integrations import peft as integration

    required = integration.MIN_PEFT_VERSION
    integration.MIN_PEFT_VERSION = _PEFT
    try:
        with quiet_libraries(), warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore", UserWarning)  # peft: the model has several adapters
            yield
    finally:
        integration.MIN_PEFT_VERSION = required
