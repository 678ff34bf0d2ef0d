"""What is told, and refused, before a model is trained."""

import numpy as np
import pytest

from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.data_processor import samples
from ml_core.data_processor.dataset import process
from ml_core.data_processor.gap_marks import GapMark
from ml_core.data_processor.preflight import independent
from ml_core.errors import NotEnoughDataError
from tests.unit.ml_core.data_processor.market import frame, pipeline, quote, trade

S = 10**9


def test_the_report_tells_what_there_is_to_learn_from() -> None:
    ticks = Synthetic(Market(symbols=2, ticks=9000, rate=100, seed=3)).fetch()
    ticks.loc[ticks.index >= 6000, "ts_ns"] += 70 * S
    asked = pipeline(["queue_imbalance"], label={"horizons": ["1s", "2s"]}, train={"min_rows": 500})
    report = process(ticks, asked).report
    assert report["history"]["needed_ns"] == 2 * S
    assert report["history"]["present_ns"] == pytest.approx(160 * S, rel=0.02)
    assert report["gaps"]["count"] == 2
    assert report["gaps"]["longest_ns"] == pytest.approx(70 * S, rel=0.02)
    assert list(report["labels"]) == ["1s", "2s"]
    assert sum(report["labels"]["2s"].values()) == pytest.approx(1.0)
    # 88 seconds of two symbols, 70 % of them, in labels of two seconds
    assert report["independent_labels"]["train"] == pytest.approx(0.7 * 88, rel=0.1)


def test_no_sample_reaches_across_what_is_marked_as_missing() -> None:
    ticks = Synthetic(Market(symbols=2, ticks=6000, rate=100, seed=3)).fetch()
    one, other = sorted(ticks["symbol"].unique())
    first_ns = int(ticks["ts_ns"].iloc[0])
    marks = [GapMark(one, first_ns + at * S, first_ns + (at + wide) * S) for at, wide in ((20, 0), (40, 3), (41, 1))]
    use = {"use": ["signed_volume:2s", "queue_imbalance"], "window": 16}
    asked = pipeline(features=use, label={"horizons": ["1s"], "delay": "500ms"}, train={"min_rows": 500})

    whole, made = process(ticks, asked), process(ticks, asked, marks=[*marks, GapMark("elsewhere", 0, 2**62)])

    def needed(found) -> set[tuple[str, int, int]]:  # symbol, first tick of look-back and window, last of the label
        data, rows = found.dataset, found.rows
        first_N = rows.ts_ns_N[data.idx_NT[:, 0]] - found.plan.look_back_ns
        return set(zip(np.array(data.symbols)[data.symbol_N], first_N, data.end_ns_NH[:, 0], strict=True))

    def crosses(symbol: str, first: int, last: int) -> bool:
        return any(mark.symbol == symbol and first < mark.to_ns and last > mark.from_ns for mark in marks)

    dropped = whole.report["samples"] - made.report["samples"]
    assert needed(made) == {sample for sample in needed(whole) if not crosses(*sample)}
    assert made.report["rows_dropped"]["gap_mark"] == dropped > 300
    assert {symbol for symbol, *_ in needed(whole) - needed(made)} == {one} != {other}
    assert (whole.report["gaps"]["marked"], made.report["gaps"]["marked"]) == (0, 4)


def test_labels_that_overlap_wholly_are_worth_one() -> None:
    start = np.zeros(5, np.int64)
    assert independent(np.zeros(5, np.int32), start, start + 10) == pytest.approx(1.0)
    assert independent(np.arange(5, dtype=np.int32), start, start + 10) == pytest.approx(5.0)


def test_ticks_that_reach_back_too_little_are_refused_before_a_row_is_made(monkeypatch) -> None:
    monkeypatch.setattr(samples, "move", None)
    asked = pipeline(["return:60s"], label={"horizons": ["10s"]})
    with pytest.raises(NotEnoughDataError, match="together, and no symbol is seen for longer than 50s"):
        process(frame([quote(i, 99, 101) for i in range(51)]), asked)


def test_labels_that_are_worth_too_few_are_refused() -> None:
    quotes = [quote(i / 100, 99 + i // 7 % 2, 99.1 + i // 7 % 2) for i in range(3000)]
    asked = pipeline(["queue_imbalance"], label={"horizons": ["5s"]}, train={"min_rows": 100, "validation": 0.4})
    with pytest.raises(NotEnoughDataError, match=r"worth \d\.\d independent ones"):
        process(frame(quotes), asked)


def test_a_feature_that_is_missing_too_often_is_refused_by_name() -> None:
    quotes = [quote(i / 10, 99 + i // 7 % 2, 99.1 + i // 7 % 2) for i in range(2500)]
    never = pipeline(["queue_imbalance", "last_trade_offset"])
    with pytest.raises(NotEnoughDataError, match=r"without values: last_trade_offset \(never defined\)"):
        process(frame(quotes), never)
    seldom = [trade(150.05, 99.0), *quotes]
    seldom.sort(key=lambda tick: tick.at_s)
    asked = {"use": ["queue_imbalance", "last_trade_offset"]}
    assert 0.4 < process(frame(seldom), pipeline(features=asked)).report["missing"]["last_trade_offset"] < 0.9
    with pytest.raises(NotEnoughDataError, match=r"last_trade_offset \(missing in \d+%\); features.max_missing is 0.4"):
        process(frame(seldom), pipeline(features={**asked, "max_missing": 0.4}))
