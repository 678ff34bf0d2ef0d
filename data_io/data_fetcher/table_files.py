"""CSV and Parquet files as rows, whatever they hold: a column a field, some rows at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_io.data_fetcher import row_groups, table_columns
from data_io.data_fetcher.port import END_OF_TIME_NS
from ml_core.errors import InputError, SourceUnavailableError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
TS_SOURCE = b"tickwise.ts_source"
"""Key of a Parquet file's own words about its clock."""

EVER_NS = -(2**63)
_CHUNK_ROWS = 65_536
# floats would lose digits of a ts or a seq
_AS_TEXT = ("ts", "start_ns", "symbol", "type", "side", "seq", *table_columns.OPTIONAL)


def read(
    path: Path,
    choose: Callable[[list[str]], dict[str, str]],
    unit: str = "ns",
    start_ns: int = EVER_NS,
    end_ns: int = END_OF_TIME_NS,
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield the number of the first row, and rows, of the file ``path``.

    Args:
        path: A file whose name ends in one of ``SUFFIXES``.
        choose: Of the names of its columns, which one holds a field; ``ts`` is a time.
        unit: Of whole numbers as times.
        start_ns: Row groups of Parquet without a time from here on are left out; other rows are not looked at.
        end_ns: As ``start_ns``; without a time before here.

    Raises:
        InputError: The file is missing, or is no table. A retry will not help.
        SourceUnavailableError: Reading failed. A retry is safe.
    """
    done = 0
    try:
        names, rows_of = (_open_parquet if path.suffix == ".parquet" else _open_csv)(path)
        for row, rows in rows_of(choose(names), unit, start_ns, end_ns):
            done = row + len(rows)
            yield row, rows
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        pa.ArrowInvalid,
        EOFError,
        UnicodeDecodeError,
    ) as error:
        raise InputError(f"{path} is no whole table: {error}; rows before number {done + 1} were read") from error
    except OSError as error:
        raise SourceUnavailableError(f"reading {path} failed: {error}") from error


def columns_of(path: Path) -> list[str]:
    """Return the names of the columns of a file; none where it cannot be read, which reading it will tell."""
    try:
        return (_open_parquet if path.suffix == ".parquet" else _open_csv)(path)[0]
    except (OSError, ValueError, EOFError, pa.ArrowException):
        return []


def clock(path: Path) -> str | None:
    """Return the clock that a Parquet file of a sink says it stands on; what cannot be read will be told later."""
    if path.suffix != ".parquet":
        return None
    try:
        return (pq.read_schema(path).metadata or {}).get(TS_SOURCE, b"").decode() or None
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return None


_Reader = Callable[[dict[str, str], str, int, int], Iterator[tuple[int, pd.DataFrame]]]
"""Column of each field, unit, begin and end of times -> number of the first row, and rows, a column a field."""


def _open_csv(path: Path) -> tuple[list[str], _Reader]:
    names = [str(name) for name in pd.read_csv(path, nrows=0).columns]

    def read(chosen: dict[str, str], _unit: str, _start: int, _end: int) -> Iterator[tuple[int, pd.DataFrame]]:
        text = {column: "str" for field, column in chosen.items() if field in _AS_TEXT}
        row = 0
        with pd.read_csv(path, usecols=list(chosen.values()), dtype=text, chunksize=_CHUNK_ROWS) as chunks:
            for chunk in chunks:
                yield row, pd.DataFrame({field: chunk[column].to_numpy() for field, column in chosen.items()})
                row += len(chunk)

    return names, read


def _open_parquet(path: Path) -> tuple[list[str], _Reader]:
    file = pq.ParquetFile(path)

    def read(chosen: dict[str, str], unit: str, start_ns: int, end_ns: int) -> Iterator[tuple[int, pd.DataFrame]]:
        wanted = list(dict.fromkeys(chosen.values()))
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        with file:
            for group in row_groups.within(file, chosen["ts"], unit, start_ns, end_ns):
                row = sum(sizes[:group])
                for batch in file.iter_batches(batch_size=_CHUNK_ROWS, row_groups=[group], columns=wanted):
                    yield (
                        row,
                        pd.DataFrame({field: _plain(batch.column(column), field) for field, column in chosen.items()}),
                    )
                    row += len(batch)

    return list(file.schema_arrow.names), read


def _plain(column: Any, field: str) -> "pd.Series[Any]":
    """Return an Arrow column as pandas without a detour of whole numbers over floats."""
    is_exact = pa.types.is_integer(column.type) and field in _AS_TEXT
    if is_exact and column.null_count:
        column = column.cast(pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    series: pd.Series[Any] = column.to_pandas()
    return series
