import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.errors import ModelRefusedError
from ml_core.model import export as exporting
from ml_core.model.export import export, restated, with_contract
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.model.mlp import MLP
from ml_core.model.runtime import Scorer


class Unexportable(nn.Module):
    def forward(self, x_BTF):
        return x_BTF[:, -1, :3] * (1.0 if float(x_BTF.sum()) > 0 else 2.0)


def test_the_exported_graph_agrees_with_torch_on_raw_rows(contract, graph):
    one = contract(horizons=2)
    torch.manual_seed(3)
    net = graph(one, MLP(4, 6))
    x = np.random.default_rng(0).normal(0, 3, (40, 1, 4)).astype(np.float32)
    x[3, 0, 1] = np.nan

    scorer = Scorer(export(net, one))

    with torch.inference_mode():
        np.testing.assert_allclose(scorer.outputs(x), net.eval()(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)


def test_the_scale_of_the_outputs_is_part_of_the_last_layer(contract):
    one = contract(label_kind="return", horizons=2, window=3)
    torch.manual_seed(4)
    net = ScoringGraph(MLP(12, 2), one.scaler, shift_O=[0.5, -1.0], scale_O=[3.0, 0.25])
    x = np.random.default_rng(1).normal(0, 3, (20, 3, 4)).astype(np.float32)

    file = export(net, one)

    assert onnx.load_from_string(file).graph.node[-1].op_type == "Gemm"
    with torch.inference_mode():
        np.testing.assert_allclose(
            Scorer(file).outputs(x), net.eval()(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("window", [1, 3])
def test_rows_that_are_scaled_apart_are_scored_to_the_bit_as_raw_rows(contract, graph, window):
    one = contract(window=window)
    torch.manual_seed(5)
    x = np.random.default_rng(2).normal(0, 9, (50, window, 4)).astype(np.float32)
    x[3, 0, 1], x[4, -1, 2], x[5, 0, 0] = np.nan, np.inf, -np.inf
    calls = []

    def scale(*rows):
        calls.append(len(rows[0]))
        return scale_rows(*rows)

    file = export(graph(one, MLP(4, 3, window=window)), one)
    apart = Scorer(file, scale)

    apart.probe()
    assert apart.outputs(x).tobytes() == Scorer(file).outputs(x).tobytes()
    assert calls[-1] == 50 * window


def test_a_graph_that_scales_otherwise_than_its_contract_is_refused(contract, graph):
    one = contract()
    file = export(graph(one, MLP(4, 3)), one)
    other = one.model_copy(update={"scaler": one.scaler.model_copy(update={"limit": 3.0})})
    with pytest.raises(ModelRefusedError, match=r"^scaling: "):
        Scorer(with_contract(file, other), scale_rows).probe()


def test_the_contract_says_which_runtime_passed_the_probe(mlp_file):
    found = Scorer(mlp_file).contract
    assert (found.runtime, found.runtime_version) == ("onnxruntime", ort.__version__)


def test_export_leaves_the_graph_in_the_mode_it_was_in(contract, graph):
    one = contract()
    net = graph(one, MLP(4, 3, dropout=0.5)).train()
    Scorer(export(net, one)).probe()  # dropout left on would make scores random
    assert net.training


def test_a_model_that_cannot_be_exported_is_refused_with_the_exporters_reason(contract, graph):
    one = contract()
    with pytest.raises(ModelRefusedError, match=r"^export: the model cannot be exported to ONNX: "):
        export(graph(one, Unexportable()), one)


def test_a_file_that_disagrees_with_torch_is_refused(contract, graph, monkeypatch):
    one = contract()
    other = exporting._to_onnx(graph(one, MLP(4, 3)), one)
    monkeypatch.setattr(exporting, "_to_onnx", lambda *_: other)
    with pytest.raises(ModelRefusedError, match=r"^parity: "):
        export(graph(one, MLP(4, 3)), one)


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
