"""Folding of constant arithmetic into convolutions: the same results by fewer nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.guards.safety import folding

CHANNELS = 6
LAST, SECOND = (1, 1, 1, CHANNELS), (1, CHANNELS, 1, 1)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.normal(size=(2, 3, 9, 7)).astype(np.float32)


def _graph(nodes: list[Any], constants: dict[str, Any], result: str) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 9, 7])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return made


def _run(model: bytes) -> Any:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": PIXELS})[0]


def _operations(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


def _constants(shape: tuple[int, ...], *names: str, bias: bool = False) -> dict[str, Any]:
    found = {"w": RANDOM.normal(size=(CHANNELS, 3, 3, 3))}
    found |= {"bias": RANDOM.normal(size=CHANNELS)} if bias else {}
    return found | {name: RANDOM.normal(size=shape) for name in names}


def _conv(*, bias: bool = False) -> Any:
    return helper.make_node("Conv", ["x", "w", "bias"] if bias else ["x", "w"], ["c"])


def _transposed(value: str) -> Any:
    return helper.make_node("Transpose", [value], ["t"], perm=[0, 2, 3, 1])


def _cast(value: str, result: str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_node("Cast", [value], [result], to=kind)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_sums_differences_and_products_are_folded(transposed: bool, bias: bool) -> None:
    first, shape = ("t", LAST) if transposed else ("c", SECOND)
    nodes = [
        _conv(bias=bias),
        *([_transposed("c")] if transposed else []),
        _cast(first, "f"),
        helper.make_node("Add", ["f", "p"], ["g"]),
        helper.make_node("Sub", ["g", "q"], ["h"]),
        _cast("h", "i"),
        helper.make_node("Mul", ["i", "r"], ["j"]),
        helper.make_node("Add", ["j", "s"], ["k"]),
        helper.make_node("Relu", ["k"], ["y"]),
    ]
    model = _graph(nodes, _constants(shape, "p", "q", "r", "s", bias=bias), "y")
    folded = folding.fold_convolutions(model)
    assert _run(folded) == pytest.approx(_run(model), abs=1e-4)
    assert _operations(folded) == Counter(["Conv", *(["Transpose"] if transposed else []), "Relu"])


def test_a_shared_constant_is_folded_wherever_it_is_used() -> None:
    nodes = [
        helper.make_node("Identity", ["q"], ["same"]),
        _conv(),
        helper.make_node("Sub", ["c", "same"], ["h"]),
        helper.make_node("Conv", ["x", "v"], ["d"]),
        helper.make_node("Sub", ["d", "q"], ["i"]),
        helper.make_node("Add", ["h", "i"], ["y"]),
    ]
    model = _graph(nodes, _constants(SECOND, "q") | {"v": RANDOM.normal(size=(CHANNELS, 3, 3, 3))}, "y")
    folded = folding.fold_convolutions(model)
    assert _run(folded) == pytest.approx(_run(model), abs=1e-4)
    assert _operations(folded)["Sub"] == 0


KEPT: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "a value that is used twice": (
        [_conv(), helper.make_node("Sub", ["c", "q"], ["h"]), helper.make_node("Add", ["h", "c"], ["y"])],
        _constants(SECOND, "q"),
        "y",
    ),
    "a result of the graph": ([_conv(), helper.make_node("Relu", ["c"], ["y"])], _constants(SECOND), "y"),
    "a constant of every pixel": (
        [_conv(), helper.make_node("Sub", ["c", "q"], ["y"])],
        _constants((1, CHANNELS, 7, 5), "q"),
        "y",
    ),
    "a constant along another axis": (
        [_conv(), helper.make_node("Mul", ["c", "q"], ["y"])],
        _constants((1, 1, 7, 1), "q"),
        "y",
    ),
    "a convolution from the constant": (
        [_conv(), helper.make_node("Sub", ["q", "c"], ["y"])],
        _constants(SECOND, "q"),
        "y",
    ),
    "a value of another precision": (
        [
            _conv(),
            _cast("c", "f", TensorProto.INT32),
            _cast("f", "g"),
            helper.make_node("Sub", ["g", "q"], ["y"]),
        ],
        _constants(SECOND, "q"),
        "y",
    ),
    "weights that are computed": (
        [
            helper.make_node("Relu", ["w"], ["v"]),
            helper.make_node("Conv", ["x", "v"], ["c"]),
            helper.make_node("Sub", ["c", "q"], ["y"]),
        ],
        _constants(SECOND, "q"),
        "y",
    ),
    "a bias that is computed": (
        [
            helper.make_node("Relu", ["bias"], ["b"]),
            helper.make_node("Conv", ["x", "w", "b"], ["c"]),
            helper.make_node("Sub", ["c", "q"], ["y"]),
        ],
        _constants(SECOND, "q", bias=True),
        "y",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_constant_arithmetic_stays(name: str) -> None:
    model = _graph(*KEPT[name])
    folded = folding.fold_convolutions(model)
    assert _operations(folded) == _operations(model)
    assert _run(folded) == pytest.approx(_run(model), abs=1e-5)


def test_a_chain_that_ends_in_a_result_of_the_graph_keeps_its_name() -> None:
    nodes = [_conv(), helper.make_node("Sub", ["c", "q"], ["h"]), helper.make_node("Mul", ["h", "r"], ["y"])]
    model = _graph(nodes, _constants(SECOND, "q", "r"), "y")
    folded = folding.fold_convolutions(model)
    assert _run(folded) == pytest.approx(_run(model), abs=1e-4)
    assert [output.name for output in onnx.load_from_string(folded).graph.output] == ["y"]


def _choice(taken: list[Any]) -> Any:
    """A node with two subgraphs that end in `z`; the first one is taken, whose nodes use values around it."""
    result = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    other = helper.make_node("Identity", ["x"], ["z"])
    branches = {"then_branch": taken, "else_branch": [other]}
    graphs = {name: helper.make_graph(nodes, name, [], result) for name, nodes in branches.items()}
    return helper.make_node("If", ["yes"], ["y"], **graphs)


@pytest.mark.parametrize(
    "taken",
    [helper.make_node("Mul", ["h", "r"], ["z"]), helper.make_node("Add", ["c", "r"], ["z"])],
    ids=["a constant", "a value before the fold"],
)
def test_a_graph_with_subgraphs_stays_as_it_is(taken: Any) -> None:
    nodes = [
        _conv(),
        helper.make_node("Sub", ["c", "q"], ["h"]),
        helper.make_node("Relu", ["h"], ["i"]),
        helper.make_node("Cast", ["one"], ["yes"], to=TensorProto.BOOL),
        _choice([taken]),
    ]
    model = _graph(nodes, _constants(SECOND, "q", "r") | {"one": 1.0}, "y")
    folded = folding.fold_convolutions(model)
    assert folded == model
    assert _run(folded).shape == (2, CHANNELS, 7, 5)


def test_a_constant_that_callers_may_replace_stays() -> None:
    nodes = [_conv(), helper.make_node("Sub", ["c", "q"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    made = onnx.load_from_string(_graph(nodes, _constants(SECOND, "q"), "y"))
    made.graph.input.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, SECOND))
    folded = folding.fold_convolutions(made.SerializeToString())
    assert _operations(folded)["Sub"] == 1
    other = {"x": PIXELS, "q": np.zeros(SECOND, np.float32)}
    runs = [
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, other)[0]
        for each in (folded, made.SerializeToString())
    ]
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)


def test_a_convolution_along_one_axis_stays() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["line"]),
        helper.make_node("Conv", ["line", "w"], ["c"]),
        helper.make_node("Add", ["c", "q"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    constants = {"w": RANDOM.normal(size=(CHANNELS, 3, 3)), "q": RANDOM.normal(size=SECOND)}
    made = onnx.load_from_string(_graph(nodes, constants, "y"))
    made.graph.initializer.append(numpy_helper.from_array(np.asarray([1, 3, -1], np.int64), "shape"))
    folded = folding.fold_convolutions(made.SerializeToString())
    assert _run(folded) == pytest.approx(_run(made.SerializeToString()), abs=1e-5)
    assert _operations(folded)["Add"] == 1
