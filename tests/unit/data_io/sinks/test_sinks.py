from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_io.data_fetcher.lean_ticks import LeanTicks
from data_io.data_fetcher.port import TickStream, contents, join
from data_io.data_fetcher.sources import open_source
from data_io.data_fetcher.synthetic import Market, Synthetic
from data_io.datasets.digest import Digest
from data_io.publisher import PublishReport
from data_io.sinks.files import CsvSink, ParquetSink
from data_io.sinks.lake import LakeSink
from data_io.sinks.port import open_sink
from data_io.topics import ticks
from ml_core import frames
from ml_core.errors import InputError, NotEnoughDataError, SourceUnavailableError
from ml_core.types import TickKind

LEAN = Path(__file__).parents[3] / "data" / "lean"


def hash_of(frame: pd.DataFrame) -> str:
    digest = Digest()
    digest.update(frame)
    return digest.hexdigest()


@pytest.mark.parametrize("target", ["a/ticks.parquet", "a/ticks.csv", "a/ticks.csv.gz", "a/lake/"])
@pytest.mark.parametrize("lean", [False, True])
def test_what_is_written_is_a_source_of_the_same_ticks(tmp_path: Path, target: str, lean: bool) -> None:
    source = LeanTicks.of_folder(LEAN, keep_suspicious=True) if lean else Synthetic(Market(symbols=3, ticks=500))
    frame = source.fetch()

    assert open_sink(f"{tmp_path}/{target}", "").write(source.chunks(), "receive") == len(frame)

    back = open_source(f"{tmp_path}/{target}")
    assert hash_of(back.fetch()) == hash_of(frame)
    assert back.ts_source == ("exchange" if "csv" in target else "receive")


@pytest.mark.parametrize("target", ["bars.parquet", "bars.csv", "lake/"])
def test_bars_that_are_written_are_a_source_of_the_same_bars(tmp_path: Path, target: str) -> None:
    end_N = np.arange(1, 7, dtype=np.int64) * 9 * 3600 * 10**9
    value_N = np.arange(6) / 3
    bars = frames.build_bars(
        ts_ns=end_N,
        symbol=frames.category(np.arange(6) % 2, ["A/B", "C"]),
        offset=np.arange(6),
        start_ns=end_N - 60,
        **dict.fromkeys(("open", "high", "low", "close", "volume"), value_N),
    )

    open_sink(f"{tmp_path}/{target}", "").write([bars], "exchange")

    back = open_source(f"{tmp_path}/{target}")
    assert back.kinds == {"bar"}
    assert hash_of(join(contents(back))) == hash_of(bars)


def test_a_tick_that_came_late_across_midnight_keeps_its_place_in_a_lake(tmp_path: Path) -> None:
    day_ns = 86_400 * 10**9
    at_ns = [day_ns - 3, day_ns + 1, day_ns - 2, 9 * day_ns, day_ns - 1, day_ns + 2]  # the fourth stamp is wrong
    a = frames.build(
        ts_ns=np.array(at_ns), symbol=pd.Categorical(["A"] * 6), kind=TickKind.TRADE, price=1.0, size=1.0,
        offset=np.arange(6),
    )  # fmt: skip

    LakeSink(tmp_path / "lake").write([a[:2], a[2:]], "exchange")

    lake = open_source(str(tmp_path / "lake"))
    assert lake.fetch()["ts_ns"].tolist() == [day_ns - 3, day_ns - 1, day_ns + 1, day_ns - 2, day_ns + 2, 9 * day_ns]
    assert lake.fetch(end_ns=day_ns)["ts_ns"].tolist() == [day_ns - 3, day_ns - 1, day_ns - 2]


def test_a_lake_has_a_folder_a_symbol_and_day_and_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_io.sinks.lake.WAITING_ROWS", 100)
    frame = Synthetic(Market(symbols=2, ticks=1000)).fetch()
    frame.loc[500:, "ts_ns"] += 24 * 3600 * 10**9

    LakeSink(tmp_path / "lake").write([frame[i : i + 90] for i in range(0, 1000, 90)], "exchange")

    folders = sorted({path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")})
    days = ("2024-01-02", "2024-01-03")
    assert folders == [f"lake/symbol=SYN{i}/date={day}" for i in ("00", "01") for day in days]
    assert all(pq.read_metadata(path).num_rows < 200 for path in tmp_path.rglob("*.parquet"))
    assert hash_of(open_source(str(tmp_path / "lake")).fetch()) == hash_of(frame)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    frame = Synthetic(Market(ticks=50)).fetch()

    def breaks() -> Iterator[pd.DataFrame]:
        yield frame
        raise InputError("broken off")

    (tmp_path / "old.parquet").write_text("old")
    for sink in (ParquetSink(tmp_path / "old.parquet"), CsvSink(tmp_path / "a.csv"), LakeSink(tmp_path / "lake")):
        with pytest.raises(InputError, match="broken off"):
            sink.write(breaks(), "exchange")
        with pytest.raises(NotEnoughDataError, match="nothing to write"):
            sink.write([frame[:0]], "exchange")
    assert [path.name for path in tmp_path.iterdir()] == ["old.parquet"]
    assert (tmp_path / "old.parquet").read_text() == "old"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(InputError, match="is not empty"):
        LakeSink(tmp_path).write([Synthetic(Market(ticks=5)).fetch()], "exchange")


def test_a_disk_that_does_not_take_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceUnavailableError, match="was not written: File exists"):
        ParquetSink(tmp_path / "file" / "a.parquet").write([Synthetic(Market(ticks=5)).fetch()], "exchange")


def test_a_target_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match=r"is no target; a target is a file that ends in \.parquet"):
        open_sink("ticks.txt", "")


def test_a_topic_gets_all_ticks_in_order_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Synthetic(Market(symbols=3, ticks=500)).fetch()
    calls: list[Any] = []

    async def create_missing(*asked: Any) -> None:
        calls.append(asked)

    async def publish(stream: TickStream, **asked: Any) -> PublishReport:
        calls.append(asked)
        batches = list(stream.stream(64))
        calls.append(np.concatenate([batch.ts_ns_N for batch in batches]).tolist())
        return PublishReport(ticks=sum(map(len, batches)))

    monkeypatch.setattr("data_io.topics.admin.create_missing", create_missing)
    monkeypatch.setattr("data_io.sinks.topic.publish", publish)

    rows = open_sink("topic:market.ticks.v1", "kafka:9092").write([frame[:100], frame[100:]], "exchange")

    assert rows == 500
    assert calls == [
        ("kafka:9092", [ticks.topic_spec("market.ticks.v1", 4)]),
        {"bootstrap": "kafka:9092", "topic": "market.ticks.v1"},
        frame["ts_ns"].tolist(),
    ]


@pytest.mark.parametrize("target", [".", "..", "/", "link/"])
def test_a_place_that_cannot_be_given_a_name_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    inside, empty = tmp_path / "inside", tmp_path / "empty"
    inside.mkdir()
    empty.mkdir()
    (inside / "link").symlink_to(empty)
    monkeypatch.chdir(inside)

    with pytest.raises(InputError, match=r"give (another|that one)"):
        open_sink(target, "").write(iter([None]), "receive")  # type: ignore[arg-type]  # a read would fail
