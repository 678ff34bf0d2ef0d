"""Parquet files of ticks or bars, written chunk by chunk in bounded memory."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_io.data_fetcher.table_files import TS_SOURCE
from data_io.sinks import columns

GROUP_ROWS = 1 << 17  # of a row group: some 12 MB in memory


class ParquetWriter:
    """One Parquet file; its columns are the content of the first chunk, without ``left_out``."""

    def __init__(self, path: Path, ts_source: str, *, left_out: tuple[str, ...] = ()) -> None:
        """Write to ``path``; nothing is there before the first chunk. ``ts_source`` goes into the file's metadata."""
        self.path, self.rows = path, 0
        self._metadata = {TS_SOURCE: ts_source.encode()}
        self._left_out = left_out
        self._names: tuple[str, ...] = ()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write what waits, unless something went wrong, and close the file."""
        if kind is None:
            self._flush(self._waiting_rows)
        if self._writer is not None:
            self._writer.close()

    def write(self, frame: pd.DataFrame) -> None:
        """Append the rows of ``frame``.

        Raises:
            SchemaMismatchError: Its columns are not those of the first. A retry will not help.
        """
        if not self._names:
            self._names = columns.content(frame)
            kept = [name for name in self._names if name not in self._left_out]
            self._schema = columns.schema(kept, self._metadata)
        columns.same(frame, self._names)
        self._waiting.append(columns.to_arrow(frame, self._schema))
        self._waiting_rows += len(frame)
        self.rows += len(frame)
        if self._waiting_rows >= GROUP_ROWS:
            self._flush(self._waiting_rows // GROUP_ROWS * GROUP_ROWS)

    def _flush(self, rows: int) -> None:
        """Write the first ``rows`` of what waits."""
        if not self._waiting:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self.path,
                self._schema,
                compression="zstd",
                use_dictionary=[field.name for field in self._schema if pa.types.is_dictionary(field.type)],
                column_encoding={"ts_ns": "DELTA_BINARY_PACKED"},
                write_page_checksum=True,
            )
        table = pa.concat_tables(self._waiting).unify_dictionaries()
        if rows:
            self._writer.write_table(table.slice(0, rows), row_group_size=GROUP_ROWS)
        rest = table.slice(rows)
        self._waiting, self._waiting_rows = [rest] if len(rest) else [], len(rest)
