from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_io.data_fetcher.lake import DAY_NS, Lake
from data_io.data_fetcher.sources import open_source
from ml_core.errors import InputError

DAY_1_NS = pd.Timestamp("2024-01-01", tz="UTC").value
HOUR_NS = DAY_NS // 24


def file(path: Path, hours: list[float], group: int = 2, start_ns: int = DAY_1_NS, **columns: Any) -> None:
    """Write trades at ``hours`` after the start of 2024, ``group`` of them a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ts_ns = start_ns + (np.array(hours) * HOUR_NS).astype(np.int64)
    table = pd.DataFrame({"ts_ns": ts_ns, "price": np.arange(1.0, len(hours) + 1), "size": 1.0, **columns})
    table.to_parquet(path, row_group_size=group)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for day in (1, 2, 3):
        for symbol in ("A", "B%2FC"):
            hours = [24.0 * (day - 1) + hour for hour in (1, 5, 9, 13, 17, 21)]
            file(tmp_path / f"symbol={symbol}" / f"date=2024-01-0{day}" / "part-0.parquet", hours)
    return tmp_path


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Files and numbers of the row groups that are read."""
    read: list[tuple[str, int]] = []
    real = pq.ParquetFile.iter_batches
    paths: dict[int, Any] = {}
    real_init = pq.ParquetFile.__init__

    def init(self: Any, source: Any, *args: Any, **options: Any) -> None:
        paths[id(self)] = source
        real_init(self, source, *args, **options)

    def iter_batches(self: Any, *args: Any, row_groups: list[int], **options: Any) -> Any:
        place = paths[id(self)].parent
        read.extend((f"{place.parent.name}/{place.name}", group) for group in row_groups)
        return real(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", init)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    return read


def test_ticks_come_day_by_day_with_the_symbols_of_their_folders(root: Path) -> None:
    frame = Lake(root).fetch()
    assert frame["symbol"].tolist() == (["A"] * 6 + ["B/C"] * 6) * 3
    assert (frame[frame["symbol"] == "A"]["ts_ns"].diff().dropna() > 0).all()


def test_only_row_groups_of_the_asked_times_are_read(root: Path, groups: list[tuple[str, int]]) -> None:
    lake = Lake(root)
    whole = lake.fetch()
    assert len(groups) == 2 * 3 * 3

    groups.clear()
    start_ns, end_ns = DAY_1_NS + 28 * HOUR_NS, DAY_1_NS + 34 * HOUR_NS  # 5 and 9 o'clock of the second day
    frame = lake.fetch("A", start_ns=start_ns, end_ns=end_ns)

    assert groups == [("symbol=A/date=2024-01-02", 0), ("symbol=A/date=2024-01-02", 1)]
    inside = (whole["symbol"] == "A") & (whole["ts_ns"] >= start_ns) & (whole["ts_ns"] < end_ns)
    pd.testing.assert_frame_equal(frame, whole[inside].reset_index(drop=True), check_categorical=False)
    assert len(frame) == 2


def test_the_edges_of_a_row_group_belong_to_it(root: Path, groups: list[tuple[str, int]]) -> None:
    last_ns = DAY_1_NS + 5 * HOUR_NS  # of the first group
    assert len(Lake(root).fetch("A", start_ns=last_ns, end_ns=last_ns + 1)) == 1
    assert groups == [("symbol=A/date=2024-01-01", 0)]
    groups.clear()
    assert len(Lake(root).fetch("A", start_ns=last_ns + 1, end_ns=DAY_1_NS + 9 * HOUR_NS)) == 0
    assert groups == []


def test_a_date_of_another_zone_loses_nothing(tmp_path: Path) -> None:
    # the evening of January 1st in New York is the 2nd in UTC
    file(tmp_path / "date=2024-01-01" / "a.parquet", [26.0], symbol="A")
    assert len(Lake(tmp_path).fetch(start_ns=DAY_1_NS + DAY_NS)) == 1


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_any_unit_are_pruned_alike(tmp_path: Path, groups: list[tuple[str, int]], unit: str) -> None:
    path = tmp_path / "symbol=A" / "a.parquet"
    path.parent.mkdir()
    times = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"]).as_unit(unit)
    pd.DataFrame({"ts": times, "price": 1.0, "size": 1.0}).to_parquet(path, row_group_size=1)
    frame = Lake(tmp_path).fetch(start_ns=DAY_1_NS + DAY_NS, end_ns=DAY_1_NS + 2 * DAY_NS)
    assert frame["ts_ns"].tolist() == [DAY_1_NS + DAY_NS]
    assert [group for _, group in groups] == [1]


def test_times_as_text_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "symbol=A" / "a.parquet"
    path.parent.mkdir()
    pd.DataFrame({"t": ["2024-01-01T00:00:00Z", "2024-01-02"], "p": 1.0, "q": 1.0}).to_parquet(path, row_group_size=1)
    lake = Lake(tmp_path, columns={"ts": "t:iso", "price": "p", "size": "q"})
    assert len(lake.fetch(start_ns=DAY_1_NS + DAY_NS)) == 1


def test_a_folder_of_partitions_is_a_lake(root: Path) -> None:
    assert isinstance(open_source(str(root)), Lake)


def test_what_is_no_lake_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.parquet file below"):
        Lake(tmp_path)
    file(tmp_path / "date=yesterday" / "a.parquet", [1.0], symbol="A")
    with pytest.raises(InputError, match="'yesterday' is no date"):
        Lake(tmp_path)
