"""The ticks of one symbol in the order of its trade ids: what is missing is waited for, asked for, or marked.

A pure state machine: messages and answers go in as they come, ticks and marks come out in order. While a hole is open,
everything behind it is held, for a tick that goes out late counts as late everywhere.
"""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from data_io.feeds.gaps import Gap, Reason
from data_io.feeds.port import Quote, Trade
from data_io.feeds.receive_clock import ReceiveClock
from data_io.feeds.report import FeedReport
from data_io.feeds.sequence import Duplicate, Hole, judge, missing
from ml_core.errors import SourceUnavailableError
from ml_core.types import SECOND_NS

COUNTS_ANEW = 100  # trades in a row that lie further back than any tick is held


class Placed(NamedTuple):
    """A tick and its time on the receive clock."""

    ts_ns: int
    tick: Trade | Quote
    is_backfilled: bool


class _Held(NamedTuple):
    """A place in the order of arrival, of ``quote`` or of the trade with the lowest id that is held."""

    ts_ns: int
    quote: Quote | None
    is_break: bool = False  # neither: the connection was made anew, trades may be missing


class SymbolOrder:
    """One symbol; ids of trades only ascend in what is handed out, and so do times."""

    def __init__(
        self, symbol: str, out: Callable[[Placed | Gap], None], clock: ReceiveClock, report: FeedReport, hold: int
    ) -> None:
        """Hand ticks and marks to ``out``; at most ``hold`` ticks wait for a hole."""
        self.symbol = symbol
        self.last_id: int | None = None
        self.hole: tuple[int, int | None] | None = None
        """The ids that are waited for; without an end: all up to the newest there are."""
        self.epoch = 0
        """Counts the holes, so that an answer knows whether its hole is still the one."""
        self._out, self._clock, self._report, self._hold_limit = out, clock, report, hold
        self._last_ns = -1  # of the last tick handed out
        self._last_trade_ns = -1
        self._found: dict[int, tuple[Trade, bool]] = {}  # of the hole, with whether it was asked for
        self._newest_found = -1
        self._held: deque[_Held] = deque()
        self._trades: dict[int, Trade] = {}  # held ones
        self._ids: list[int] = []  # theirs, a heap
        self._far_back = 0
        self._had_quotes = False
        self._no_quotes_since_ns: int | None = None

    def quote(self, quote: Quote, now_ns: int) -> None:
        """Take a quote that was received at ``now_ns``."""
        if self._no_quotes_since_ns is not None:
            self._out(Gap(self.symbol, "quote", self._no_quotes_since_ns, now_ns, "disconnected"))
            self._no_quotes_since_ns = None
        self._had_quotes = True
        if self.hole is None:
            self._give(now_ns, quote)
        else:
            self._hold(_Held(now_ns, quote), now_ns)

    def trade(self, trade: Trade, now_ns: int) -> None:
        """Take a trade that was received at ``now_ns``.

        Raises:
            SourceUnavailableError: All trades lie far behind the newest one: the venue counts anew, or that id was
                false. Whoever starts anew begins with what comes.
        """
        if self.hole is None:
            wrong = judge(self.last_id, trade.id)
            if isinstance(wrong, Duplicate):
                self._doubled(trade.id)
            elif wrong is None:
                self._give(now_ns, trade)
            else:
                self._begin(wrong.first, wrong.last)
                self._hold_trade(trade, now_ns)
            return
        first, last = self.hole
        if trade.id < first or trade.id in self._found or trade.id in self._trades:
            self._report.duplicates += 1
        elif trade.id <= (self._newest_found if last is None else last):  # it comes late
            self._find(trade, is_backfilled=False)
            self._close_if_whole(now_ns)
        else:
            if last is None:
                self.hole = first, trade.id - 1
            self._hold_trade(trade, now_ns)
            self._close_if_whole(now_ns)

    def head(self, newest: int) -> None:
        """Take note that there is a trade ``newest``."""
        if self.hole is None and isinstance(hole := judge(self.last_id, newest + 1), Hole):
            self._begin(*hole)

    def connected(self, now_ns: int) -> None:
        """Take note of a new connection: trades since the last one may be missing."""
        if self.last_id is None:
            return
        if self.hole is None:
            self._begin(self.last_id + 1, None)
        elif not self._held or not self._held[-1].is_break:
            self._hold(_Held(now_ns, None, is_break=True), now_ns)

    def lost(self, heard_ns: int) -> None:
        """Take note that the connection is lost; ``heard_ns`` is when it was last heard of."""
        if self._had_quotes and self._no_quotes_since_ns is None:
            self._no_quotes_since_ns = heard_ns

    def wanted(self) -> list[tuple[int, int | None]]:
        """Return the ids to ask for, as ``hole``."""
        if self.hole is None:
            return []
        first, last = self.hole
        end = self._newest_found if last is None else last
        pieces: list[tuple[int, int | None]] = [*missing(Hole(first, end), self._found)]
        return pieces if last is not None else [*pieces, (max(end + 1, first), None)]

    def clip(self, first: int, last: int | None) -> tuple[int, int | None]:
        """Return what of the ids ``[first, last]`` is in the hole; its end may be known by now."""
        end = self.hole[1] if self.hole is not None else None
        return first, last if end is None else end if last is None else min(last, end)

    @property
    def size(self) -> int:
        """Return how many trades the hole is known to have."""
        if self.hole is None:
            return 0
        first, last = self.hole
        return (self._newest_found if last is None else last) - first + 1

    def answer(self, trades: Sequence[Trade], now_ns: int) -> None:
        """Take trades that the REST side gave."""
        for trade in trades:
            if self.hole is None:
                return
            first, last = self.hole
            is_wanted = first <= trade.id and (last is None or trade.id <= last)
            if is_wanted and trade.id not in self._found and trade.id not in self._trades:
                self._find(trade, is_backfilled=True)
        if self.hole is not None:
            self._close_if_whole(now_ns)

    def answered(self, now_ns: int) -> None:
        """Take note that the REST side was asked for all that is wanted: a hole without an end gets one."""
        if self.hole is not None and self.hole[1] is None:
            first = self.hole[0]
            self.hole = first, max(self._newest_found, first - 1)
            self._close_if_whole(now_ns)

    def give_up(self, reason: Reason, now_ns: int) -> None:
        """Mark what is missing of the hole, and go on behind it."""
        if self.hole is not None:
            first, last = self.hole
            self._settle(max(self._newest_found, first - 1) if last is None else last, now_ns, reason)

    def close(self, now_ns: int) -> None:
        """Hand out what is held, at the end of the feed."""
        while self.hole is not None:
            self.give_up("stopped", now_ns)
        if self._no_quotes_since_ns is not None:
            self._out(Gap(self.symbol, "quote", self._no_quotes_since_ns, now_ns, "disconnected"))
            self._no_quotes_since_ns = None

    def waited_s(self, now_ns: int) -> float:
        """Return how long the oldest tick that is held has waited."""
        return (now_ns - self._held[0].ts_ns) / SECOND_NS if self._held else 0.0

    def _doubled(self, trade_id: int) -> None:
        self._report.duplicates += 1
        self._far_back = self._far_back + 1 if (self.last_id or 0) - trade_id > self._hold_limit else 0
        if self._far_back >= COUNTS_ANEW:
            raise SourceUnavailableError(
                f"trade ids of {self.symbol} went back from {self.last_id} to {trade_id}; start the feed anew"
            )

    def _begin(self, first: int, last: int | None) -> None:
        self.hole = first, last
        self._found, self._newest_found = {}, -1
        self.epoch += 1
        self._report.holes += 1

    def _find(self, trade: Trade, *, is_backfilled: bool) -> None:
        self._found[trade.id] = trade, is_backfilled
        self._newest_found = max(self._newest_found, trade.id)

    def _hold_trade(self, trade: Trade, now_ns: int) -> None:
        self._trades[trade.id] = trade
        heappush(self._ids, trade.id)
        self._hold(_Held(now_ns, None), now_ns)

    def _hold(self, held: _Held, now_ns: int) -> None:
        self._held.append(held)
        self._report.most_held = max(self._report.most_held, len(self._held))
        if len(self._held) >= self._hold_limit:
            self.give_up("overflow", now_ns)

    def _close_if_whole(self, now_ns: int) -> None:
        first, last = self.hole or (0, None)
        if last is not None and len(self._found) == last - first + 1:
            self._settle(last, now_ns, "not_given")

    def _settle(self, last: int, now_ns: int, reason: Reason) -> None:
        """Hand out what was found of the hole up to ``last``, mark the rest, and go on with what is held."""
        first, _ = self.hole or (last + 1, None)
        gaps = deque(missing(Hole(first, last), self._found))
        latest_ns = next((held.ts_ns for held in self._held if held.quote is None), now_ns)
        for trade_id in sorted(self._found):
            trade, is_backfilled = self._found[trade_id]
            ts_ns = self._clock.place(trade.exchange_ns, self._last_ns, latest_ns)
            while self._held and self._held[0].quote is not None and self._held[0].ts_ns <= ts_ns:
                held = self._held.popleft()
                self._give(held.ts_ns, held.quote)  # type: ignore[arg-type]  # mypy forgets what is at [0]
            while gaps and gaps[0].first < trade_id:
                self._mark(gaps.popleft(), ts_ns, reason)
            self._give(ts_ns, trade, is_backfilled=is_backfilled)
            self._report.backfilled += is_backfilled
        for gap in gaps:
            self._mark(gap, latest_ns, reason)
        self.last_id, self.hole, self._found = last, None, {}
        self._release()

    def _release(self) -> None:
        """Hand out what is held, up to the next hole."""
        while self._held and self.hole is None:
            held = self._held[0]
            if held.is_break:
                self._held.popleft()
                first, last = (self.last_id or 0) + 1, self._ids[0] - 1 if self._ids else None
                if last is None or last >= first:
                    self._begin(first, last)
            elif held.quote is not None:
                self._give(held.ts_ns, held.quote)
                self._held.popleft()
            elif isinstance(hole := judge(self.last_id, self._ids[0]), Hole):
                self._begin(*hole)
            else:
                self._give(held.ts_ns, self._trades.pop(heappop(self._ids)))
                self._held.popleft()

    def _give(self, ts_ns: int, tick: Trade | Quote, *, is_backfilled: bool = False) -> None:
        if self._last_ns < 0:
            self._out(Gap(self.symbol, "any", ts_ns, ts_ns, "started"))
        self._last_ns = ts_ns
        if isinstance(tick, Trade):
            self.last_id, self._last_trade_ns, self._far_back = tick.id, ts_ns, 0
        self._out(Placed(ts_ns, tick, is_backfilled))

    def _mark(self, hole: Hole, to_ns: int, reason: Reason) -> None:
        self._report.missing += hole.ids
        self._out(Gap(self.symbol, "trade", self._last_trade_ns, to_ns, reason, *hole))
