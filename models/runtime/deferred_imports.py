"""Modules that the model libraries import and serving never uses, kept out of start-up until something uses them.

`torch._dynamo`, the compiler, is a fifth of all that is imported. transformers, diffusers, timm and torchvision ask for
it for decorators that are hints to the compiler, and for a few helpers; `scipy` is asked for by schedulers and losses
that are never run here. Whatever else is asked of any of these loads it, and nothing is changed for good.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

COMPILER = "torch._dynamo"

HINTS = ("allow_in_graph", "assume_constant_result", "disable")
"""Decorators of the compiler that leave what they decorate as it is, for a process that compiles nothing."""

HELPERS = {
    f"{COMPILER}.utils": "is_compile_supported",
    f"{COMPILER}._trace_wrapped_higher_order_op": "TransformGetItemToIndex",
    "scipy.optimize": "linear_sum_assignment",
}
"""What is imported by name from a module, to be called later if ever."""

WHOLE = ("scipy.integrate", "scipy.stats")
"""Modules that are imported without a look inside."""


@contextmanager
def deferred_imports() -> Iterator[None]:
    """Import and load models in here: stand-ins answer for the modules, and give way to them where they cannot.

    Afterwards an import is of the real module. For one thread, which imports torch; nothing may be compiled in here.
    """
    import torch

    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)
    sys.meta_path.insert(0, finder := _Rest())
    if COMPILER in stand_ins:
        torch._dynamo = stand_ins[COMPILER]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in stand_ins:
            _remove(name)


def _stand_ins() -> dict[str, ModuleType]:
    """One for each module whose package is installed and which is not loaded yet."""
    names = (COMPILER, *HELPERS, *WHOLE)
    found: dict[str, ModuleType] = {
        name: _StandIn(name)
        for name in names
        if _group(name) not in map(_group, filter(sys.modules.__contains__, names))
        and importlib.util.find_spec(name.partition(".")[0]) is not None
    }
    for module in found.keys() & HELPERS.keys():
        setattr(found[module], HELPERS[module], _later(module, HELPERS[module]))
    if COMPILER in found:
        vars(found[COMPILER]).update(dict.fromkeys(HINTS, _hint), eval_frame=SimpleNamespace(OptimizedModule=_Compiled))
    return found


class _Compiled:
    """The kind of a compiled module, of which there is none while the compiler is not loaded."""


class _StandIn(ModuleType):
    """Answers for a module that is not loaded; loads it when asked for what it does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self.__name__)
        return getattr(importlib.import_module(self.__name__), name)


class _Rest:
    """Finds the modules inside those that stand-ins answer for, and have none: by loading the real ones."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec that gives the real module; None for modules of others."""
        if not isinstance(sys.modules.get(name.rpartition(".")[0]), _StandIn):
            return None
        _remove(name)
        return ModuleSpec(name, _Loaded(importlib.import_module(name)))  # type: ignore[arg-type]


class _Loaded:
    """Hands on a module that was loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do but to give it back its own spec."""
        module.__spec__ = self._spec


def _group(name: str) -> str:
    """Modules that are answered for together or not at all: they import each other."""
    return COMPILER if name.startswith(COMPILER) else name.partition(".")[0]


def _remove(name: str) -> None:
    """Take away the stand-ins of a module's group: the next import is of the real modules."""
    for each in (COMPILER, *HELPERS, *WHOLE):
        if isinstance(sys.modules.get(each), _StandIn) and _group(each) == _group(name):
            del sys.modules[each]
    torch = sys.modules["torch"]
    if COMPILER not in sys.modules and isinstance(vars(torch).get("_dynamo"), _StandIn):
        del torch._dynamo


def _hint(target: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    """What is decorated, as it is; with arguments only, such a decorator."""
    return target if target is not None else _hint


def _later(module: str, helper: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), helper)(*args, **kwargs)

    return call
