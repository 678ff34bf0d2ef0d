import pytest
from structlog.testing import capture_logs

from data_io.feeds.binance import Binance
from data_io.feeds.live import LiveFeed
from data_io.feeds.steady_clock import SteadyClock
from ml_core.types import SECOND_NS
from tests.feeds_lab import made_binance

HOUR_S = 3600
START_S = 1_700_000_000


class Machine:
    """Its two clocks; one reading of the wall clock can be made to last."""

    def __init__(self) -> None:
        self.wall_s, self.up_s, self.held_up_s = float(START_S), 100.0, 0.0

    def wall_ns(self) -> int:
        told = round(self.wall_s * SECOND_NS)
        self.pass_s(self.held_up_s)
        return told

    def monotonic_ns(self) -> int:
        return round(self.up_s * SECOND_NS)

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.up_s += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def clock(machine: Machine) -> SteadyClock:
    return SteadyClock(machine.wall_ns, machine.monotonic_ns)


def told_s(clock: SteadyClock) -> float:
    return clock() / SECOND_NS - START_S


def test_time_passes_as_on_the_wall_clock_and_small_changes_of_that_one_are_not_followed(machine, clock) -> None:
    with capture_logs() as lines:
        machine.pass_s(2)
        assert told_s(clock) == 2
        machine.wall_s -= 0.1
        machine.pass_s(1)
        assert told_s(clock) == 3
    assert lines == []


def test_after_the_clock_went_ahead_and_back_times_differ_and_are_right_again_later(machine, clock) -> None:
    with capture_logs() as lines:
        machine.wall_s += HOUR_S
        times = [told_s(clock)]
        machine.wall_s -= HOUR_S
        for _ in range(4):
            machine.pass_s(HOUR_S / 2)
            times.append(told_s(clock))
        machine.pass_s(1)
        times.append(told_s(clock))

    assert times == [HOUR_S, *(HOUR_S * (1 + n / 4) for n in range(1, 5)), 2 * HOUR_S + 1]
    assert [(line["event"][:23], line["seconds"]) for line in lines] == [
        ("the clock was set ahead", HOUR_S), ("the clock was set back;", HOUR_S),
    ]  # fmt: skip


def test_a_process_that_was_held_up_takes_no_clock_for_set(machine, clock) -> None:
    with capture_logs() as lines:
        machine.held_up_s = 5
        assert told_s(clock) == 5
        machine.held_up_s = 0
        assert told_s(clock) == 5
    assert lines == []


async def test_ticks_of_a_feed_have_times_of_their_own_while_the_clock_is_back(machine, clock) -> None:
    feed = LiveFeed(Binance(), ["BTCUSDT"], clock=clock)
    machine.wall_s -= HOUR_S
    for event in made_binance(4):
        machine.pass_s(0.5)
        await feed.received(event.payload.encode())

    times_ns = [item.ts_ns for item in feed._items if hasattr(item, "tick")]
    assert [ts_ns / SECOND_NS - START_S for ts_ns in times_ns] == [0.25 * n for n in range(1, 7)]
    assert isinstance(LiveFeed(Binance(), ["BTCUSDT"])._clock, SteadyClock)
