"""Reads an ONNX file that somebody else made: only operators of the standard, all data inside, nothing that runs on.

Shapes: B rows of a batch, X columns, K outputs.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from ml_core.errors import ModelRefusedError, nearest
from ml_core.model.foreign.depth import check_depth
from ml_core.model.foreign.port import Foreign
from ml_core.model.trees import LEAF
from ml_core.types import Float32, Float64

# The oldest has all operators that are put around the graph; the newest are those of the runtime.
OPSETS = {"": range(13, 24), "ai.onnx.ml": range(1, 6)}
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_ENDLESS = "Loop"  # its number of rounds may be anything, and a worker waits for it
_TREES = "TreeEnsemble"  # of all names of the operator
_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}


def read_onnx(data: bytes, output: str | None) -> Foreign:
    """Return the model in an ONNX file.

    Args:
        data: The file.
        output: Which of its outputs is meant; None: it has one.

    Raises:
        ModelRefusedError: ``unreadable``, ``operators``, ``opset``, ``external_data``, ``trees`` or ``shape``. A retry
            will not help.
    """
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's errors share no base class
        raise ModelRefusedError(f"unreadable: this is no ONNX file: {error}") from error
    _check_opsets(model)
    _check_parts(model)
    shape = _input_shape(model.graph)
    _keep_output(model.graph, output)
    try:
        onnx.checker.check_model(model)
        session = _session(model)
        dtype = _FLOATS[model.graph.input[0].type.tensor_type.elem_type]

        def answers(x_BX: Float32) -> Float64:
            given = x_BX.reshape(-1, *shape).astype(dtype)
            return np.asarray(session.run(None, {session.get_inputs()[0].name: given})[0], np.float64)

        y_2K = answers(np.zeros((2, int(np.prod(shape))), np.float32))
    except Exception as error:  # checker and runtime share no base class
        raise ModelRefusedError(f"unreadable: ONNX Runtime cannot run the model: {error}") from error
    if len(y_2K) != 2 or y_2K.size < 2:
        raise ModelRefusedError(f"shape: the graph answers {y_2K.shape} for 2 rows")
    count = y_2K.size // 2
    return Foreign(
        "onnx",
        model,
        shape,
        count,
        None,
        (),
        "the graph of the file",
        lambda x_BX: answers(x_BX).reshape(len(x_BX), count),
    )


def _check_opsets(model: onnx.ModelProto) -> None:
    for each in model.opset_import:
        if each.domain not in _STANDARD:
            raise ModelRefusedError(f"operators: the domain {each.domain!r} is not of the standard")
        known = OPSETS["" if each.domain == "ai.onnx" else each.domain]
        if each.version not in known:
            raise ModelRefusedError(
                f"opset: version {each.version} of {each.domain or 'ai.onnx'!r} is not within "
                f"{known[0]} to {known[-1]}; convert it with onnx.version_converter"
            )


def _check_parts(model: onnx.ModelProto) -> None:
    if model.functions or model.training_info:
        raise ModelRefusedError("operators: functions of its own and training are not supported")
    for graph in _graphs(model.graph):
        tensors = list(graph.initializer)
        tensors += [tensor for each in graph.sparse_initializer for tensor in (each.values, each.indices)]
        for node in graph.node:
            if node.domain not in _STANDARD:
                raise ModelRefusedError(f"operators: {node.op_type} of {node.domain!r} is not of the standard")
            if node.op_type == _ENDLESS:
                raise ModelRefusedError(f"operators: a {_ENDLESS} may run for ever")
            if node.op_type.startswith(_TREES):
                _check_trees(node)
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
                tensors += [tensor for each in sparse for tensor in (each.values, each.indices)]
        for tensor in tensors:
            if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
                raise ModelRefusedError(
                    f"external_data: {tensor.name!r} lies in another file; save the model as one file"
                )


def _check_trees(node: onnx.NodeProto) -> None:
    told = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    sides = [told.get(f"nodes_{side}nodeids", ()) for side in ("true", "false")]
    if node.op_type == _TREES:  # a node is its place, and a flag tells whether a child is a leaf
        leaves = [told.get(f"nodes_{side}leafs", ()) for side in ("true", "false")]
        children = [[LEAF if a else n for n, a in zip(*each, strict=False)] for each in zip(sides, leaves, strict=True)]
    else:
        trees = told.get("nodes_treeids", ())
        place = {each: n for n, each in enumerate(zip(trees, told.get("nodes_nodeids", ()), strict=False))}
        rows = [list(zip(trees, side, told.get("nodes_modes", ()), strict=False)) for side in sides]
        children = [[LEAF if mode == b"LEAF" else place.get((t, n), len(place)) for t, n, mode in row] for row in rows]
    left_N, right_N = (np.array(each, np.int64) for each in children)
    count = len(left_N)
    if len(right_N) != count or not all(((each >= LEAF) & (each < count)).all() for each in (left_N, right_N)):
        raise ModelRefusedError("trees: a tree has a child that is no node, or columns of several lengths")
    check_depth(left_N, right_N)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _input_shape(graph: onnx.GraphProto) -> tuple[int, ...]:
    constants = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    if len(inputs) != 1:
        raise ModelRefusedError(f"shape: the graph takes {len(inputs)} inputs, and must take one of all columns")
    del graph.input[:]
    graph.input.extend(inputs)
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in _FLOATS:
        raise ModelRefusedError("shape: the graph takes something else than one tensor of float32 or float64")
    batch, *row = tensor.shape.dim or [None]
    if batch is None or batch.dim_value or len(row) not in (1, 2) or not all(each.dim_value for each in row):
        raise ModelRefusedError(
            "shape: the graph must take (any number of rows, columns) or (any number of rows, window, features)"
        )
    return tuple(int(each.dim_value) for each in row)


def _keep_output(graph: onnx.GraphProto, name: str | None) -> None:
    names = [each.name for each in graph.output]
    if name is not None and name not in names:
        raise ModelRefusedError(f"shape: the graph has no output {name!r}{nearest(name, names)}")
    if name is None and len(names) != 1:
        raise ModelRefusedError(f"shape: the graph has the outputs {', '.join(names)}; name one: output = ...")
    kept = [each for each in graph.output if name in (None, each.name)]
    if not kept[0].type.HasField("tensor_type") or kept[0].type.tensor_type.elem_type not in _FLOATS:
        raise ModelRefusedError(
            f"shape: the output {kept[0].name!r} is no tensor of float32 or float64 (a ZipMap? export without it)"
        )
    del graph.output[:]
    graph.output.extend(kept)


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
