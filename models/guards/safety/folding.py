"""Folds constant arithmetic after convolutions into their weights, in ONNX graphs.

ONNX Runtime joins a convolution with sums and products that follow it, but not with differences. A graph that was
exported with such differences makes several passes over every layer. Needs the package `onnx`.

Only the main graph is read, and only two-dimensional convolutions in single precision. A graph with subgraphs (`If`,
`Loop`, `Scan`) stays as it is: a subgraph may use any value of the graph around it without naming it as an input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ARITHMETIC = {"Add", "Sub", "Mul"}
_TO_LAST = [0, 2, 3, 1]
"""The transposition that makes channels the last axis."""

_PLANAR = 4
"""Axes of the weights of a two-dimensional convolution."""


def fold_convolutions(model: bytes) -> bytes:
    """Return the graph with the same results, up to rounding, and fewer nodes.

    A graph with subgraphs is returned unchanged.
    """
    import onnx

    made = onnx.load_from_string(model)
    if _has_subgraphs(made.graph):
        return model
    graph = _Graph.of(made.graph)
    for node in [node for node in made.graph.node if node.op_type == "Conv"]:
        graph.fold(node)
    _keep(made.graph.node, [node for node in made.graph.node if node.output[0] not in graph.folded])
    used = {name for node in made.graph.node for name in node.input}
    _keep(made.graph.initializer, [each for each in made.graph.initializer if each.name in used])
    folded: bytes = made.SerializeToString()
    return folded


def _has_subgraphs(graph: Any) -> bool:
    from onnx import AttributeProto

    kinds = {AttributeProto.GRAPH, AttributeProto.GRAPHS}
    return any(attribute.type in kinds for node in graph.node for attribute in node.attribute)


def _keep(field: Any, kept: list[Any]) -> None:
    del field[:]
    field.extend(kept)


@dataclass(slots=True)
class _Graph:
    """A graph without subgraphs, its constants, and the nodes that use each value.

    An initializer that is also an input is no constant: callers may replace it. `folded` are the values that are gone.
    """

    graph: Any
    constants: Mapping[str, Array]
    users: Mapping[str, list[Any]]
    folded: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, graph: Any) -> _Graph:
        from onnx import numpy_helper

        inputs = {each.name for each in graph.input}
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer if each.name not in inputs}
        users = defaultdict[str, list[Any]](list)
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in constants:
                constants[node.output[0]] = constants[node.input[0]]
            for name in node.input:
                users[name].append(node)
        for output in graph.output:
            users[output.name] += [None, None]  # a result must stay
        return cls(graph, constants, users)

    def fold(self, conv: Any) -> None:
        """Fold the constant arithmetic that follows a convolution, if any does."""
        given = [self.constants.get(name) for name in conv.input[1:]]
        weights, bias = (*given, np.zeros(1))[:2]
        if weights is None or bias is None or weights.ndim != _PLANAR or weights.dtype != np.float32:
            return
        value, axis = conv.output[0], 1
        if (first := self._only_user(value)) is not None and _permutation(first) == _TO_LAST:
            value, axis = first.output[0], 3
        chain, scale, shift = self._follow(value, axis, np.zeros(len(weights)) + bias)
        if any(node.op_type in _ARITHMETIC for node in chain):
            self._replace(conv, weights * scale[:, None, None, None], shift)
            self.folded |= {node.output[0] for node in chain}
            end = chain[-1].output[0]
            for user in self.users[end]:
                user.input[:] = [value if name == end else name for name in user.input]

    def _follow(self, value: str, axis: int, shift: Array) -> tuple[list[Any], Array, Array]:
        """The nodes after a value that only scale and shift its channels.

        With the scale and the shift of all of them.
        """
        chain, scale = list[Any](), np.ones(len(shift))
        while (node := self._only_user(value)) is not None and not self._is_result(node):
            if node.op_type in _ARITHMETIC and node.input[0] == value:
                constant = self._by_channel(node.input[1], len(shift), axis)
                if constant is None:
                    break
                scale, shift = _applied(node.op_type, constant, scale, shift)
            elif node.op_type != "Cast" or not _to_float(node):
                break
            chain.append(node)
            value = node.output[0]
        return chain, scale, shift

    def _is_result(self, node: Any) -> bool:
        return None in self.users[node.output[0]]

    def _only_user(self, value: str) -> Any | None:
        users = self.users[value]
        return users[0] if len(users) == 1 else None

    def _by_channel(self, name: str, channels: int, axis: int) -> Array | None:
        """A constant with a number for each channel; None for any other value."""
        constant = self.constants.get(name)
        shape = [channels if place == axis else 1 for place in range(4)]
        return constant.ravel().astype(np.float64) if constant is not None and [*constant.shape] == shape else None

    def _replace(self, conv: Any, weights: Array, bias: Array) -> None:
        from onnx import numpy_helper

        names = [f"{conv.output[0]}/{part}" for part in ("weights", "bias")]
        for name, array in zip(names, (weights, bias), strict=True):
            self.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        conv.input[:] = [conv.input[0], *names]


def _applied(operation: str, constant: Array, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Scale and shift after one more operation with a constant."""
    if operation == "Mul":
        return scale * constant, shift * constant
    return scale, shift + (constant if operation == "Add" else -constant)


def _permutation(node: Any) -> list[int] | None:
    return list(node.attribute[0].ints) if node.op_type == "Transpose" and node.attribute else None


def _to_float(node: Any) -> bool:
    """Whether a cast is one to single precision, which these values have already."""
    import onnx

    return bool(node.attribute[0].i == onnx.TensorProto.FLOAT)
