"""Rows in the archive are what a notebook opens."""

import subprocess
import sys

import numpy as np
import pandas as pd

from data_io.archive import row_columns
from data_io.topics import rows
from ml_core.types import RowBatch
from tests.unit.data_io.archive.archive_lab import PLACE, record, writer


def batch(*offsets: int, features: int = 2) -> RowBatch:
    n = len(offsets)
    return RowBatch(
        offset_N=np.array(offsets),
        index_N=np.arange(n, dtype=np.int32),
        symbol_N=np.arange(n, dtype=np.int32) % 2,
        ts_ns_N=np.array(offsets) + 10**18 + 1,
        mid_N=np.array(offsets) + 0.1,
        spread_N=np.full(n, np.nan),
        x_NF=np.arange(n * features, dtype=np.float32).reshape(n, features) / np.float32(3),
        flags_N=np.full(n, 33, np.uint8),
        symbols=["ACME", "ÜBER"],
    )


def row_record(offset: int, made: RowBatch, names: list[str], hash: str = "h1"):
    [(key, value, headers)] = rows.encode(made, names, hash, 3)
    return record(offset, value, key, tuple(headers))


def test_a_file_opens_as_the_frame_of_the_rows_with_the_place_of_their_records(tmp_path):
    made = writer(tmp_path, columns=row_columns.COLUMNS)
    made.begin(0)
    made.add([row_record(0, batch(7, 8, 9), ["a", "return:1s"]), row_record(2, batch(10), ["a", "return:1s"])], 4)
    made.flush()
    made.add([row_record(4, batch(10), ["a", "return:1s"])], 5)
    made.seal()
    [file] = made.publish()
    made.add([row_record(5, batch(11), ["a", "return:1s"])], 6)
    made.flush()  # another file is being written beside it

    found = pd.read_parquet(PLACE.folder(tmp_path))

    assert found.pop("record_offset").tolist() == [0, 0, 0, 2, 4]
    assert found.pop("timestamp").astype("int64").tolist() == [1_700_000_000_000 + n for n in (0, 0, 0, 2, 4)]
    parts = [rows.to_frame(each, ["a", "return:1s"]) for each in (batch(7, 8, 9), batch(10), batch(10))]
    pd.testing.assert_frame_equal(
        found.astype({"symbol": "str"}),
        pd.concat([part.astype({"symbol": "str"}) for part in parts], ignore_index=True),
        check_exact=True,
    )
    assert (file.start, file.end) == (0, 5)
    made.close()


def test_a_file_ends_where_features_change_and_what_holds_no_rows_is_covered_and_left_out(tmp_path, capsys):
    made = writer(tmp_path, columns=row_columns.COLUMNS)
    made.begin(0)
    made.add(
        [
            row_record(0, batch(7), ["a", "b"]),
            record(1, b"no rows"),
            row_record(3, batch(8), ["a", "c"]),
            row_record(4, batch(9), ["a", "c"], hash="h2"),
        ],
        5,
    )
    made.seal()

    files = made.publish()

    assert [(file.start, file.end) for file in files] == [(0, 3), (3, 4), (4, 5)]
    assert [pd.read_parquet(file.path)["offset"].tolist() for file in files] == [[7], [8], [9]]
    assert "a record holds no rows" in capsys.readouterr().out
    made.close()


def test_features_named_as_what_a_row_has_already_are_archived_beside_it(tmp_path):
    names = ["mid", "flags", "feature.mid", "a"]
    made = writer(tmp_path, columns=row_columns.COLUMNS)
    made.begin(0)
    made.add([row_record(0, batch(7, 8, features=4), names)], 1)
    made.seal()
    [file] = made.publish()
    made.close()

    found = pd.read_parquet(file.path)

    given = batch(7, 8, features=4)
    assert found["mid"].tolist() == given.mid_N.tolist()
    assert found["flags"].tolist() == given.flags_N.tolist()
    columns = ["feature.mid", "feature.flags", "feature.feature.mid", "a"]
    assert found[columns].to_numpy().tolist() == given.x_NF.tolist()


WITHOUT_PANDAS = """
import sys
from pathlib import Path
from data_io.archive import archiver, row_columns
from tests.unit.data_io.archive.archive_lab import record, records, writer
made = writer(Path(sys.argv[1]))
made.begin(0)
made.add(records(0, 1), 2)
made.seal()
made.publish()
list(row_columns.encode([record(0, Path(sys.argv[2]).read_bytes())]))[0]
assert "pandas" not in sys.modules
"""


def test_an_archiver_writes_without_pandas_which_takes_a_second_and_30_mb(tmp_path):
    value = row_record(0, batch(1, 2), ["a", "b"]).value
    (tmp_path / "record").write_bytes(value)
    command = [sys.executable, "-c", WITHOUT_PANDAS, str(tmp_path / "archive"), str(tmp_path / "record")]
    subprocess.run(command, check=True, timeout=60)
