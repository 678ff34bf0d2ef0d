import asyncio
import random

import aiohttp
import pytest
from structlog.testing import capture_logs

from data_io.feeds.backfill import Rest
from data_io.feeds.binance import Binance
from data_io.feeds.limits import Limits
from data_io.feeds.port import RefusedError
from data_io.feeds.report import FeedReport
from data_io.feeds.session import Session, backoff
from ml_core.errors import SourceUnavailableError
from tests.feeds_lab import Exchange, Faults, made_binance

NOWHERE = "http://127.0.0.1:9"


class Clock:
    """Time that only passes in waits."""

    def __init__(self, *, at_most: int = 1000) -> None:
        self.now_s, self.waits, self._at_most = 0.0, [], at_most

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds
        if len(self.waits) == self._at_most:
            raise asyncio.CancelledError


class Deaf:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def connected(self) -> None:
        raise AssertionError

    async def received(self, payload: bytes) -> None:
        raise AssertionError

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)


def test_pauses_double_up_to_a_cap_and_are_spread_from_nothing_on() -> None:
    rng = random.Random(1)
    for failures, most in [(0, 0.5), (1, 1.0), (3, 4.0), (10, 30.0), (10_000, 30.0)]:
        pauses = [backoff(failures, 0.5, 30.0, rng) for _ in range(500)]
        assert 0.9 * most < max(pauses) <= most
        assert 0 <= min(pauses) < 0.1 * most


async def test_a_venue_that_is_away_is_tried_again_ever_more_seldom() -> None:
    clock, deaf = Clock(at_most=12), Deaf()
    async with aiohttp.ClientSession() as http:
        session = Session(
            http, NOWHERE, None, Limits(), silence_s=1, sleep=clock.sleep, monotonic=clock, rng=random.Random(3)
        )
        with pytest.raises(asyncio.CancelledError):
            await session.run(deaf)
    assert deaf.reasons == ["no connection: ClientConnectorError"] * 12
    assert all(wait <= min(30, 0.5 * 2**n) for n, wait in enumerate(clock.waits))
    assert max(clock.waits) > 5


async def ask(faults: Faults, clock: Clock, *questions: tuple[int, int]) -> tuple[list[list[int]], Exchange]:
    exchange = Exchange(made_binance(100), faults)
    exchange.past = {event.trade.id: event.trade for event in exchange.events if event.trade}
    async with exchange.open(), aiohttp.ClientSession() as http:
        rest = Rest(
            http, exchange.url, Binance(), Limits(), FeedReport(), sleep=clock.sleep, monotonic=clock,
            rng=random.Random(1),
        )  # fmt: skip
        pages = [await rest.page("BTCUSDT", *question) for question in questions]
    return [[trade.id for trade in page] for page in pages], exchange


async def test_questions_are_spaced_as_the_venue_allows() -> None:
    clock = Clock()
    pages, _ = await ask(Faults(), clock, (1000, 1002), (1005, 1005), (1010, 1011))
    assert pages == [[1000, 1001, 1002], [1005], [1010, 1011]]
    assert clock.waits == [0.25, 0.25]


async def test_who_gave_up_waiting_for_a_question_leaves_no_gap_in_the_line() -> None:
    clock, never = Clock(), asyncio.Event()
    rest = Rest(None, NOWHERE, Binance(), Limits(), FeedReport(), sleep=lambda _: never.wait(), monotonic=clock)
    await rest._turn()
    waiting = [asyncio.create_task(rest._turn()) for _ in range(9)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)

    rest.sleep = clock.sleep
    await rest._turn()

    assert clock.waits == [0.25]


async def test_an_answer_that_says_later_is_asked_for_later() -> None:
    clock = Clock()
    pages, exchange = await ask(Faults(busy=2), clock, (1000, 1000))
    assert pages == [[1000]]
    assert exchange.asked == 3
    assert clock.now_s >= 14, "the venue said 7 s, twice"


async def test_a_venue_that_never_answers_is_given_up() -> None:
    with pytest.raises(SourceUnavailableError, match="status 429"):
        await ask(Faults(busy=99), Clock(), (1000, 1000))


async def test_what_is_refused_is_not_asked_for_again() -> None:
    clock = Clock()
    with pytest.raises(RefusedError, match="status 403"):
        await ask(Faults(refused=frozenset({1003})), clock, (1000, 1005))
    assert not clock.waits


async def test_a_venue_that_sends_elsewhere_is_not_followed() -> None:
    elsewhere = Exchange(made_binance(1))
    async with elsewhere.open():
        moved = Faults(moved=elsewhere.url + "/api/v3/historicalTrades?fromId=1&limit=1")
        with pytest.raises(RefusedError, match="status 302"):
            await ask(moved, Clock(), (1000, 1000))
    assert elsewhere.asked == 0


async def test_no_password_of_a_url_is_told() -> None:
    clock, url = Clock(at_most=5), "http://me:s3cret@127.0.0.1:9"
    async with aiohttp.ClientSession() as http:
        session = Session(http, url + "/stream?key=s3cret", None, Limits(), silence_s=1, sleep=clock.sleep)
        with capture_logs() as lines, pytest.raises(asyncio.CancelledError):
            await session.run(Deaf())
        clock = Clock()
        rest = Rest(http, url, Binance(), Limits(), FeedReport(), sleep=clock.sleep, monotonic=clock)
        with pytest.raises(SourceUnavailableError, match=r"http://127.0.0.1:9/\S+ did not answer") as raised:
            await rest.page("A", 1, 1)
    assert lines[0]["url"] == "http://127.0.0.1:9/stream"
    assert "s3cret" not in str(lines) + str(raised.value)
