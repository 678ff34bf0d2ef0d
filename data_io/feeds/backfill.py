"""Trades that were missed, asked for on the REST side: page by page, within the limits of the venue."""

import asyncio
import random
import time
from collections.abc import Callable
from http import HTTPStatus

import aiohttp
import structlog
from pydantic import SecretStr

from data_io.data_fetcher.venue_values import UnusableMessageError
from data_io.feeds.gaps import Reason
from data_io.feeds.limits import Limits
from data_io.feeds.order import SymbolOrder
from data_io.feeds.port import RefusedError, Trade, Venue
from data_io.feeds.report import FeedReport
from data_io.feeds.session import Sleep, backoff, shown
from ml_core.errors import SourceUnavailableError

log = structlog.get_logger()

_LARGEST_ANSWER = 8 << 20
_BANNED = 418  # Binance's word for too many requests, in spite of having been told
_CHUNK = 1 << 16
_LONGEST_BAN_S = 3 * 86_400.0  # of Binance


class Rest:
    """The REST side of a venue; all that ask wait in one line."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        venue: Venue,
        limits: Limits,
        report: FeedReport,
        *,
        api_key: SecretStr | None = None,
        sleep: Sleep = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Ask at ``url``, with ``api_key`` where the venue takes one."""
        self.venue, self.limits, self.sleep, self.rng = venue, limits, sleep, rng or random.Random()  # noqa: S311  # jitter
        self._http, self._url, self._report, self._monotonic = http, url.rstrip("/"), report, monotonic
        self._api_key = api_key
        self._interval_s = limits.request_interval_s or venue.request_interval_s
        self._next_s, self._line = 0.0, asyncio.Lock()

    async def page(self, symbol: str, first: int, last: int | None) -> list[Trade]:
        """Return trades of ``[first, last]`` of one answer; see `Venue.request`.

        Raises:
            RefusedError: The venue will not answer that.
            SourceUnavailableError: It does not answer. A retry is safe.
        """
        path, parameters = self.venue.request(symbol, first, last)
        why = ""
        for attempt in range(self.limits.attempts):
            if attempt:
                await self.pause(attempt - 1)
            await self._turn()
            self._report.requests += 1
            try:
                async with (
                    asyncio.timeout(self.limits.answer_s),
                    # a redirection would take the key along to wherever it leads
                    self._http.get(
                        self._url + path, params=parameters, headers=self._headers(), allow_redirects=False
                    ) as response,
                ):
                    if response.status == HTTPStatus.OK:
                        return self.venue.read_page(symbol, await _body(response))
                    why = f"status {response.status}"
                    if response.status in (HTTPStatus.TOO_MANY_REQUESTS, _BANNED):
                        self._hold_back(response.headers.get("Retry-After", ""))
                    elif response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                        raise RefusedError(why)
            except UnusableMessageError as error:
                why = str(error)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:  # their texts may hold the URL
                why = type(error).__name__
        raise SourceUnavailableError(f"{shown(self._url)}{path} did not answer: {why}")

    async def pause(self, failures: int) -> None:
        """Wait before something is tried again."""
        await self.sleep(backoff(failures, self.limits.first_pause_s, self.limits.longest_pause_s, self.rng))

    def _headers(self) -> dict[str, str]:
        name = self.venue.api_key_header
        return {name: self._api_key.get_secret_value()} if name and self._api_key else {}

    async def _turn(self) -> None:
        """Wait for the next question that the venue allows; who gives up waiting leaves no place in the line empty."""
        async with self._line:
            while (left_s := self._next_s - self._monotonic()) > 0:  # meanwhile the venue may have said later
                await self.sleep(left_s)
            self._next_s = self._monotonic() + self._interval_s

    def _hold_back(self, retry_after: str) -> None:
        """Ask nothing for as long as the venue says; holes are given up meanwhile."""
        seconds = float(retry_after) if retry_after.isdecimal() else self.limits.first_pause_s
        self._next_s = max(self._next_s, self._monotonic() + min(seconds, _LONGEST_BAN_S))


async def fill(order: SymbolOrder, rest: Rest, now_ns: Callable[[], int]) -> None:
    """Fill the holes of ``order``, or give them up with their reason, until nothing of it is held."""
    while order.hole is not None:
        epoch = order.epoch
        reason: Reason
        try:
            # what waits behind holes in a row waits no longer than behind one
            async with asyncio.timeout(max(0.0, rest.limits.fill_s - order.waited_s(now_ns()))):
                reason = await _ask(order, rest, now_ns)
        except TimeoutError:
            reason = "timeout"
        if _is_open(order, epoch):
            order.give_up(reason, now_ns())


async def _ask(order: SymbolOrder, rest: Rest, now_ns: Callable[[], int]) -> Reason:
    """Ask for the present hole of ``order``; return why it is not filled, if it is not."""
    epoch = order.epoch
    await rest.sleep(rest.limits.settle_s)
    for attempt in range(rest.limits.attempts):
        if attempt:  # the REST side may be behind the stream
            await rest.pause(attempt - 1)
        for first, last in order.wanted():
            why = await _pages(order, rest, now_ns, (first, last))
            if why is not None:
                return why
            if not _is_open(order, epoch):
                return "not_given"
        order.answered(now_ns())
        if not _is_open(order, epoch):
            break
    return "not_given"


async def _pages(
    order: SymbolOrder, rest: Rest, now_ns: Callable[[], int], left: tuple[int, int | None] | None
) -> Reason | None:
    """Ask for all of ``left``; return why that was not possible."""
    epoch = order.epoch
    while left is not None and _is_open(order, epoch):
        first, last = order.clip(*left)
        if last is not None and first > last:
            break
        if order.size > rest.limits.fill_trades:
            return "too_large"
        try:
            page = await rest.page(order.symbol, first, last)
        except (RefusedError, SourceUnavailableError) as error:
            log.warning("trades that were missed are not given", action="feed", symbol=order.symbol, error=str(error))
            return "refused" if isinstance(error, RefusedError) else "unavailable"
        if _is_open(order, epoch):
            order.answer(page, now_ns())
        left = rest.venue.remaining(first, last, page)
    return None


def _is_open(order: SymbolOrder, epoch: int) -> bool:
    """Return whether the hole is still the one that was asked for."""
    return order.hole is not None and order.epoch == epoch


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise UnusableMessageError("an answer is too large")
    return bytes(body)
