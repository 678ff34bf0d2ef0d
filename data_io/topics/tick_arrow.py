"""Reads ticks from an Arrow IPC stream in the value of one record: as columns, and row by row where they are unusual.

Shapes: N rows of one batch, D texts of a dictionary.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_io.topics.records import Header
from data_io.topics.tick_rules import FIELDS, QUOTE, TRADE, BadTickError, check, shorten
from ml_core.types import Bool, Float64, Int8, Int64

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
# Bounds what one record can make this process hold: a repeated value costs an Arrow stream next to nothing.
MAX_ROWS = 65_536
_NUMBERS = {TRADE: ("price", "size"), QUOTE: ("bid", "ask", "bid_size", "ask_size")}
_WRONG = 9  # neither a kind nor a side

Rows = list[dict[str, object]]


class ArrowTicks(NamedTuple):
    """The rows of one batch as columns; those that break a rule hold nothing that means anything."""

    is_valid_N: Bool  # but for the symbol
    bad: list[tuple[int, BadTickError]]  # every other row and what is wrong with it, in order
    names: list[str]
    name_N: Int64  # index into `names`
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
    names = [name for name in FIELDS if name in batch.schema.names]
    columns = [batch.column(name) for name in names]
    for i, column in enumerate(columns):
        if pa.types.is_timestamp(column.type):
            columns[i] = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    return pa.RecordBatch.from_arrays(columns, names=names)


def _columns(batch: pa.RecordBatch) -> ArrowTicks | None:
    """Return ``batch`` as columns, checked by the rules of ``check``; None where a type is unusual."""
    try:
        return _checked(batch, _Columns(batch))
    except _UnusualError:
        return None


def _checked(batch: pa.RecordBatch, columns: "_Columns") -> ArrowTicks:
    kind_N = columns.code("type", {"trade": TRADE, "quote": QUOTE}, none=_WRONG)
    names, name_N = columns.texts("symbol")
    ts_ns_N, seq_N, side_N = columns.integers("ts"), columns.integers("seq"), columns.sides()
    has_seq_N = columns.is_present("seq")
    is_valid_N = (kind_N != _WRONG) & (name_N >= 0) & (ts_ns_N > 0) & (seq_N >= 0)
    numbers = {}
    for kind, fields in _NUMBERS.items():
        is_kind_N = kind_N == kind
        is_present, is_alone = is_kind_N.any(), is_kind_N.all()
        for field in fields:
            number_N = columns.numbers(field) if is_present else np.full(len(kind_N), np.nan)
            if is_present:
                is_valid_N &= ((number_N > 0) & (number_N < np.inf)) | ~is_kind_N
            numbers[field] = number_N if is_alone else np.where(is_kind_N, number_N, np.nan)
    is_valid_N &= ~(numbers["ask"] < numbers["bid"])
    is_trade_N = kind_N == TRADE
    is_valid_N &= ~is_trade_N | (side_N != _WRONG)
    bad = []
    if not is_valid_N.all():
        at = np.flatnonzero(~is_valid_N)
        for row, fields in zip(at.tolist(), batch.take(pa.array(at)).to_pylist(), strict=True):
            try:
                check(fields)
            except BadTickError as error:
                bad.append((row, error))
            else:
                raise _UnusualError
    return ArrowTicks(
        is_valid_N, bad, names, name_N, kind_N, ts_ns_N, numbers["price"], numbers["size"],
        np.where(is_trade_N, side_N, np.int8(0)), numbers["bid"], numbers["ask"], numbers["bid_size"],
        numbers["ask_size"], np.where(has_seq_N, seq_N, -1),
    )  # fmt: skip


class _UnusualError(Exception):
    """A column is of a type that is read row by row."""


class _Columns:
    """The columns of a batch as arrays; each type is looked at once."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._rows = batch.num_rows
        self._columns = dict(zip(batch.schema.names, batch.columns, strict=True))

    def texts(self, name: str) -> tuple[list[str], Int64]:
        """Return the texts of a column and an index into them for each row, -1 where there is none."""
        column = self._columns.get(name)
        if column is None or pa.types.is_null(column.type):
            return [], np.full(self._rows, -1)
        if _is_text(column.type):
            column = column.dictionary_encode()
        elif not (pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)):
            raise _UnusualError
        if column.dictionary.null_count:
            raise _UnusualError
        index_N = _filled(column.indices).astype(np.int64)
        texts = column.dictionary.to_pylist()
        if column.null_count:
            index_N[~self.is_present(name)] = -1
        return texts, index_N

    def code(self, name: str, codes: dict[str, int], *, none: int) -> Int8:
        """Return what the texts of a column stand for; _WRONG where they stand for nothing, ``none`` for null."""
        texts, index_N = self.texts(name)
        code_D = np.array([*(codes.get(text, _WRONG) for text in texts), none], np.int8)
        return code_D[index_N]  # the index of no text is that of the last code

    def sides(self) -> Int8:
        """Return the sides; _WRONG where one is none."""
        column = self._columns.get("side")
        if column is None or not pa.types.is_integer(column.type):
            return self.code("side", {"buy": 1, "sell": -1}, none=0)
        side_N = self.integers("side")
        return np.where(np.abs(side_N) <= 1, side_N, _WRONG).astype(np.int8)

    def integers(self, name: str) -> Any:
        """Return an integer column; 0 for null."""
        column = self._columns.get(name)
        if column is None or pa.types.is_null(column.type):
            return np.zeros(self._rows, np.int64)
        if not pa.types.is_integer(column.type) or pa.types.is_uint64(column.type):
            raise _UnusualError
        return _filled(column).astype(np.int64, copy=False)

    def is_present(self, name: str) -> Any:
        """Return where a column holds something."""
        column = self._columns.get(name)
        if column is None:
            return np.zeros(self._rows, np.bool_)
        return column.is_valid().to_numpy(zero_copy_only=False)

    def numbers(self, name: str) -> Any:
        """Return a column of numbers as the nearest float64; 0, which breaks a rule too, for null."""
        column = self._columns.get(name)
        if column is None or pa.types.is_null(column.type):
            return np.zeros(self._rows)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise _UnusualError
        return _filled(column).astype(np.float64, copy=False)


def _is_text(kind: pa.DataType) -> Any:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _filled(column: pa.Array) -> Any:
    """Return ``column`` as an array with 0 for null, without a detour by way of floats."""
    return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
