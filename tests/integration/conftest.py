"""A real Kafka for the integration tests: one for the whole run."""

import os
import secrets
from collections.abc import Iterator

import pytest

from streams.local_kafka import broker


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of the Kafka of this run; ``TICKWISE_TEST_KAFKA`` names one that is there already."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("TICKWISE_KAFKA", raising=False)  # the Kafka people work with is no place for tests
        with broker(os.environ.get("TICKWISE_TEST_KAFKA")) as address:
            yield address


@pytest.fixture
def unique() -> str:
    """A suffix for topic and group names that no other test uses."""
    return secrets.token_hex(4)
