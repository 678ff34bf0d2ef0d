"""torch -> ONNX bytes with the contract inside; parity and batch invariance are settled here, once.

Shapes: B rows of a batch, T rows of a window, F features, O outputs.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from ml_core.contract import ModelContract
from ml_core.errors import ModelRefusedError
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import CONTRACT_KEY, IS_SCALED, Scorer, probe_rows
from ml_core.types import Float32

TOLERANCE = 1e-4  # relative; float32 sums of some hundred terms in another order agree to about 1e-6
MIXING_TOLERANCE = 1e-3
BLOCK_ROWS = 64


def export(graph: nn.Module, contract: ModelContract) -> bytes:
    """Return the ONNX file of ``graph`` (raw rows (B, T, F) in, outputs (B, O) out) with ``contract`` inside.

    The contract's ``block`` is decided here: None where scores do not depend on the batch.

    Raises:
        ModelRefusedError: The graph cannot be exported, or ONNX Runtime and torch disagree on it; the message starts
            with the reason, here ``export`` or ``parity``, or one of the probe's. A retry will not help.
    """
    was_training = graph.training
    graph.eval()
    try:
        file = with_contract(_to_onnx(graph, contract), contract)
        check_parity(partial(_outputs, graph), file, "torch")
    finally:
        graph.train(was_training)
    return with_block(file)


def with_contract(file: bytes, contract: ModelContract) -> bytes:
    """Return the ONNX file with ``contract`` in place of the one it carries."""
    model = onnx.load_from_string(file)
    kept = [entry for entry in model.metadata_props if entry.key != CONTRACT_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(
        [*kept, onnx.StringStringEntryProto(key=CONTRACT_KEY, value=contract.model_dump_json())]
    )
    return bytes(model.SerializeToString())


def restated(model: FittedModel, **changes: object) -> FittedModel:
    """Return ``model`` with fields of its contract changed, beside the graph and inside it.

    Raises:
        ValidationError: A change is no field of the contract or has the wrong type.
    """
    contract = ModelContract.model_validate({**model.contract.model_dump(), **changes})
    return replace(model, contract=contract, onnx=with_contract(model.onnx, contract))


def with_block(file: bytes) -> bytes:
    """Return the ONNX file with the largest block in its contract that makes scores independent of the batch.

    No block at all is tried first, then 64 rows, then one.

    Raises:
        ModelRefusedError: ``mixes_rows`` where a row's output depends on the values of its neighbours, or the reason of
            the last probe.
    """
    refusal: ModelRefusedError | None = None
    for block in (None, BLOCK_ROWS, 1):
        contract = Scorer(file).contract.model_copy(update={"block": block, "runtime_version": ort.__version__})
        candidate = with_contract(file, contract)
        try:
            if block == BLOCK_ROWS:
                _check_rows_stay_apart(candidate)
            Scorer(candidate).probe()
        except ModelRefusedError as error:
            if not str(error).startswith("batch_dependent"):
                raise
            refusal = error
        else:
            return candidate
    raise refusal or ModelRefusedError


def _to_onnx(graph: nn.Module, contract: ModelContract) -> bytes:
    example_BTF = torch.zeros(
        2, contract.window, len(contract.features)
    )  # 2: the exporter takes a batch of 1 for a constant
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)  # it reports every absent optional package
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
            program = torch.onnx.export(
                graph,
                (example_BTF,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["x"],
                output_names=["y"],
                verbose=False,
            )
    except Exception as error:  # a user's own model may fail in any way
        raise ModelRefusedError(f"export: the model cannot be exported to ONNX: {error}") from error
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise ModelRefusedError("export: the exporter returned nothing")
    return bytes(with_scaling_apart(_with_scale_folded(program.model_proto), contract).SerializeToString())


def with_scaling_apart(model: onnx.ModelProto, contract: ModelContract) -> onnx.ModelProto:
    """Let the graph take rows that are scaled already, where ``IS_SCALED`` is given and true.

    A worker scales faster than the runtime does. Whoever gives nothing but rows gets what the graph gave before. A
    graph that encodes has to see raw rows: in scaled ones nothing is missing.
    """
    graph, helper = model.graph, onnx.helper
    scaling = _scaling_of(graph) if contract.encoding.is_plain else []
    if not scaling:
        return model
    rows = scaling[0].input[0]
    [scaled] = scaling[-1].output
    shape = ["batch", "row"]  # any: names that nothing else has
    scaling[-1].output[0] = f"{scaled}_here"
    branches = [
        helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, shape)])
        for name, nodes, result in (
            ("given", [helper.make_node("Identity", [rows], [f"{scaled}_given"])], f"{scaled}_given"),
            ("here", scaling, f"{scaled}_here"),
        )
    ]
    choice = helper.make_node("If", [IS_SCALED], [scaled], then_branch=branches[0], else_branch=branches[1])
    inside = {node.output[0] for node in scaling[:-1]}
    nodes = [choice if node.output[0] == f"{scaled}_here" else node for node in graph.node]
    nodes = [node for node in nodes if node.output[0] not in inside]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(IS_SCALED, onnx.TensorProto.BOOL, []))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(False), IS_SCALED))
    return model


def _scaling_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that scale the rows, in order; none where the graph does that in another way."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = [node for node in users.get("x", []) if node.op_type == "Reshape"][:1]
    for kinds in (("Sub",), ("Div",), ("Clip",), ("IsNaN", "Where"), ("Where",)):
        nodes = users.get(found[-1].output[0], []) if found else []
        if tuple(node.op_type for node in nodes) != kinds:
            return []
        found.append(nodes[0])
    return found[1:]


def _with_scale_folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put scale and shift of the outputs into the last layer where that is a ``Gemm``.

    They are one number a row, and the runtime would spend as long on them as on the layer itself.
    """
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    if [node.op_type for node in graph.node[-3:]] != ["Gemm", "Mul", "Add"]:
        return model
    gemm, mul, add = graph.node[-3:]
    scale, shift = ([name for name in node.input if name in constants] for node in (mul, add))
    is_chain = gemm.output[0] in mul.input and mul.output[0] in add.input
    if not is_chain or len(scale) != 1 or len(shift) != 1 or not {*gemm.input[1:]} <= {*constants}:
        return model
    scale_O, shift_O, weight, bias_O = (
        onnx.numpy_helper.to_array(constants[name]) for name in (*scale, *shift, *gemm.input[1:])
    )
    is_OI = any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)
    folded = scale_O[:, None] * weight if is_OI else weight * scale_O, scale_O * bias_O + shift_O
    gemm.output[0] = add.output[0]
    for node in (mul, add):
        graph.node.remove(node)
    # the exporter stores equal constants once, so that other nodes may read these too
    for place, values in enumerate(folded, start=1):
        gemm.input[place] += "_folded"
        graph.initializer.append(onnx.numpy_helper.from_array(values, gemm.input[place]))
    read = set(_read(graph))
    for name, constant in constants.items():
        if name not in read:
            graph.initializer.remove(constant)
    return model


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield what the nodes of ``graph`` and of the graphs in it take in."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read(inner)


def check_parity(
    expected: Callable[[Float32], Float32], file: bytes, maker: str, x_BTF: Float32 | None = None
) -> float:
    """Compare what ONNX Runtime says of difficult raw rows with what ``maker`` does; return the largest difference.

    It is told as a share of the largest output of its column.

    Args:
        expected: Raw rows (B, T, F) to outputs (B, O), as ``maker`` computes them.
        file: The ONNX file, with its contract.
        maker: Who, for the message.
        x_BTF: The rows; None: those of the probe.

    Raises:
        ModelRefusedError: ``parity``: they differ. A retry will not help.
    """
    scorer = Scorer(file)
    x_BTF = probe_rows(scorer.contract) if x_BTF is None else x_BTF
    expected_BO, actual_BO = expected(x_BTF), scorer.outputs(x_BTF)
    scale_O = np.abs(expected_BO).max(axis=0) + np.finfo(np.float32).tiny
    gap = float((np.abs(actual_BO - expected_BO) / scale_O).max())
    if not gap <= TOLERANCE:  # also when it is NaN
        raise ModelRefusedError(
            f"parity: {maker} and ONNX Runtime differ by {gap:.3g} of the largest output, allowed is {TOLERANCE:g}"
        )
    return gap


def _outputs(graph: nn.Module, x_BTF: Float32) -> Float32:
    with torch.inference_mode():
        y_BO: Float32 = graph(torch.from_numpy(x_BTF)).numpy()
    return y_BO


def _check_rows_stay_apart(file: bytes) -> None:
    scorer = Scorer(file)
    x_BTF = probe_rows(scorer.contract)
    together_BO = scorer.outputs(x_BTF)
    alone_BO = np.concatenate([scorer.outputs(x_BTF[row : row + 1]) for row in range(0, len(x_BTF), 8)])
    gap = np.abs(alone_BO - together_BO[::8])
    if not (gap <= MIXING_TOLERANCE * (np.abs(together_BO).max(axis=0) + np.finfo(np.float32).tiny)).all():
        raise ModelRefusedError(
            "mixes_rows: the output of a row depends on the other rows of its batch (batch normalisation?)"
        )
