import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.errors import ModelRefusedError
from ml_core.model import export as exporting
from ml_core.model.export import export, restated, with_contract
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import output_scale
from ml_core.model.mlp import MLP
from ml_core.model.runtime import Scorer


@pytest.mark.parametrize("name", ["of_rows", "of_windows"])
def test_the_exported_graph_agrees_with_torch_on_raw_rows(request, name):
    made = request.getfixturevalue(name)
    x = np.random.default_rng(0).normal(0, 3, (40, Scorer(made.file).contract.window, 4)).astype(np.float32)
    x[3, 0, 1] = np.nan
    made.graph.eval()
    with torch.inference_mode():
        expected = made.graph(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(Scorer(made.file).outputs(x), expected, rtol=1e-4, atol=1e-5)


def test_the_scale_of_the_outputs_is_part_of_the_last_layer(of_windows):
    assert onnx.load_from_string(of_windows.file).graph.node[-1].op_type == "Gemm"


def test_a_constant_that_other_nodes_read_too_stays_what_it_was():
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    three = [2.0, 4.0, 8.0]  # what inputs are divided by and outputs multiplied with, stored once
    constants = {"scale": three, "shift": [1.0] * 3, "weight": np.eye(3), "bias": [0.5] * 3}
    nodes = [
        node("Div", ["x", "scale"], ["ratio"]),
        node("Gemm", ["ratio", "weight", "bias"], ["straight"]),
        node("Mul", ["straight", "scale"], ["stretched"]),
        node("Add", ["stretched", "shift"], ["y"]),
    ]
    stored = [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    ends = [info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)

    found = exporting._with_scale_folded(model)

    assert [each.op_type for each in found.graph.node] == ["Div", "Gemm"]
    assert "shift" not in {each.name for each in found.graph.initializer}
    session = ort.InferenceSession(found.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": np.ones((1, 3), np.float32)})[0], [[3.0, 4.0, 6.0]])


@pytest.mark.parametrize("name", ["of_rows", "of_windows"])
def test_rows_that_are_scaled_apart_are_scored_to_the_bit_as_raw_rows(request, name):
    file = request.getfixturevalue(name).file
    window = Scorer(file).contract.window
    x = np.random.default_rng(2).normal(0, 9, (50, window, 4)).astype(np.float32)
    x[3, 0, 1], x[4, -1, 2], x[5, 0, 0] = np.nan, np.inf, -np.inf
    calls = []

    def scale(*rows):
        calls.append(len(rows[0]))
        return scale_rows(*rows)

    apart = Scorer(file, scale)

    apart.probe()
    assert apart.outputs(x).tobytes() == Scorer(file).outputs(x).tobytes()
    assert calls[-1] == 50 * window


def test_a_graph_that_scales_otherwise_than_its_contract_is_refused(mlp_file):
    one = Scorer(mlp_file).contract
    other = one.model_copy(update={"scaler": one.scaler.model_copy(update={"limit": 3.0})})
    with pytest.raises(ModelRefusedError, match=r"^scaling: "):
        Scorer(with_contract(mlp_file, other), scale_rows).probe()


def test_the_contract_says_which_runtime_passed_the_probe(mlp_file):
    found = Scorer(mlp_file).contract
    assert (found.runtime, found.runtime_version) == ("onnxruntime", ort.__version__)


def test_export_leaves_the_graph_in_the_mode_it_was_in(of_rows):
    Scorer(of_rows.file).probe()  # dropout left on would make scores random
    assert of_rows.was_training


def test_a_file_that_disagrees_with_torch_is_refused(contract, graph, mlp_file, monkeypatch):
    one = contract(horizons=2)
    monkeypatch.setattr(exporting, "_to_onnx", lambda *_: mlp_file)
    with pytest.raises(ModelRefusedError, match=r"^parity: "):
        export(graph(one, MLP(4, 6)), one)


def test_an_untrained_direction_model_answers_near_the_prior():
    shift, scale = output_scale("direction", [(0.2, 0.5, 0.3)])
    share = np.exp(shift)
    np.testing.assert_allclose(share, (0.2, 0.5, 0.3))
    assert scale == [1.0] * 3
    assert np.isfinite(output_scale("direction", [(0.0, 1.0, 0.0)])[0]).all()
    assert output_scale("return", [(1e-6, 0.0)]) == ([1e-6], [1.0])


def test_restated_changes_the_contract_inside_and_beside_the_graph(mlp_file):
    model = FittedModel(Scorer(mlp_file).contract, mlp_file, {})
    changed = restated(model, topic="md.ticks", ranges=[{"partition": 0, "start": 5, "end": 9}])
    assert changed.contract.topic == "md.ticks"
    assert changed.contract.ranges[0].end == 9
    assert Scorer(changed.onnx).contract == changed.contract
