"""The fault bench in its short form: workers killed, records that cannot be read, a commit whose answer is lost."""

import logging

import pytest

from tests.faults.bench import Bench
from tests.faults.scenarios import scenarios
from tests.faults.scene import fitted

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _quiet(caplog) -> None:
    caplog.set_level(logging.CRITICAL, logger="aiokafka")  # what the bench's own clients meet is meant


@pytest.fixture(scope="module")
def model():
    return fitted()


@pytest.mark.parametrize("name", ["kills", "poison", "proxy_lost_commit"])
async def test_after_a_fault_everything_equals_the_oracle(kafka, tmp_path, compiled_kernels, model, name) -> None:
    found = await scenarios()[name](Bench(tmp_path, model, kafka, seed=1, is_short=True, soak_minutes=0.0))

    assert found["compared"] > 0
    assert (found["lost"], found["conflicting"], found.get("acknowledged_lost", 0)) == (0, 0, 0)
