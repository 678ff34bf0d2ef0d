"""Reads ticks from an Arrow IPC stream in the value of one record: as columns, and row by row where they are unusual.

Shapes: N rows of one batch, D texts of a dictionary.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_io.topics.arrow_rules import WRONG, check_rows, code_texts, packed
from data_io.topics.records import Header
from data_io.topics.tick_rules import FIELDS, QUOTE, TRADE, BadTickError, check, shorten
from ml_core.types import Bool, Float64, Int8, Int64

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
# Bounds what one record can make this process hold: a repeated value costs an Arrow stream next to nothing.
MAX_ROWS = 65_536
_NUMBERS = ("price", "size", "bid", "ask", "bid_size", "ask_size")


class _Codes:
    """What some texts stand for, and None."""

    def __init__(self, codes: dict[str, int], none: int) -> None:
        self.codes, self.none = codes, none
        self.known_W = np.array([packed(known) for known in codes], np.uint64)
        self.code_W = np.array(list(codes.values()), np.int8)


_KINDS = _Codes({"trade": TRADE, "quote": QUOTE}, WRONG)
_SIDES = _Codes({"buy": 1, "sell": -1}, 0)

Rows = list[dict[str, object]]


class ArrowRows(NamedTuple):
    """The rows of one batch as columns."""

    name_N: Int64  # index into the names of the batch, -1: none
    kind_N: Int8
    ts_ns_N: Int64
    price_N: Float64
    size_N: Float64
    side_N: Int8
    bid_N: Float64
    ask_N: Float64
    bid_size_N: Float64
    ask_size_N: Float64
    seq_N: Int64


class ArrowTicks(NamedTuple):
    """One batch that was checked; rows that break a rule hold nothing that means anything."""

    rows: ArrowRows
    names: list[str]
    is_valid_N: Bool  # but for the symbol
    bad: list[tuple[int, BadTickError]]  # every other row and what is wrong with it, in order


def warm_up() -> None:
    """Compile what reads a batch, or load it from numba's cache."""
    _columns(pa.RecordBatch.from_pydict({"type": ["trade"]}))


def is_arrow(headers: tuple[Header, ...]) -> bool:
    """Return whether ``headers`` declare an Arrow stream."""
    return any(name.lower() == "content-type" and value == CONTENT_TYPE.encode() for name, value in headers)


def read(value: bytes | None) -> list[ArrowTicks | Rows]:
    """Return the batches of ``value`` in order, as columns, or as fields of a tick a row where a type is unusual.

    ``ts`` may be an integer, in ns, or a timestamp. Rows are not checked; columns are.

    Raises:
        BadTickError: The stream as a whole cannot be read.
    """
    if value is None:
        raise BadTickError("null_value", "the record has no value")
    try:
        return [_columns(batch) or batch.to_pylist() for batch in _batches(value)]
    except (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise BadTickError("bad_arrow", f"{type(error).__name__}: {shorten(str(error))}") from None


def _batches(value: bytes) -> list[pa.RecordBatch]:
    found, rows = [], 0
    with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
        for batch in stream:
            rows += batch.num_rows
            if rows > MAX_ROWS:
                raise BadTickError("too_large", f"the record holds more than {MAX_ROWS} ticks")
            batch.validate(full=True)
            found.append(_plain(batch))
    return found


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = batch.schema.names
    batch = batch.select([name for name in FIELDS if name in names])
    for i, (name, kind) in enumerate(zip(batch.schema.names, batch.schema.types, strict=True)):
        if pa.types.is_timestamp(kind):
            ns = batch.column(i).cast(pa.timestamp("ns", kind.tz)).cast(pa.int64())
            batch = batch.set_column(i, name, ns)
    return batch


def _columns(batch: pa.RecordBatch) -> ArrowTicks | None:
    """Return ``batch`` as columns, checked by the rules of ``check``; None where there is none or a type is unusual."""
    if not batch.num_rows:
        return None
    columns = _Columns(batch)
    try:
        names, name_N = columns.texts("symbol")
        price_N, size_N, bid_N, ask_N, bid_size_N, ask_size_N = map(columns.numbers, _NUMBERS)
        rows = ArrowRows(
            name_N, columns.codes("type", _KINDS), columns.integers("ts", none=0), price_N, size_N,
            columns.sides(), bid_N, ask_N, bid_size_N, ask_size_N, columns.seqs(),
        )  # fmt: skip
        is_valid_N = np.empty(batch.num_rows, np.bool_)
        bad = [] if check_rows(rows, is_valid_N) else _judged(batch, np.flatnonzero(~is_valid_N))
    except _UnusualError:
        return None
    return ArrowTicks(rows, names, is_valid_N, bad)


def _judged(batch: pa.RecordBatch, bad_M: Int64) -> list[tuple[int, BadTickError]]:
    """Return what is wrong with some rows of ``batch``."""
    bad = []
    for row, fields in zip(bad_M.tolist(), batch.take(pa.array(bad_M)).to_pylist(), strict=True):
        try:
            check(fields)
        except BadTickError as error:
            bad.append((row, error))
        else:
            raise _UnusualError
    return bad


class _UnusualError(Exception):
    """A column is of a type that is read row by row."""


class _Columns:
    """The columns of a batch as arrays that are contiguous and may be written to; each type is looked at once."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._rows = batch.num_rows
        pairs = zip(batch.schema.names, batch.columns, strict=True)
        self._columns = {name: column for name, column in pairs if not pa.types.is_null(column.type)}

    def texts(self, name: str) -> tuple[list[str], Int64]:
        """Return the texts of a column and an index into them for each row, -1 where there is none."""
        column = self._columns.get(name)
        if column is None:
            return [], np.full(self._rows, -1)
        if _is_text(column.type):
            column = column.dictionary_encode()
        elif not (pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)):
            raise _UnusualError
        if column.dictionary.null_count:
            raise _UnusualError
        return column.dictionary.to_pylist(), _filled(column.indices, -1).astype(np.int64)

    def codes(self, name: str, texts: _Codes) -> Int8:
        """Return what the texts of a column stand for; WRONG where they stand for nothing."""
        column = self._columns.get(name)
        if column is None:
            return np.full(self._rows, texts.none, np.int8)
        if not pa.types.is_string(column.type) or column.null_count:
            found, index_N = self.texts(name)
            code_D = np.array([*(texts.codes.get(text, WRONG) for text in found), texts.none], np.int8)
            return code_D[index_N]  # the index of no text is that of the last code
        _, offsets, text = column.buffers()
        offset_N1 = np.frombuffer(offsets, np.int32, self._rows + 1, 4 * column.offset).copy()
        code_N = np.empty(self._rows, np.int8)
        code_texts(offset_N1, np.frombuffer(text or b"", np.uint8).copy(), texts.known_W, texts.code_W, code_N)
        return code_N

    def sides(self) -> Int8:
        """Return the sides; WRONG where one is none."""
        column = self._columns.get("side")
        if column is None or not pa.types.is_integer(column.type):
            return self.codes("side", _SIDES)
        side_N = self.integers("side", none=0)
        return np.where((side_N >= -1) & (side_N <= 1), side_N, WRONG).astype(np.int8)

    def seqs(self) -> Any:
        """Return the sequence numbers, -1 for none; a smaller one where a negative number stood."""
        column = self._columns.get("seq")
        seq_N = self.integers("seq", none=-1)
        if column is not None and (seq_N < 0).any():
            seq_N[(seq_N < 0) & column.is_valid().to_numpy(zero_copy_only=False)] = -2
        return seq_N

    def integers(self, name: str, *, none: int) -> Any:
        """Return an integer column, ``none`` for null."""
        column = self._columns.get(name)
        if column is None:
            return np.full(self._rows, none)
        if not pa.types.is_integer(column.type) or pa.types.is_uint64(column.type):
            raise _UnusualError
        if column.null_count and none < 0 and pa.types.is_unsigned_integer(column.type):
            column = column.cast(pa.int64())
        return _filled(column, none).astype(np.int64)

    def numbers(self, name: str) -> Any:
        """Return a column of numbers as the nearest float64; 0, which breaks a rule too, for null."""
        column = self._columns.get(name)
        if column is None:
            return np.zeros(self._rows)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise _UnusualError
        return _filled(column, 0).astype(np.float64)


def _is_text(kind: pa.DataType) -> Any:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _filled(column: pa.Array, none: int) -> Any:
    """Return ``column`` as an array with ``none`` for null, without a detour by way of floats."""
    return (column.fill_null(none) if column.null_count else column).to_numpy(zero_copy_only=False)
