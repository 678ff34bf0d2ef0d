from pathlib import Path
from typing import Any

import pytest

from ml_core import spec as pipelines
from tests.conformance.model_suite import ModelSuite

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def pipeline(kind: str, window: int, **params: Any) -> pipelines.PipelineSpec:
    data = {"name": "demo", "features": {"window": window}, "model": {"kind": kind, "params": params}}
    return pipelines.parse(data, folder=EXAMPLES)


class TestMlpOnRows(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("mlp", 1)


class TestMlpOnWindows(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("mlp", 6, hidden=[32])


class TestLstm(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("lstm", 6, width=16)


class TestLinearOnWindows(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("linear", 6)


class TestGru(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("gru", 6, width=16)


class TestTcn(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("tcn", 6, width=12)


class TestOwnModelOfTheExamples(ModelSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls):
        return pipeline("my_models:TinyConv", 6)
