import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.lean_ticks import LeanTicks
from ml_core.errors import InputError

SAMPLE = Path(__file__).parents[2] / "data" / "lean"
RECORDED = Path(__file__).parents[3] / ".." / "shared" / "data" / "lean-ibm-ticks"


def archive(folder: Path, kind: str, text: str, inner: str | None = None) -> Path:
    path = folder / f"20240102_{kind}.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(inner or f"20240102_ibm_{kind.title()}_Tick.csv", text)
    return path


def test_a_bid_line_and_the_ask_line_of_the_same_ms_are_one_quote() -> None:
    quote = LeanTicks.of_folder(SAMPLE).fetch().query("type == 'quote'").iloc[0]

    assert (quote["bid"], quote["ask"], quote["bid_size"], quote["ask_size"]) == (180.01, 180.03, 300.0, 200.0)
    assert quote["venue"] == "P/N"


@pytest.mark.parametrize(
    ("lines", "quotes", "skipped"),
    [
        ("5,10000,1,0,0,P,1,0\n6,0,0,20000,1,P,1,0\n", 0, 2),  # of two ms
        ("5,0,0,20000,1,P,1,0\n5,10000,1,0,0,P,1,0\n", 0, 2),  # ask before bid
        ("5,10000,1,0,0,P,1,0\n5,10000,2,0,0,P,1,0\n5,0,0,20000,1,P,1,0\n", 1, 1),  # the later bid counts
        ("5,10000,1,20000,1,P,1,0\n", 1, 0),  # both sides on one line
        ("5,10000,1,0,0,P,1,0\n", 0, 1),
        ("", 0, 0),
    ],
)
def test_only_neighbours_of_one_ms_are_joined(tmp_path: Path, lines: str, quotes: int, skipped: int) -> None:
    source = LeanTicks([archive(tmp_path, "quote", lines)])
    assert len(source.fetch()) == quotes
    assert source.report.skipped.total() == skipped


def test_times_are_ms_since_midnight_in_new_york_in_winter_and_in_summer() -> None:
    times = pd.to_datetime(LeanTicks.of_folder(SAMPLE).fetch()["ts_ns"], utc=True)
    assert times.iloc[0].isoformat() == "2024-01-02T14:30:00+00:00"
    assert times.iloc[-1].isoformat() == "2024-07-03T13:30:00+00:00"


def test_within_one_ms_quotes_stand_before_trades() -> None:
    frame = LeanTicks.of_folder(SAMPLE).fetch()
    #                                  34200000         34200002  34200005   the day in July
    assert frame["type"].tolist() == ["quote", "trade", "trade", "quote", "trade"]


def test_suspicious_ticks_are_counted_and_left_out_unless_asked_for() -> None:
    source = LeanTicks.of_folder(SAMPLE)
    assert not source.fetch()["suspicious"].any()
    assert dict(source.report.ignored) == {"suspicious": 2}

    everything = LeanTicks.of_folder(SAMPLE, keep_suspicious=True).fetch()
    assert everything["suspicious"].tolist() == [False, False, False, False, True, True, False]


def test_a_crossed_quote_is_kept_and_an_unpaired_line_is_skipped_with_its_place() -> None:
    source = LeanTicks.of_folder(SAMPLE)
    quotes = source.fetch().query("type == 'quote'")
    assert (quotes["bid"] > quotes["ask"]).sum() == 1
    assert source.report.examples == [f"{SAMPLE / '20240102_quote.zip'}, line 1: one side of a quote without the other"]


def test_trades_carry_conditions_and_venue_and_no_side() -> None:
    trades = LeanTicks.of_folder(SAMPLE).fetch().query("type == 'trade'")
    assert trades[["conditions", "venue", "side"]].values.tolist() == [["20", "N", 0], ["1", "P", 0], ["20", "N", 0]]


def test_the_symbol_is_that_of_the_inner_name_or_the_one_given(tmp_path: Path) -> None:
    path = archive(tmp_path, "trade", "5,10000,1,P,1,0\n")
    assert LeanTicks([path]).symbols() == ["IBM"]
    assert LeanTicks([path], symbol="IBM.N").fetch()["symbol"].tolist() == ["IBM.N"]
    with pytest.raises(InputError, match=r"'ticks\.csv' does not tell the symbol"):
        LeanTicks([archive(tmp_path, "trade", "", inner="ticks.csv")]).symbols()


def test_bad_lines_are_skipped_and_the_others_stay(tmp_path: Path) -> None:
    lines = [
        "5,10000,1,P,1,0",
        "x,10000,1,P,1,0",
        "6,nan,1,P,1,0",
        "7,10000,1",
        "8,0,1,P,1,0",
        "99999999,1,1,P,1,0",
        "9,-1,1,P,1,0",
    ]
    source = LeanTicks([archive(tmp_path, "trade", "\n".join(lines))])

    assert len(source.fetch()) == 1
    assert sorted(int(text.split("line ")[1].split(":")[0]) for text in source.report.examples) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("keep", [0, 100, 0.9])
def test_a_zip_that_ends_early_is_an_input_error(tmp_path: Path, keep: float) -> None:
    path = archive(tmp_path, "trade", "5,10000,1,P,1,0\n" * 100)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(InputError, match="no whole zip archive"):
        LeanTicks([path]).fetch()


def test_a_damaged_zip_is_an_input_error(tmp_path: Path) -> None:
    path = archive(tmp_path, "trade", "5,10000,1,P,1,0\n" * 100)
    data = bytearray(path.read_bytes())
    data[120] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="no whole zip archive"):
        LeanTicks([path]).fetch()


def test_names_that_tell_no_day_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not named YYYYMMDD_trade\.zip"):
        LeanTicks([tmp_path / "trades.zip"])
    with pytest.raises(InputError, match="cannot read"):
        LeanTicks([tmp_path / "20240102_trade.zip"]).fetch()
    with pytest.raises(InputError, match="20241399 is no date"):
        LeanTicks([archive(tmp_path, "trade", "").rename(tmp_path / "20241399_trade.zip")]).fetch()
    with pytest.raises(InputError, match=r"no YYYYMMDD_trade\.zip"):
        LeanTicks.of_folder(tmp_path / "empty")


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded archives are not here")
def test_the_recorded_archives_pair_every_quote_but_one() -> None:
    source = LeanTicks.of_folder(RECORDED)

    frame = source.fetch()

    # 54,533 + 62,875 pairs, of which the last of each day is marked suspicious
    assert dict(source.report.ticks) == {"quote": 117_406, "trade": 24_293 + 33_381}
    assert dict(source.report.ignored) == {"suspicious": 2}
    assert source.report.skipped.total() == 1
    assert (np.diff(frame["ts_ns"]) >= 0).all()
    ms = (frame["ts_ns"] - 4 * 3600 * 10**9) // 10**6 % 86_400_000  # New York in October
    regular = frame[(ms >= 34_200_000) & (ms < 57_600_000) & (frame["type"] == "quote")]
    assert 0.0005 < (regular["bid"] > regular["ask"]).mean() < 0.001
