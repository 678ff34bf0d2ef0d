"""What every tick fetcher must do; an adapter's test file inherits the suite and gives a source."""

from abc import ABC, abstractmethod

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.port import BAR, KINDS, BarFetcher, TickFetcher, join
from ml_core import frames
from ml_core.types import TickBatch


class TickFetcherSuite(ABC):
    """Inherit, and give `fetcher`: a new fetcher of a small source with at least four ticks."""

    @abstractmethod
    @pytest.fixture
    def fetcher(self) -> TickFetcher: ...

    def test_history_is_a_ticks_frame_numbered_from_zero(self, fetcher: TickFetcher) -> None:
        frame = fetcher.fetch()

        frames.check(frame)
        assert len(frame) >= 4
        assert frame.index.equals(pd.RangeIndex(len(frame)))

    def test_every_tick_has_a_place_of_its_own_in_the_source(self, fetcher: TickFetcher) -> None:
        assert (np.diff(fetcher.fetch()["offset"]) > 0).all()

    def test_it_gives_only_the_kinds_it_declares_and_says_what_its_clock_is(self, fetcher: TickFetcher) -> None:
        ticks = {"trade"} if fetcher.kinds == {BAR} else fetcher.kinds
        assert set(fetcher.fetch()["type"]) <= ticks <= set(KINDS)
        assert fetcher.ts_source

    def test_each_kind_fills_its_own_fields_and_no_other(self, fetcher: TickFetcher) -> None:
        frame = fetcher.fetch()
        trades, quotes = frame[frame["type"] == "trade"], frame[frame["type"] == "quote"]

        assert (trades[["price", "size"]] > 0).all(axis=None)
        assert trades[["bid", "ask", "bid_size", "ask_size"]].isna().all(axis=None)
        assert (quotes[["bid", "ask"]] > 0).all(axis=None)
        assert (quotes[["bid_size", "ask_size"]] >= 0).all(axis=None)
        assert quotes[["price", "size"]].isna().all(axis=None)
        assert (quotes["side"] == 0).all()
        assert np.isfinite(frame[list(frames.PRICE_COLUMNS)].fillna(0)).all(axis=None)
        assert trades["side"].isin([-1, 0, 1]).all()

    def test_fetching_twice_gives_the_same(self, fetcher: TickFetcher) -> None:
        pd.testing.assert_frame_equal(fetcher.fetch(), fetcher.fetch())

    @pytest.mark.parametrize("batch_size", [1, 3, 4096])
    def test_the_stream_gives_the_same_ticks_in_the_same_order(self, fetcher: TickFetcher, batch_size: int) -> None:
        batches = list(fetcher.stream(batch_size))
        expected = frames.to_batch(fetcher.fetch())

        assert all(0 < len(batch) <= batch_size for batch in batches)
        assert all(batch.symbols is batches[0].symbols for batch in batches)
        assert list(batches[0].symbols) == list(expected.symbols)
        for name in TickBatch._fields[:-1]:
            joined = np.concatenate([getattr(batch, name) for batch in batches])
            np.testing.assert_array_equal(joined, getattr(expected, name), err_msg=name)

    def test_chunks_joined_are_what_a_fetch_gives(self, fetcher: TickFetcher) -> None:
        whole = fetcher.fetch()
        start_ns, end_ns = (int(t) for t in np.unique(whole["ts_ns"])[[1, -1]])

        pd.testing.assert_frame_equal(join(fetcher.chunks()), whole)
        part = join(fetcher.chunks(whole["symbol"].iloc[0], start_ns=start_ns, end_ns=end_ns))
        pd.testing.assert_frame_equal(part, fetcher.fetch(whole["symbol"].iloc[0], start_ns=start_ns, end_ns=end_ns))

    def test_symbols_are_those_of_the_ticks_sorted(self, fetcher: TickFetcher) -> None:
        assert fetcher.symbols() == sorted(set(fetcher.fetch()["symbol"]))

    def test_one_symbol_is_that_part_of_all_and_keeps_its_places(self, fetcher: TickFetcher) -> None:
        whole = fetcher.fetch()
        for symbol in fetcher.symbols():
            part = whole[whole["symbol"] == symbol].reset_index(drop=True)
            pd.testing.assert_frame_equal(fetcher.fetch(symbol), part)

    def test_a_time_range_holds_its_start_and_not_its_end(self, fetcher: TickFetcher) -> None:
        whole = fetcher.fetch()
        start_ns, end_ns = (int(t) for t in np.unique(whole["ts_ns"])[[1, -1]])

        part = fetcher.fetch(start_ns=start_ns, end_ns=end_ns)

        inside = whole[(whole["ts_ns"] >= start_ns) & (whole["ts_ns"] < end_ns)]
        assert part["offset"].tolist() == inside["offset"].tolist()
        assert part["ts_ns"].min() == start_ns
        assert part["ts_ns"].max() < end_ns

    def test_nothing_found_has_the_same_columns_and_no_rows(self, fetcher: TickFetcher) -> None:
        whole = fetcher.fetch()
        for nothing in (fetcher.fetch("NO-SUCH"), fetcher.fetch(end_ns=0), fetcher.fetch(start_ns=2**62)):
            assert len(nothing) == 0
            assert list(nothing.columns) == list(whole.columns)
            frames.check(nothing)

    def test_the_report_counts_the_ticks_of_the_last_pass(self, fetcher: TickFetcher) -> None:
        frame = fetcher.fetch()
        assert dict(fetcher.report.ticks) == frame["type"].value_counts().loc[lambda n: n > 0].to_dict()

        list(fetcher.stream())
        assert fetcher.report.ticks.total() == len(frame)


class BarFetcherSuite(TickFetcherSuite):
    """Inherit instead, where the source gives bars."""

    @abstractmethod
    @pytest.fixture
    def fetcher(self) -> BarFetcher: ...

    def test_it_gives_bars_and_nothing_else(self, fetcher: BarFetcher) -> None:
        assert fetcher.kinds == {BAR}

    def test_each_tick_is_a_bar_at_its_end(self, fetcher: BarFetcher) -> None:
        bars = join(fetcher.bar_chunks())
        frames.check_bars(bars)
        assert (bars["low"] <= bars[["open", "close"]].min(axis=1)).all()
        assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all()

        traded = bars[bars["volume"] > 0].reset_index(drop=True)
        ticks = fetcher.fetch()

        assert ticks["ts_ns"].tolist() == traded["ts_ns"].tolist()
        assert ticks["price"].tolist() == traded["close"].tolist()
        assert ticks["size"].tolist() == traded["volume"].tolist()
        assert ticks["offset"].tolist() == traded["offset"].tolist()

    def test_a_range_of_bars_is_that_of_their_ends(self, fetcher: BarFetcher) -> None:
        bars = join(fetcher.bar_chunks())
        start_ns, end_ns = (int(t) for t in np.unique(bars["ts_ns"])[[1, -1]])

        part = join(fetcher.bar_chunks(start_ns=start_ns, end_ns=end_ns))

        inside = bars[(bars["ts_ns"] >= start_ns) & (bars["ts_ns"] < end_ns)]
        assert part["offset"].tolist() == inside["offset"].tolist()
