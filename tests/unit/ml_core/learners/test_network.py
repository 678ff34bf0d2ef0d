import numpy as np
import pytest
import torch

from ml_core import spec as pipelines
from ml_core.contract import Scaler
from ml_core.data_loader.arrays import Samples
from ml_core.learners.network import BehindScaling, _hash, scaled_rows
from ml_core.model.build import KINDS, build
from ml_core.model.graph import ScoringGraph
from ml_core.model.trial import trial_contract
from tests.conformance.learning_lab import task_of


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_answers_scaled_rows_as_the_graph_answers_raw_ones(kind):
    spec = pipelines.parse({"name": "demo", "features": {"window": 3}, "model": {"kind": kind}})
    rng = np.random.default_rng(0)
    x_MF = (rng.standard_cauchy((5000, 4)) * 10).astype(np.float32)
    x_MF[rng.random(x_MF.shape) < 0.1] = np.nan
    x_MF[7] = np.inf
    scaler = Scaler(median=(0.1, -2.0, 3.0, 0.0), iqr=(1.5, 20.0, 0.3, 1e-9))
    graph = ScoringGraph(build(spec, features=4, outputs=3, seed=1), scaler, shift_O=[-1, 0.5, 2], scale_O=[1, 2, 3])
    idx_BT = rng.integers(0, 5000, (300, 3))
    graph.eval()
    with torch.no_grad():
        raw = graph(torch.from_numpy(x_MF[idx_BT]))
        scaled = BehindScaling(graph).eval()(torch.from_numpy(scaled_rows(x_MF, scaler)[idx_BT]))
    assert torch.equal(raw, scaled)


def test_training_what_stands_behind_the_scaling_trains_the_graph():
    spec = pipelines.parse({"name": "demo"})
    scaler = Scaler(median=(0.0,), iqr=(1.0,))
    graph = ScoringGraph(build(spec, features=1, outputs=3, seed=1), scaler, shift_O=[0, 0, 0], scale_O=[1, 1, 1])
    behind = BehindScaling(graph)
    assert behind.state_dict().keys() <= graph.state_dict().keys()
    with torch.no_grad():
        for parameter in behind.parameters():
            parameter.fill_(0.25)
    assert all(bool((parameter == 0.25).all()) for parameter in graph.parameters())


def test_a_checkpoint_belongs_to_the_code_of_own_parts_too(tmp_path):
    spec = pipelines.parse({"name": "demo", "train": {"loss": "mine:Loss"}}, folder=tmp_path)
    rows = Samples(np.zeros((4, 2), np.float32), np.arange(4)[:, None], np.zeros((4, 1), np.int64), np.ones(4))
    task = task_of(spec, trial_contract(spec, features=2), rows, np.arange(3), np.arange(3, 4))

    def of(code: str) -> str:
        (tmp_path / "mine.py").write_text(code)
        return _hash(task, torch.device("cpu"))

    assert of("class Loss: ...") == of("class Loss: ...") != of("class Loss: ...  # otherwise")
