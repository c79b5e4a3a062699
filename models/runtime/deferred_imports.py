"""Keeps modules that serving does not use out of start-up, until first use.

`torch._dynamo`, the compiler, is a fifth of all imports. transformers, diffusers, timm and torchvision import it for
decorators that are hints to the compiler, and for a few helpers. Schedulers and losses that never run here import
`scipy`, and the loaders of LoRA adapters import `peft`. Any other access to these modules loads them; nothing is
changed permanently.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

COMPILER = "torch._dynamo"

HINTS = ("allow_in_graph", "assume_constant_result", "disable")
"""Decorators of the compiler that change nothing in a process without compiling."""

HELPERS = {
    f"{COMPILER}.utils": "is_compile_supported",
    f"{COMPILER}._trace_wrapped_higher_order_op": "TransformGetItemToIndex",
    "scipy.optimize": "linear_sum_assignment",
    "peft.helpers": "disable_input_dtype_casting",
}
"""Names that are imported from a module, and called later if at all."""

CLASSES = {"peft": "PeftModel", "peft.tuners.tuners_utils": "BaseTunerLayer"}
"""Classes whose instances are looked for; there are none before `peft` is loaded."""

WHOLE = ("scipy.integrate", "scipy.stats", *CLASSES)
"""Modules that are imported without access to their contents."""

UNUSED = ("torchao",)
"""Packages that diffusers imports if installed, and that are used without it."""

LOOKS_FOR_PACKAGES = "diffusers.utils.import_utils"
"""The module that looks for them, once, when it is imported."""


_one_thread = threading.RLock()


@contextmanager
def deferred_imports(needed: Collection[str] = ()) -> Iterator[None]:
    """Import and load models inside this context.

    Stand-ins answer for the modules, and load them for anything else. Packages of `UNUSED` seem to be missing, unless
    they are `needed`. After the context, imports get the real modules. One thread at a time may be inside, and others
    wait: engines of several devices load and trace in threads of their own. Compile nothing inside.
    """
    with _one_thread:
        yield from _deferred(needed)


def _deferred(needed: Collection[str]) -> Iterator[None]:
    import torch

    loaded = LOOKS_FOR_PACKAGES in sys.modules  # and relies on what it found installed
    hidden = [name for name in UNUSED if not loaded and name not in needed and name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import fails
    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)
    sys.meta_path.insert(0, finder := _Rest())
    if COMPILER in stand_ins:
        torch._dynamo = stand_ins[COMPILER]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in hidden:
            sys.modules.pop(name, None)
        for name in stand_ins:
            _remove(name)


def _stand_ins() -> dict[str, ModuleType]:
    """Stand-ins for modules that are installed and not loaded yet."""
    names = (COMPILER, *HELPERS, *WHOLE)
    found: dict[str, ModuleType] = {
        name: _StandIn(name)
        for name in names
        if _group(name) not in map(_group, filter(sys.modules.__contains__, names))
        and importlib.util.find_spec(name.partition(".")[0]) is not None
    }
    for module in found.keys() & HELPERS.keys():
        setattr(found[module], HELPERS[module], _later(module, HELPERS[module]))
    for module in found.keys() & CLASSES.keys():
        setattr(found[module], CLASSES[module], _Adapted)
    if "peft" in found:
        found["peft"].__spec__ = importlib.util.find_spec("peft")
    if COMPILER in found:
        vars(found[COMPILER]).update(dict.fromkeys(HINTS, _hint), eval_frame=SimpleNamespace(OptimizedModule=_Compiled))
    return found


class _Compiled:
    """Type of a compiled module; without the compiler there are none."""


class _Adapted:
    """Type of a layer with LoRA adapters; without peft there are none."""


class _StandIn(ModuleType):
    """Answers for a module that is not loaded; loads it for other attributes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self.__name__)
        return getattr(importlib.import_module(self.__name__), name)


class _Rest:
    """Finds submodules of modules with a stand-in, by loading the real ones."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec of the real module; None for other modules."""
        if not isinstance(sys.modules.get(name.rpartition(".")[0]), _StandIn):
            return None
        _remove(name)
        return ModuleSpec(name, _Loaded(importlib.import_module(name)))  # type: ignore[arg-type]


class _Loaded:
    """A loader for a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec."""
        module.__spec__ = self._spec


def _group(name: str) -> str:
    """Name of the modules that are replaced together, as they import each other."""
    return COMPILER if name.startswith(COMPILER) else name.partition(".")[0]


def _remove(name: str) -> None:
    """Remove the stand-ins of a module's group; the next import is real."""
    for each in (COMPILER, *HELPERS, *WHOLE):
        if isinstance(sys.modules.get(each), _StandIn) and _group(each) == _group(name):
            del sys.modules[each]
    torch = sys.modules["torch"]
    if COMPILER not in sys.modules and isinstance(vars(torch).get("_dynamo"), _StandIn):
        del torch._dynamo


def _hint(target: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    """The decorated object unchanged; with arguments only, such a decorator."""
    return target if target is not None else _hint


def _later(module: str, helper: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), helper)(*args, **kwargs)

    return call
