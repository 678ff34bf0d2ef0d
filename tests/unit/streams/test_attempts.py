"""What counts as an attempt, and what means that Kafka is not there."""

import pytest
from aiokafka import errors

from ml_core.errors import KafkaUnavailableError, ModelStoreUnavailableError
from streams.transport.attempts import MAX_ATTEMPTS, Attempts, is_away


def caused_by(cause: Exception | None) -> KafkaUnavailableError:
    error = KafkaUnavailableError("cannot take over")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        errors.NodeNotReadyError(),
        errors.KafkaConnectionError(),
        errors.KafkaTimeoutError(),
        caused_by(TimeoutError()),
        caused_by(OSError("no route to host")),
        caused_by(errors.RequestTimedOutError()),
    ],
)
def test_who_does_not_answer_is_away(error) -> None:
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        OSError("No space left on device"),
        ModelStoreUnavailableError(),
        caused_by(None),
        caused_by(errors.ProducerFenced()),
        errors.TopicAuthorizationFailedError(),
    ],
)
def test_who_refuses_or_is_somebody_else_is_not(error) -> None:
    assert not is_away(error)


def test_failures_at_one_place_are_counted_and_one_further_on_begins_anew() -> None:
    attempts = Attempts()
    for _ in range(MAX_ATTEMPTS - 1):
        assert attempts.failed(500, away=False) is not None
    assert attempts.failed(700, away=False) == 1.0

    pauses_s = [attempts.failed(position, away=False) for position in (700, 600, 700, 0, 700)]
    assert pauses_s == [2.0, 4.0, 8.0, 8.0, None]


def test_that_kafka_is_away_is_no_attempt_and_each_time_counts_from_its_beginning() -> None:
    now_s = 0.0
    attempts = Attempts(lambda: now_s)
    assert [attempts.failed(0, away=True) for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    now_s = 299.0
    assert (attempts.failed(0, away=True), attempts.count) == (8.0, 0)
    attempts.taken_over()
    now_s = 1e6
    assert attempts.failed(0, away=True) == 1.0
    now_s += 300.0
    assert attempts.failed(0, away=True) is None
