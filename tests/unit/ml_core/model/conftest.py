"""Contracts and exported models that the tests of this folder share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ml_core.contract import ModelContract, Scaler
from ml_core.model.export import export, with_contract
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.model.mlp import MLP

SECOND = 10**9


@pytest.fixture(scope="session")
def contract() -> Callable[..., ModelContract]:
    def make(*, features: int = 4, window: int = 1, horizons: int = 1, **changes: Any) -> ModelContract:
        kind = changes.get("label_kind", "direction")
        prior = (0.25, 0.5, 0.25) if kind == "direction" else (1e-6, 4e-8)
        fields = {
            "pipeline": "demo",
            "spec_hash": "0" * 16,
            "model_kind": "mlp",
            "features": tuple(f"f{i}" for i in range(features)),
            "feature_hash": "f" * 16,
            "window": window,
            "label_kind": "direction",
            "label_price": "mid",
            "horizons_ns": tuple((i + 1) * SECOND for i in range(horizons)),
            "delay_ns": 0,
            "dead_zone": (1e-5,) * horizons,
            "prior": (prior,) * horizons,
            "scaler": Scaler(
                median=tuple(0.5 * i for i in range(features)), iqr=tuple(1.0 + i for i in range(features))
            ),
            "trained_from_ns": 0,
            "trained_to_ns": SECOND,
            "seed": 0,
            "code_version": "0",
        }
        return ModelContract.model_validate({**fields, **changes})

    return make


@pytest.fixture(scope="session")
def graph() -> Callable[[ModelContract, torch.nn.Module], ScoringGraph]:
    def make(contract: ModelContract, model: torch.nn.Module) -> ScoringGraph:
        shift_O, scale_O = output_scale(contract.label_kind, contract.prior)
        return ScoringGraph(model, contract.scaler, shift_O=shift_O, scale_O=scale_O)

    return make


class Exported(NamedTuple):
    graph: ScoringGraph
    file: bytes
    was_training: bool  # after the export, as before it


@pytest.fixture(scope="session")
def of_rows(contract, graph) -> Exported:
    """A graph that was exported while dropout was on; an export takes seconds, so tests share it."""
    torch.manual_seed(0)
    one = contract(horizons=2)
    net = graph(one, MLP(4, 6, dropout=0.5)).train()
    file = export(net, one)
    return Exported(net, file, net.training)


@pytest.fixture(scope="session")
def of_windows(contract) -> Exported:
    one = contract(label_kind="return", horizons=2, window=3)
    torch.manual_seed(4)
    net = ScoringGraph(MLP(12, 2), one.scaler, shift_O=[0.5, -1.0], scale_O=[3.0, 0.25])
    return Exported(net, export(net, one), net.training)


@pytest.fixture(scope="session")
def mlp_file(of_rows) -> bytes:
    return of_rows.file


@pytest.fixture(scope="session")
def hand_made(contract) -> Callable[..., bytes]:
    """ONNX files of a few nodes, for what no exporter would write: mean over T of x @ w, then ``extra``."""

    def make(
        *extra: onnx.NodeProto, outputs: int = 3, features: int = 4, batch: int | str = "batch", **changes: Any
    ) -> bytes:
        weights = np.random.default_rng(0).standard_normal((features, outputs)).astype(np.float32)
        nodes = [
            helper.make_node("Clip", ["x", "low", "high"], ["clipped"]),
            helper.make_node("IsNaN", ["clipped"], ["absent"]),
            helper.make_node("Where", ["absent", "zero", "clipped"], ["z"]),
            helper.make_node("ReduceMean", ["z", "axis_1"], ["row"], keepdims=0),
            helper.make_node("MatMul", ["row", "w"], ["linear"]),
            *(extra or (helper.make_node("Identity", ["linear"], ["y"]),)),
        ]
        constants = {
            "w": weights,
            "low": np.float32(-8),
            "high": np.float32(8),
            "zero": np.float32(0),
            "tiny": np.float32(1e-6),
            "axis_0": np.array([0], dtype=np.int64),
            "axis_1": np.array([1], dtype=np.int64),
        }
        graph = helper.make_graph(
            nodes,
            "hand_made",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, features])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        model.ir_version = 10
        return with_contract(model.SerializeToString(), contract(**changes))

    return make
