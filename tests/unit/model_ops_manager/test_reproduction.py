"""What a store says of a version is input: it decides neither how much is read nor how the command ends."""

from types import SimpleNamespace

import pytest

from ml_core.errors import InputError, ModelRefusedError
from ml_core.spec import parse
from ml_core.types import OffsetRange
from model_ops_manager.mlflow_agent import ModelVersion
from model_ops_manager.reproduction import reproduce

VERSION = ModelVersion("demo", 1, "run", "somewhere")
NOWHERE = "127.0.0.1:1"
AGENT = SimpleNamespace(load_fitted=None)  # asked for nothing


def again(**contract):
    said = {"topic": "ticks", "ranges": [OffsetRange(partition=0, start=0, end=5_000)], "parent": None, **contract}
    recorded = SimpleNamespace(contract=SimpleNamespace(**said))
    return reproduce(AGENT, VERSION, recorded, parse({"name": "demo"}), kafka=NOWHERE, max_ticks=1_000)


def test_ranges_past_the_limit_of_a_job_are_not_read() -> None:
    with pytest.raises(InputError, match="hold 5000 offsets, at most 1001"):
        again()


@pytest.mark.parametrize("parent", ["demo", "demo/", "demo/x", "demo/0", "demo/" + "9" * 5000, "a/b/1", "/1"])
def test_a_parent_that_is_no_version_is_refused(parent) -> None:
    with pytest.raises(ModelRefusedError, match="is no version"):
        again(parent=parent)
