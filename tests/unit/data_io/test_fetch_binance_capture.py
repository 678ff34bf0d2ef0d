import gzip
import math
from pathlib import Path

import pytest

from data_io.data_fetcher.binance_capture import BinanceCapture
from ml_core.errors import InputError

SAMPLE = Path(__file__).parents[2] / "data" / "binance-capture.txt"
RECORDED = Path(__file__).parents[3] / ".." / "shared" / "data" / "binance-spot-btcusdt-20240808.gz"
GOOD = SAMPLE.read_text().splitlines()


def capture(folder: Path, *lines: str) -> BinanceCapture:
    path = folder / "capture.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return BinanceCapture(path)


def test_ticks_stand_on_the_receive_clock_and_the_venue_time_is_kept() -> None:
    frame = BinanceCapture(SAMPLE).fetch("BTCUSDT")

    #          quote          trade                      trade                      quote
    assert (frame["ts_ns"] // 10**8 % 10).tolist() == [1, 2, 5, 6]
    assert frame["exchange_ts_ns"].tolist() == [-1, 1700000001270 * 10**6, 1700000001470 * 10**6, -1]
    assert frame["seq"].tolist() == [101, 7, 8, 104]
    assert frame["offset"].tolist() == [2, 3, 6, 7]


def test_the_taker_sold_where_the_buyer_was_the_maker() -> None:
    trades = BinanceCapture(SAMPLE).fetch("BTCUSDT").query("type == 'trade'")
    assert trades[["price", "size", "side"]].values.tolist() == [[100.2, 0.5, 1], [100.1, 0.25, -1]]


def test_an_empty_queue_is_a_sound_quote() -> None:
    quote = BinanceCapture(SAMPLE).fetch("ETHUSDT").iloc[0]
    assert (quote["bid"], quote["ask"], quote["bid_size"], quote["ask_size"]) == (10.01, 10.02, 20.0, 0.0)


def test_depth_is_left_out_and_counted() -> None:
    source = BinanceCapture(SAMPLE)
    source.fetch()
    assert dict(source.report.ignored) == {"depth": 1, "no stream": 1}
    assert not source.report.skipped


TRADE = GOOD[2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (TRADE[:-10], "bad json"),
        (TRADE.split(" ", 1)[1], "no receive time"),
        ("-5 " + TRADE.split(" ", 1)[1], "no receive time"),
        ("9" * 30 + " {}", "no receive time"),
        (TRADE.replace('"100.20000000"', '"NaN"'), "price is not positive and finite"),
        (TRADE.replace('"100.20000000"', '"-1"'), "price is not positive and finite"),
        (TRADE.replace('"100.20000000"', "100.2"), "bad json"),
        (TRADE.replace('"0.50000000"', '"0"'), "size is not positive and finite"),
        (TRADE.replace('"p"', '"price"'), "price is not a number"),
        (TRADE.replace('"s"', '"sym"'), "no symbol"),
        (TRADE.replace(',"m":false', ""), "no buyer-is-maker flag"),
        (GOOD[1].replace('"b"', '"bb"'), "no best bid or ask"),
        (GOOD[1].replace('"2.00000000"', '"inf"'), "bid size is not zero or more and finite"),
    ],
)
def test_an_unusable_line_is_skipped_with_its_number_and_the_others_stay(
    tmp_path: Path, line: str, reason: str
) -> None:
    source = capture(tmp_path, GOOD[1], line, GOOD[5])

    frame = source.fetch()

    assert frame["offset"].tolist() == [1, 3]
    assert source.report.skipped.total() == 1
    assert source.report.examples[0].startswith(f"{source.path}, line 2: {reason}")


def test_a_file_without_a_single_message_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no capture of .* line 1: no receive time"):
        capture(tmp_path, "a,b,c", "1,2,3").fetch()


def test_an_empty_file_has_no_ticks(tmp_path: Path) -> None:
    assert len(capture(tmp_path).fetch()) == 0


def test_a_capture_that_breaks_off_streams_its_good_part_and_then_fails(tmp_path: Path) -> None:
    path = tmp_path / "capture.gz"
    packed = gzip.compress("".join(f"{line}\n" for line in GOOD * 3000).encode(), compresslevel=1)
    path.write_bytes(packed[: len(packed) // 2])
    source = BinanceCapture(path)

    seen = []
    with pytest.raises(InputError, match=r"broken after line \d+") as broke:
        seen.extend(len(batch) for batch in source.stream())

    lines = int(str(broke.value).split("after line ")[1].split(":")[0])
    assert lines > 1000
    assert sum(seen) == sum(line % 7 in (2, 3, 5, 6, 0) for line in range(1, lines + 1))  # 5 ticks in every 7 lines
    with pytest.raises(InputError, match="ends early"):
        source.fetch()


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded capture is not here")
def test_the_recorded_capture_gives_every_trade_and_best_quote() -> None:
    source = BinanceCapture(RECORDED)

    frame = source.fetch()

    assert dict(source.report.ticks) == {"quote": 28_040, "trade": 9_757}
    assert dict(source.report.ignored) == {"depth": 3_451, "no stream": 1}
    assert not source.report.skipped
    assert frame["ts_ns"].is_monotonic_increasing
    ahead_ns = (frame["exchange_ts_ns"] - frame["ts_ns"])[frame["type"] == "trade"]
    assert math.isclose(ahead_ns.median() / 1e9, 1.27, abs_tol=0.01)
