from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.synthetic import Market, Synthetic
from data_io.data_fetcher.tables import Tables
from ml_core.errors import InputError, SchemaMismatchError

SAMPLE = Path(__file__).parents[2] / "data" / "trades.csv"
MAPPING = {"ts": "time:ms", "symbol": "pair", "price": "p", "size": "q", "side": "taker"}


def csv(folder: Path, text: str, **options: object) -> Tables:
    path = folder / "ticks.csv"
    path.write_text(text)
    return Tables([path], **options)


def test_a_mapping_reads_other_names_and_units() -> None:
    frame = Tables([SAMPLE], columns=MAPPING).fetch()

    assert frame["ts_ns"].tolist() == [1700000000000 * 10**6 + ms * 10**6 for ms in (0, 250, 250, 1000)]
    assert frame["symbol"].tolist() == ["BTCUSDT", "ETHUSDT", "BTCUSDT", "BTCUSDT"]
    assert frame["price"].tolist() == [100.1, 10.5, 100.2, 100.0]
    assert frame["side"].tolist() == [1, -1, -1, 0]
    assert set(frame["type"]) == {"trade"}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_saved_ticks_frame_reads_back_equal(tmp_path: Path, suffix: str) -> None:
    frame = Synthetic(Market(symbols=2, ticks=300)).fetch()
    path = tmp_path / f"ticks{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)

    pd.testing.assert_frame_equal(Tables([path]).fetch(), frame)


@pytest.mark.parametrize(
    ("unit", "text", "ts_ns"),
    [
        ("ns", "1700000000123456789", 1700000000123456789),
        ("us", "1700000000123456", 1700000000123456000),
        ("s", "1700000000", 1700000000 * 10**9),
        ("s", "1700000000.5", 1700000000_500000000),
        ("ms", "1700000000000.25", 1700000000_000250112),  # nearest float
        ("iso", "2023-11-14T22:13:20.123456789Z", 1700000000123456789),
        ("iso", "2023-11-14 23:13:20+01:00", 1700000000 * 10**9),
        ("iso", "2023-11-14T22:13:20", 1700000000 * 10**9),
    ],
)
def test_times_are_exact_to_what_the_table_says(tmp_path: Path, unit: str, text: str, ts_ns: int) -> None:
    source = csv(
        tmp_path,
        f"t,price,size\n{text},1,1\n",
        columns={"ts": f"t:{unit}", "price": "price", "size": "size"},
        symbol="A",
    )
    assert source.fetch()["ts_ns"].tolist() == [ts_ns]


def test_one_bad_time_costs_the_others_no_digit(tmp_path: Path) -> None:
    source = csv(tmp_path, "ts,price,size\n1700000000123456789,1,1\n,1,1\n1700000000123456791,1,1\n", symbol="A")
    assert source.fetch()["ts_ns"].tolist() == [1700000000123456789, 1700000000123456791]


def test_parquet_timestamps_carry_their_own_unit(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    times = pd.to_datetime(["2023-11-14T22:13:20.000001", None, "2023-11-14T22:13:21"], format="ISO8601").as_unit("us")
    pd.DataFrame(
        {"ts": times, "bid": 1.0, "ask": 2.0, "seq": pd.array([2**62 + 1, 2, None], dtype="Int64")}
    ).to_parquet(path)

    source = Tables([path], symbol="A")
    frame = source.fetch()

    assert frame["ts_ns"].tolist() == [1700000000_000001000, 1700000001 * 10**9]
    assert frame["seq"].tolist() == [2**62 + 1, -1]
    assert frame["bid_size"].tolist() == [0.0, 0.0]
    assert dict(source.report.skipped) == {"ts is no time since 1970": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,A,trade,1,1,,,buy", "ts is no time since 1970"),
        ("-1,A,trade,1,1,,,buy", "ts is no time since 1970"),
        ("99999999999999999999,A,trade,1,1,,,buy", "ts is no time since 1970"),
        ("1,,trade,1,1,,,buy", "no symbol"),
        ("1,A,order,1,1,,,buy", "neither a trade nor a quote"),
        ("1,A,trade,x,1,,,buy", "price is not positive and finite"),
        ("1,A,trade,-1,1,,,buy", "price is not positive and finite"),
        ("1,A,trade,1,inf,,,buy", "size is not positive and finite"),
        ("1,A,quote,,,1,,", "ask is not positive and finite"),
        ("1,A,trade,1,1,,,long", "side is none of buy, sell, 1, -1, 0"),
    ],
)
def test_an_unusable_row_is_skipped_with_its_number_and_the_others_stay(tmp_path: Path, row: str, reason: str) -> None:
    good = "5,A,trade,1,1,,,sell"
    source = csv(tmp_path, f"ts,symbol,type,price,size,bid,ask,side\n{good}\n{row}\n{good}\n")

    frame = source.fetch()

    assert frame["offset"].tolist() == [0, 2]
    assert source.report.examples == [f"{tmp_path / 'ticks.csv'}, row 2: {reason}"]


def test_without_a_type_bid_and_ask_make_a_quote_and_price_and_size_a_trade(tmp_path: Path) -> None:
    source = csv(tmp_path, "ts,price,size,bid,ask\n1,,,9,10\n2,9.5,1,,\n3,,,,\n4,9.5,1,9,10\n", symbol="A")
    assert source.fetch()["type"].tolist() == ["quote", "trade", "quote"]
    assert dict(source.report.skipped) == {"neither a trade nor a quote": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": MAPPING | {"price": "prise"}}, "no column 'prise'"),
        ({"columns": MAPPING | {"symbol": "piar"}}, "no column 'piar'; did you mean 'pair'"),
        ({}, "no column 'ts'.*no column 'symbol'"),
        ({"columns": {name: MAPPING[name] for name in MAPPING if name != "symbol"}}, "the mapping has no symbol"),
        (
            {"columns": {"ts": "time:ms", "symbol": "pair", "price": "p"}},
            "needs price and size .* it has time, pair, p",
        ),
    ],
)
def test_missing_columns_are_named_with_the_nearest(options: dict, message: str) -> None:
    with pytest.raises(SchemaMismatchError, match=message):
        Tables([SAMPLE], **options).fetch()


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"prcie": "p"}, "'prcie'; did you mean 'price'"), ({"ts": "time:sec"}, "unknown unit 'sec'")],
)
def test_an_unknown_field_or_unit_is_refused_at_once(columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tables([SAMPLE], columns=columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b""), ("a.csv", b"ts,symbol\n1,2,3\n1,2,3,4,5"), ("a.parquet", b"PAR1"), ("a.csv.gz", b"\x1f\x8b\x08")],
)
def test_a_file_that_is_no_table_is_an_input_error_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        Tables([tmp_path / name]).fetch()


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        Tables([tmp_path / "a.csv"]).fetch()


def test_files_are_read_one_after_the_other_and_places_go_on(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("ts,price,size\n1,1,1\n2,1,1\n")
    frame = Tables([tmp_path / "a.csv", tmp_path / "b.csv"], symbol="A").fetch()
    assert frame["ts_ns"].tolist() == [1, 2, 1, 2]
    assert np.array_equal(frame["offset"], np.arange(4))
