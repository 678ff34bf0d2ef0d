import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core import spec as pipelines
from ml_core.learners import boosting
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from tests.conformance.learning_lab import task_of
from tests.conformance.model_suite import ROWS, TRAINED, ModelSuite, NetworkSuite

SCORES_OF_A_FOLDER = """
import json, pathlib, sys
import numpy as np
from ml_core.model.fitted import FittedModel
scorer = FittedModel.load(pathlib.Path(sys.argv[1])).scorer()
x = np.load(sys.argv[2], allow_pickle=False)
print(json.dumps({"scores": scorer.scores(x).tobytes().hex(), "torch": "torch" in sys.modules}))
"""
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def pipeline(kind: str, window: int, **params: Any) -> pipelines.PipelineSpec:
    data = {"name": "demo", "features": {"window": window}, "model": {"kind": kind, "params": params}}
    return pipelines.parse(data, folder=EXAMPLES)


class TestMlpOnRows(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("mlp", 1)

    def test_a_new_process_gives_the_same_scores_without_torch(self, model, tmp_path):
        x_BTF = self.rows(33, model.contract.window, seed=4)
        model.save(tmp_path / "model")
        np.save(tmp_path / "x.npy", x_BTF, allow_pickle=False)
        command = [sys.executable, "-c", SCORES_OF_A_FOLDER, str(tmp_path / "model"), str(tmp_path / "x.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert json.loads(done.stdout) == {"scores": model.scorer().scores(x_BTF).tobytes().hex(), "torch": False}


class TestMlpOnWindows(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("mlp", 6, hidden=[32])


class TestLstm(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("lstm", 6, width=16)


class TestLinearOnWindows(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("linear", 6)


class TestGru(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("gru", 6, width=16)


class TestTcn(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("tcn", 6, width=12)


class TestBoostingOnRows(ModelSuite):
    window = 1

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("boosting", cls.window, rounds=40, min_data_in_leaf=20, bagging_fraction=0.8)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, spec, contract, samples):
        learned = cls.learn(spec, contract, samples, seed=0)
        return FittedModel(Scorer(learned.onnx).contract, learned.onnx, learned.weights)

    @classmethod
    def weights(cls, spec, contract, samples, seed):
        return cls.learn(spec, contract, samples, seed).weights

    @staticmethod
    def learn(spec, contract, samples, seed):
        parts = np.arange(TRAINED), np.arange(TRAINED, ROWS)
        return boosting.learn(task_of(spec, contract, samples, *parts, seed=seed))

    def test_another_seed_gives_other_trees(self, spec, contract, samples, model):
        other = self.weights(spec, contract, samples, seed=1)
        assert other["trees.0.0"].tobytes() != model.weights["trees.0.0"].tobytes()


class TestBoostingOnWindows(TestBoostingOnRows):
    window = 6


class TestOwnModelOfTheExamples(NetworkSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("my_models:TinyConv", 6)
