import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from data_io.feeds.backfill import Rest, fill
from data_io.feeds.binance import Binance
from data_io.feeds.coinbase import Coinbase
from data_io.feeds.limits import Limits
from data_io.feeds.order import SymbolOrder
from data_io.feeds.port import RefusedError, Trade, Venue
from data_io.feeds.receive_clock import ReceiveClock
from data_io.feeds.report import FeedReport
from data_io.feeds.settings import FeedSettings
from ml_core.errors import InvalidSettingsError, SourceUnavailableError

KEY = "k3yThatNobodyMaySee"
QUICK = Limits(attempts=2, first_pause_s=0.001, longest_pause_s=0.001, request_interval_s=0.001, settle_s=0.001)


class Side:
    """A REST side that says one thing, repeats what it was asked with, and knows what that was."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.asked: list[tuple[str, str | None]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("X-MBX-APIKEY")))
        return web.Response(status=self.status, reason=KEY, text=f'[{{"id": "{KEY}"}}]', headers={"Location": "/away"})

    @asynccontextmanager
    async def open(self, venue: Venue) -> AsyncIterator[Rest]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            async with aiohttp.ClientSession() as http:
                yield Rest(http, f"http://{host}:{port}", venue, QUICK, FeedReport(), api_key=SecretStr(KEY))
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("status", [200, 302, 403, 429, 500])
async def test_a_key_goes_to_the_venue_alone_and_stands_in_no_log_and_no_error(
    status: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    side, order = Side(status), SymbolOrder("A", lambda _: None, ReceiveClock(), FeedReport(), 100)
    for number in (1, 4):
        order.trade(Trade("A", number, 1.0, 1.0, 1, -1), time.time_ns())

    async with side.open(Binance()) as rest:
        with pytest.raises((RefusedError, SourceUnavailableError)) as told:
            await rest.page("A", 2, 3)
        with capture_logs() as lines:
            await fill(order, rest, time.time_ns)  # which logs why it gives up

    assert set(side.asked) == {("/api/v3/historicalTrades", KEY)}
    out, err = capfd.readouterr()
    assert "trades that were missed are not given" in [line["event"] for line in lines]
    assert KEY not in f"{told.value!r} {told.value.__cause__!r} {lines} {out} {err} {caplog.text} {vars(rest)}"


async def test_a_venue_that_wants_no_key_gets_none() -> None:
    side = Side(403)
    async with side.open(Coinbase()) as rest:
        with pytest.raises(RefusedError):
            await rest.page("A", 2, 3)
    assert side.asked == [("/products/A/trades", None)]


def test_the_key_is_read_from_the_environment_and_one_that_is_no_word_is_refused_without_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert FeedSettings.read().api_key("binance") is None
    monkeypatch.setenv("TICKWISE_BINANCE_API_KEY", KEY)
    settings = FeedSettings.read()
    found = settings.api_key("binance")
    assert found is not None
    assert (found.get_secret_value(), settings.api_key("coinbase")) == (KEY, None)
    assert KEY not in repr(settings)

    monkeypatch.setenv("TICKWISE_BINANCE_API_KEY", KEY + "\nHost: elsewhere")
    with pytest.raises(InvalidSettingsError, match="TICKWISE_BINANCE_API_KEY: must be letters and digits") as told:
        FeedSettings.read()
    assert KEY not in str(told.value)
