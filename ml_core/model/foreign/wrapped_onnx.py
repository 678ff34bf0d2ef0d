"""The graph of a model trained elsewhere, from raw feature rows to outputs, as ``export`` makes one of a network.

Shapes: T rows of a window, F features, X = T x F columns, H horizons, C answers a horizon, O outputs.
"""

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from ml_core.contract import ModelContract
from ml_core.model.export import with_contract, with_scaling_apart
from ml_core.model.foreign.signature import CLASSES, UNITS
from ml_core.model.foreign.wrapped import LEAST, Wrapping
from ml_core.model.trees_onnx import COLUMNS, IR_VERSION, columns_of, opsets

_THEIRS = "theirs/"  # before every name of the graph that is wrapped


class _Nodes:
    """Nodes in order, with names that are made up."""

    def __init__(self) -> None:
        """Begin with none."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {}

    def put(self, kind: str, *given: Any, result: str | None = None, **attributes: Any) -> str:
        """Add a node that takes names and arrays, and return the name of what it makes."""
        names = [each if isinstance(each, str) else self._constant(each) for each in given]
        result = result or f"ours/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def _constant(self, value: Any) -> str:
        name = f"ours/constant_{len(self.constants)}"
        self.constants[name] = value
        return name


def file_of(wrapping: Wrapping, contract: ModelContract) -> bytes:
    """Return the ONNX file of the model as ``wrapping`` fits it in, with ``contract`` inside."""
    theirs = compose.add_prefix(wrapping.foreign.graph, _THEIRS)
    given, said = theirs.graph.input[0], theirs.graph.output[0]
    made = _Nodes()
    _take(made, wrapping, contract)
    chosen = made.put("Gather", COLUMNS, wrapping.column_X, axis=1)
    shaped = made.put("Reshape", chosen, np.array([-1, *wrapping.foreign.shape], np.int64))
    made.put("Cast", shaped, result=given.name, to=given.type.tensor_type.elem_type)
    made.nodes += theirs.graph.node
    _tell(made, said.name, wrapping)
    graph = helper.make_graph(
        made.nodes,
        "wrapped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", contract.window, len(contract.features)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", contract.outputs])],
        [
            *theirs.graph.initializer,
            *(numpy_helper.from_array(np.asarray(value), name) for name, value in made.constants.items()),
        ],
        sparse_initializer=theirs.graph.sparse_initializer,
    )
    imports = {each.domain: each for each in (*opsets(), *theirs.opset_import)}  # theirs, where they have one
    model = helper.make_model(graph, opset_imports=list(imports.values()))
    model.ir_version = max(IR_VERSION, theirs.ir_version)
    if not wrapping.takes_rows:
        model = with_scaling_apart(model, contract)
    return with_contract(bytes(model.SerializeToString()), contract)


def _take(made: _Nodes, wrapping: Wrapping, contract: ModelContract) -> None:
    """Make ``COLUMNS`` of the rows ``x``."""
    if wrapping.takes_rows:
        made.put("Reshape", "x", np.array([0, contract.window * len(contract.features)], np.int64), result=COLUMNS)
        return
    nodes, constants = columns_of(contract, keep_missing=wrapping.signature.missing == "nan")
    made.nodes += nodes
    made.constants |= constants


def _tell(made: _Nodes, said: str, wrapping: Wrapping) -> None:
    """Make the outputs ``y`` of what the model says, as ``Wrapping.expected`` computes them."""
    horizons = len(wrapping.signature.horizons)
    said = made.put("Cast", said, to=TensorProto.FLOAT)
    said = made.put("Reshape", said, np.array([-1, horizons, wrapping.foreign.answers // horizons], np.int64))
    said = _numbers(made, said, wrapping) if wrapping.tells == "value" else _classes(made, said, wrapping)
    width = len(CLASSES) if wrapping.signature.is_classes else 1
    made.put("Reshape", said, np.array([-1, horizons * width], np.int64), result="y")


def _numbers(made: _Nodes, said: str, wrapping: Wrapping) -> str:
    given = wrapping.signature
    if given.unit == "log":
        return said
    said = made.put("Mul", said, np.float32(UNITS[str(given.unit)]))
    if given.label != "volatility":
        return said
    return made.put("Log", made.put("Max", said, np.array(given.dead_zone, np.float32)[:, None]))


def _classes(made: _Nodes, said: str, wrapping: Wrapping) -> str:
    given, is_share = wrapping.signature, wrapping.tells == "probabilities"
    if wrapping.foreign.answers == len(given.horizons):  # of the second class alone
        first = made.put("Mul", said, np.float32(-1 if is_share else 0))
        said = made.put("Concat", made.put("Add", first, np.float32(is_share)), said, axis=2)
    if is_share:
        said = made.put("Log", made.put("Max", said, np.float32(LEAST)))
    parts = {name: made.put("Gather", said, np.array([place]), axis=2) for place, name in enumerate(given.classes)}
    if "flat" not in parts:
        parts["flat"] = made.put("Add", made.put("Max", parts["down"], parts["up"]), np.float32(math.log(LEAST)))
    return made.put("Concat", *(parts[name] for name in CLASSES), axis=2)
