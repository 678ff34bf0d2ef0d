import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_io.data_fetcher.port import join
from data_io.data_fetcher.sources import open_source, source_hash
from data_io.data_fetcher.synthetic import Market, Synthetic
from data_io.datasets.digest import Digest
from data_io.datasets.manifest import DatasetId
from data_io.datasets.store import DatasetStore, Origin
from data_io.sinks.files import CsvSink
from ml_core import frames
from ml_core.errors import ConflictError, InputError, NotEnoughDataError, NotFoundError, SchemaMismatchError

NOW = datetime(2024, 1, 2, tzinfo=UTC)
ORIGIN = Origin("synthetic", "exchange")


@pytest.fixture
def frame() -> pd.DataFrame:
    return Synthetic(Market(symbols=3, ticks=600)).fetch()


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path)


def hash_of(*chunks: pd.DataFrame) -> str:
    digest = Digest()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def bars(closes: list[float]) -> pd.DataFrame:
    n = len(closes)
    price = dict.fromkeys(("open", "high", "low", "close"), closes)
    end_N = np.arange(1, n + 1, dtype=np.int64) * 60 * 10**9
    symbol = frames.category(np.zeros(n, dtype=np.int8), ["A"])
    volume = [float(i % 2) for i in range(n)]
    return frames.build_bars(
        ts_ns=end_N, symbol=symbol, offset=np.arange(n), start_ns=end_N - 1, volume=volume, **price
    )


def test_the_hash_does_not_know_chunks_nor_the_order_between_symbols(frame: pd.DataFrame) -> None:
    whole = hash_of(frame)

    assert hash_of(frame[:7], frame[7:300], frame[300:]) == whole
    assert hash_of(frame.sort_values("symbol", kind="stable")) == whole
    other_codes = frame.assign(
        symbol=pd.Categorical(frame["symbol"].astype("str"), ["Z", *"BA", *frame.symbol.unique()])
    )
    assert hash_of(other_codes) == whole
    assert hash_of(frame.assign(offset=frame["offset"] + 5)) == whole


@pytest.mark.parametrize("column", ["ts_ns", "symbol", "type", "price", "bid_size", "side", "seq"])
def test_the_hash_knows_every_value(frame: pd.DataFrame, column: str) -> None:
    changed = frame.copy()
    row = int(np.flatnonzero(frame["price"].notna())[5]) if column == "price" else 11
    if column in ("symbol", "type"):
        other = next(name for name in frame[column].cat.categories if name != frame[column].iloc[row])
        changed.loc[row, column] = other
    elif column == "bid_size":
        changed.loc[row, column] = 1e-9 if np.isnan(changed.loc[row, column]) else np.nan
    else:
        changed.loc[row, column] = changed.loc[row, column] + 1
    assert hash_of(changed) != hash_of(frame)


def test_the_hash_knows_the_order_of_a_symbol_and_which_columns_there_are(frame: pd.DataFrame) -> None:
    one = frame[frame["symbol"] == "SYN00"]
    assert hash_of(one[::-1]) != hash_of(one)
    assert hash_of(one.assign(exchange_ts_ns=np.int64(-1))) != hash_of(one)
    text = pd.Series(pd.Categorical(["N"] * len(one)), index=one.index)
    assert hash_of(one.assign(venue=text)) != hash_of(one.assign(conditions=text))
    with pytest.raises(SchemaMismatchError, match="columns of the source change on the way: exchange_ts_ns"):
        hash_of(one, one.assign(exchange_ts_ns=np.int64(-1)))


def test_equal_values_have_equal_hashes_whatever_their_bits(frame: pd.DataFrame) -> None:
    frame["bid_size"] = 0.0
    venue = pd.Series(pd.Categorical([""] * len(frame)))
    other_nan = np.uint64(0xFFF8000000000001).view(np.float64)
    same = frame.assign(bid_size=-0.0, price=frame["price"].where(frame["price"].notna(), other_nan), venue=venue)
    missing = frame.assign(venue=pd.Series(pd.Categorical([None] * len(frame), [""])))
    assert hash_of(same) == hash_of(missing)


def test_what_is_put_in_comes_out(store: DatasetStore, frame: pd.DataFrame) -> None:
    frame = frame.assign(
        venue=pd.Categorical(np.where(frame["side"] > 0, "N", "Q")),
        suspicious=frame["seq"] % 7 == 0,
        exchange_ts_ns=frame["ts_ns"] - 5,
        conditions=pd.Categorical([None if i % 3 else "@" for i in range(len(frame))]),
    )
    manifest = store.put("syn", [frame[:250], frame[250:]], ORIGIN, NOW).manifest

    assert str(manifest.id) == "syn@1"
    assert manifest.content_hash == hash_of(frame)
    assert (manifest.rows, manifest.kinds, manifest.ts_source) == (600, ("quote", "trade"), "exchange")
    assert manifest.symbols == frame["symbol"].value_counts().sort_index().to_dict()
    assert (manifest.first_ts_ns, manifest.last_ts_ns) == (frame["ts_ns"].min(), frame["ts_ns"].max())
    back = store.open(DatasetId("syn", None)).fetch()
    pd.testing.assert_frame_equal(back, frame[list(back.columns)], check_categorical=False)
    frames.check(back)


def test_equal_content_is_the_version_that_is_there_and_other_content_the_next(
    store: DatasetStore, frame: pd.DataFrame
) -> None:
    first = store.put("syn", [frame], ORIGIN, NOW)
    again = store.put("syn", [frame[:100], frame[100:]], Origin("elsewhere", "exchange"), NOW)
    less = store.put("syn", [frame[:-1]], ORIGIN, NOW)
    other_clock = store.put("syn", [frame], Origin("synthetic", "receive"), NOW)

    assert (first.is_new, again.is_new, less.is_new, other_clock.is_new) == (True, False, True, True)
    assert again.manifest == first.manifest
    assert store.versions("syn") == [1, 2, 3]
    assert store.names() == ["syn"]


@pytest.mark.parametrize("deleted", ["syn/2", "syn"])
def test_the_number_of_a_deleted_version_is_not_given_again(
    store: DatasetStore, frame: pd.DataFrame, deleted: str
) -> None:
    for rows in (3, 6):
        store.put("syn", [frame[:rows]], ORIGIN, NOW)
    shutil.rmtree(store.root / deleted)

    assert store.put("syn", [frame[:9]], ORIGIN, NOW).manifest.version == 3
    assert store.put("12", [frame[:9]], ORIGIN, NOW).manifest.version == 1
    assert store.names() == ["12", "syn"]


def test_row_groups_and_files_do_not_change_what_it_is(
    store: DatasetStore, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = store.put("large", [frame], ORIGIN, NOW).manifest
    monkeypatch.setattr("data_io.datasets.store.FILE_ROWS", 200)
    monkeypatch.setattr("data_io.sinks.parquet.GROUP_ROWS", 64)
    chunks = [frame[i : i + 50] for i in range(0, 600, 50)]
    small = store.put("small", chunks, ORIGIN, NOW).manifest

    assert [file.rows for file in small.files] == [200, 200, 200]
    assert small.content_hash == large.content_hash
    whole = store.open(DatasetId("large", 1)).fetch()
    pd.testing.assert_frame_equal(store.open(DatasetId("small", 1)).fetch(), whole)


def test_a_range_reads_its_row_groups_alone(
    store: DatasetStore, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_io.sinks.parquet.GROUP_ROWS", 100)
    store.put("syn", [frame], ORIGIN, NOW)
    read: list[int] = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, *a: read.append(i) or real(self, i, *a))
    start_ns, end_ns = (int(frame["ts_ns"].iloc[row]) for row in (250, 310))

    part = store.open(DatasetId("syn", 1)).fetch(start_ns=start_ns, end_ns=end_ns)

    assert read == [2, 3]
    assert part["offset"].tolist() == list(range(250, 310))


def test_bars_stay_bars_and_are_ticks_for_who_asks(store: DatasetStore) -> None:
    given = bars([10.0, 11.0, 12.0, 13.0])
    manifest = store.put("bars", [given], ORIGIN, NOW).manifest
    fetcher = store.open(DatasetId("bars", 1))

    assert manifest.kinds == ("bar",)
    pd.testing.assert_frame_equal(join(fetcher.bar_chunks()), given, check_categorical=False)
    assert fetcher.fetch()["price"].tolist() == [11.0, 13.0]
    assert fetcher.report.ignored == {"bar without volume": 2}


def test_the_newest_version_is_meant_where_none_is_given(
    store: DatasetStore, frame: pd.DataFrame, tmp_path: Path
) -> None:
    store.put("syn", [frame], ORIGIN, NOW)
    store.put("syn", [frame[:9]], ORIGIN, NOW)
    assert len(open_source("dataset:syn", home=tmp_path).fetch()) == 9
    assert len(open_source("dataset:syn@1", home=tmp_path).fetch()) == 600


def test_a_source_is_known_by_the_content_of_its_data_set_or_the_bytes_of_its_file(
    store: DatasetStore, frame: pd.DataFrame, tmp_path: Path
) -> None:
    kept, csv, market = store.put("syn", [frame], ORIGIN, NOW).manifest, tmp_path / "ticks.csv", "synthetic:ticks=9"
    CsvSink(csv).write([frame], "exchange")

    for text in ("dataset:syn", "dataset:syn@1"):
        assert source_hash(text, open_source(text, home=tmp_path)) == kept.content_hash
    assert source_hash(str(csv), open_source(str(csv))) == hashlib.sha256(csv.read_bytes()).hexdigest()
    assert source_hash(market, open_source(market)) is None


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("dataset:syn@2", NotFoundError, "no version 2; versions: 1"),
        ("dataset:sym", NotFoundError, "did you mean 'syn'"),
        ("dataset:syn@", InputError, "names no data set"),
        ("dataset:syn@0", InputError, "names no data set"),
        ("dataset:../syn", InputError, "names no data set"),
    ],
)
def test_one_that_is_not_there_is_told_with_what_is(
    store: DatasetStore, frame: pd.DataFrame, tmp_path: Path, text: str, error: type[Exception], reason: str
) -> None:
    store.put("syn", [frame], ORIGIN, NOW)
    with pytest.raises(error, match=reason):
        open_source(text, home=tmp_path)


def test_nothing_and_what_breaks_off_leave_nothing(store: DatasetStore, frame: pd.DataFrame) -> None:
    def breaks() -> Iterator[pd.DataFrame]:
        yield frame
        raise InputError("the file ends early")

    with pytest.raises(NotEnoughDataError, match="gave no row"):
        store.put("syn", [frame[:0]], ORIGIN, NOW)
    with pytest.raises(InputError, match="ends early"):
        store.put("syn", breaks(), ORIGIN, NOW)
    assert [path.name for path in (store.root / "syn").iterdir()] == [".lock"]
    assert store.names() == []


def test_what_a_dead_import_left_is_removed_by_the_next(store: DatasetStore, frame: pd.DataFrame) -> None:
    left = store.root / "syn" / ".1.0123.tmp"
    left.mkdir(parents=True)
    (left / "part-00000.parquet").write_bytes(b"PAR1")
    store.put("syn", [frame], ORIGIN, NOW)
    assert not left.exists()


def test_two_imports_of_one_name_do_not_mix(store: DatasetStore, frame: pd.DataFrame) -> None:
    folder = store.root / "syn"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another process is writing"):
            store.put("syn", [frame], ORIGIN, NOW)


class TestDamaged:
    """Of each kind of damage, something notices."""

    @pytest.fixture
    def folder(self, store: DatasetStore, frame: pd.DataFrame) -> Path:
        store.put("syn", [frame], ORIGIN, NOW)
        return store.root / "syn" / "1"

    def refused(self, store: DatasetStore, reason: str) -> None:
        with pytest.raises(InputError, match=rf"data set syn@1 is damaged: .*{reason}"):
            store.open(DatasetId("syn", 1)).fetch()

    def test_a_file_is_gone(self, store: DatasetStore, folder: Path) -> None:
        (folder / "part-00000.parquet").unlink()
        self.refused(store, "is not there")

    def test_a_file_ends_early(self, store: DatasetStore, folder: Path) -> None:
        path = folder / "part-00000.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        self.refused(store, "bytes instead of")

    def test_a_bit_is_another(self, store: DatasetStore, folder: Path) -> None:
        path = folder / "part-00000.parquet"
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
        self.refused(store, "part-00000")

    def test_another_whole_file_is_in_its_place(self, store: DatasetStore, folder: Path) -> None:
        path = folder / "part-00000.parquet"
        table = pq.read_table(path)
        pq.write_table(table.take(list(range(599, -1, -1))), path, compression="zstd")
        manifest = folder / "manifest.json"
        text = manifest.read_text()  # whoever replaced the file had its size in mind
        manifest.write_text(re.sub(r'"size": \d+', f'"size": {path.stat().st_size}', text))
        self.refused(store, "another hash")

    def test_the_manifest_is_cut_or_says_what_it_may_not(self, store: DatasetStore, folder: Path) -> None:
        manifest = folder / "manifest.json"
        text = manifest.read_text()
        for broken in (text[:100], text.replace('"rows": 600', '"rows": 601', 1), text.replace("syn", "sin", 1)):
            manifest.write_text(broken)
            self.refused(store, "manifest.json")

    def test_a_damaged_version_does_not_stand_for_its_content(
        self, store: DatasetStore, folder: Path, frame: pd.DataFrame
    ) -> None:
        (folder / "manifest.json").unlink()
        assert str(store.put("syn", [frame], ORIGIN, NOW).manifest.id) == "syn@2"
