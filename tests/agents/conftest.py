"""A partition as the windowing agent sees it, with outputs that are kept in memory: no broker."""

from types import SimpleNamespace

import pytest

from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import PipelineSpec, parse
from streams.partition_state import PartitionState
from streams.transport.tails import Tails
from tests.agents.in_memory import TOPIC, Recorded


@pytest.fixture(scope="session", autouse=True)
def _compiled_kernels() -> None:
    features.warm_up()


@pytest.fixture
def spec() -> PipelineSpec:
    return parse({"name": "demo", "label": {"delay": "0ms", "horizons": ["1s"]}})


@pytest.fixture
def partition(spec: PipelineSpec) -> SimpleNamespace:
    return partition_of(spec)


def partition_of(spec: PipelineSpec) -> SimpleNamespace:
    state = PartitionState({spec.feature_set: (FeaturePlan.from_spec(spec), [spec])}, {})
    shared = SimpleNamespace(topic=TOPIC, topic_id="Topic-id", lateness_ns=spec.source.lateness)
    at = {"number": 2, "position": 0, "publish_from": 0}
    return SimpleNamespace(shared=shared, **at, tails=Tails(), state=state, serving={}, outputs=Recorded())
