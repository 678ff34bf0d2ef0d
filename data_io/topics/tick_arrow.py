"""Reads ticks from an Arrow IPC stream in the value of one record: as columns, and row by row where they are unusual.

Shapes: N rows of one batch, D names or texts of a dictionary, C columns of numbers.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_io.topics.arrow_rules import FLOATS, INTEGERS, check_rows
from data_io.topics.arrow_texts import WRONG, Texts, code_texts, index_texts, packed
from data_io.topics.json_scan import SLACK
from data_io.topics.records import Header
from data_io.topics.tick_rules import FIELDS, QUOTE, TRADE, BadTickError, check, shorten
from ml_core.types import MAX_TS_NS, Bool, Float64, Int8, Int64

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
# Bounds what one record can make this process hold: a repeated value costs an Arrow stream next to nothing.
MAX_ROWS = 65_536
# Reasons that refuse a record as a whole, not one of its rows.
WHOLE = frozenset({"null_value", "bad_arrow", "too_large"})
_FIELDS = frozenset(FIELDS)
_NUMBERS = (*FLOATS, *INTEGERS)
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_SLACK = np.zeros(SLACK, np.uint8)


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
    first_D: Int64  # the first valid row of each name, -1: none
    is_valid_N: Bool  # but for the symbol
    bad: list[tuple[int, BadTickError]]  # every other row and what is wrong with it, in order


def warm_up() -> None:
    """Compile what reads a batch, or load it from numba's cache."""
    # Other ways to make a column import pandas, which takes 30 MB of a worker's memory.
    kind = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 5], np.int32)), pa.py_buffer(b"trade"))
    _columns(pa.RecordBatch.from_arrays([kind], names=["type"]))


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
        parts = _parts(value)
        return [part.to_pylist() if isinstance(part, pa.RecordBatch) else part for part in parts]
    except (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise BadTickError("bad_arrow", f"{type(error).__name__}: {shorten(str(error))}") from None


def row(value: bytes, index: int) -> bytes:
    """Return a stream with row ``index`` of ``value`` alone.

    Raises:
        BadTickError: It cannot be read, or has no such row.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
            for batch in stream:
                if index < batch.num_rows:
                    sink = pa.BufferOutputStream()
                    with pa.ipc.new_stream(sink, batch.schema) as alone:
                        alone.write_batch(batch.slice(index, 1))
                    return bytes(sink.getvalue().to_pybytes())
                index -= batch.num_rows
    except (pa.ArrowException, ValueError, OSError) as error:
        raise BadTickError("bad_arrow", f"{type(error).__name__}: {shorten(str(error))}") from None
    raise BadTickError("bad_arrow", "the stream has fewer rows")


def _parts(value: bytes) -> list[Any]:
    """Return each batch of ``value`` as columns, or as it is but for the columns that nobody asked for."""
    found, rows = [], 0
    with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
        for batch in stream:
            rows += batch.num_rows
            if rows > MAX_ROWS:
                raise BadTickError("too_large", f"the record holds more than {MAX_ROWS} ticks")
            found.append(_columns(batch) or _plain(batch))
    return found


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    batch.validate(full=True)
    names = batch.schema.names
    batch = batch.select([name for name in FIELDS if name in names])
    for i, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        if pa.types.is_timestamp(column.type):
            batch = batch.set_column(i, name, _ns(column))
    return batch


def _ns(column: pa.Array) -> pa.Array:
    """Return timestamps as integers; those that int64 may not hold as one that is out of range as well."""
    unit_ns = _UNIT_NS[column.type.unit]
    most = MAX_TS_NS // unit_ns + 1
    number_N = column.cast(pa.int64()).fill_null(0).to_numpy()
    return pa.array(np.clip(number_N, -most, most) * unit_ns, mask=np.asarray(column.is_null()))


def _columns(batch: pa.RecordBatch) -> ArrowTicks | None:
    """Return ``batch`` as columns, checked by the rules of ``check``.

    None where there is none, a type is unusual or a column is not what it claims to be, for which nobody but Arrow has
    the words. What of its full validation matters here is done on the way, in the passes that read the columns.
    """
    if not batch.num_rows:
        return None
    try:
        batch.validate()
        columns = _Columns(batch)
        names, name_N = columns.names()
        kind_N, side_N = columns.codes("type", _KINDS), columns.sides()
        at_2C = columns.places()
        rows = batch.num_rows
        float_6N, integer_2N = np.empty((6, rows)), np.empty((2, rows), np.int64)
        first_D, nulls_C = np.full(len(names), -1), np.empty(len(_NUMBERS), np.int64)
        is_valid_N = np.empty(rows, np.bool_)
        all_valid = check_rows(at_2C, name_N, kind_N, side_N, float_6N, integer_2N, first_D, is_valid_N, nulls_C)
        columns.count_nulls(nulls_C)
        bad = [] if all_valid else _judged(batch, np.flatnonzero(~is_valid_N))
    except (_UnusualError, pa.ArrowException, UnicodeDecodeError, OverflowError):  # the last of lengths that lie
        return None
    price_N, size_N, bid_N, ask_N, bid_size_N, ask_size_N = float_6N
    ts_ns_N, seq_N = integer_2N
    found = ArrowRows(name_N, kind_N, ts_ns_N, price_N, size_N, side_N, bid_N, ask_N, bid_size_N, ask_size_N, seq_N)
    return ArrowTicks(found, names, first_D, is_valid_N, bad)


def _judged(batch: pa.RecordBatch, bad_M: Int64) -> list[tuple[int, BadTickError]]:
    """Return what is wrong with some rows of ``batch``."""
    bad = []
    places = pa.Array.from_buffers(pa.int64(), len(bad_M), [None, pa.py_buffer(bad_M)])  # pa.array imports pandas
    rows = _plain(batch.take(places)).to_pylist()
    for row, fields in zip(bad_M.tolist(), rows, strict=True):
        try:
            check(fields)
        except BadTickError as error:
            bad.append((row, error))
        else:
            raise _UnusualError
    return bad


class _UnusualError(Exception):
    """A column is read row by row."""


class _Columns:
    """The columns of a batch as addresses, and as arrays that are contiguous and may be written to."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Sort them; Arrow checks those that are not read here."""
        self._rows = batch.num_rows
        self._columns: dict[str, pa.Array] = {}
        self._kept: list[Any] = []  # what holds the memory behind the addresses
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in self._columns or column.offset:
                raise _UnusualError
            if name not in _FIELDS or pa.types.is_null(column.type):
                column.validate(full=True)
            elif pa.types.is_timestamp(column.type):
                column.validate(full=True)  # a cast counts the nulls anew
                self._columns[name] = _ns(column)
            else:
                self._columns[name] = column

    def names(self) -> tuple[list[str], Int64]:
        """Return the names of symbols and an index into them for each row, -1 where there is none."""
        column = self._columns.get("symbol")
        if column is not None and pa.types.is_string(column.type):
            texts = self._texts(column)
            slot_S = np.full(1 << (2 * self._rows - 1).bit_length(), -1, np.int32)
            place_2D, name_N = np.empty((2, self._rows), np.int64), np.empty(self._rows, np.int64)
            count, nulls = index_texts(texts, slot_S, place_2D, name_N)
            if count >= 0 and nulls == column.null_count:
                text, bounds = texts.text_T.tobytes(), zip(*place_2D[:, :count].tolist(), strict=True)
                return [text[first:behind].decode() for first, behind in bounds], name_N
        return self._dictionary("symbol")

    def codes(self, name: str, texts: _Codes) -> Int8:
        """Return what the texts of a column stand for; WRONG where they stand for nothing."""
        column = self._columns.get(name)
        if column is None:
            return np.full(self._rows, texts.none, np.int8)
        if not pa.types.is_string(column.type):
            found, index_N = self._dictionary(name)
            code_D = np.array([*(texts.codes.get(text, WRONG) for text in found), texts.none], np.int8)
            return code_D[index_N]  # the index of no text is that of the last code
        code_N = np.empty(self._rows, np.int8)
        if code_texts(self._texts(column), texts.known_W, texts.code_W, texts.none, code_N) != column.null_count:
            column.validate(full=True)
        return code_N

    def sides(self) -> Int8:
        """Return the sides; WRONG where one is none."""
        column = self._columns.get("side")
        if column is None or not pa.types.is_integer(column.type):
            return self.codes("side", _SIDES)
        if pa.types.is_uint64(column.type):
            raise _UnusualError
        column.validate(full=True)
        side_N = _filled(column, 0)
        return np.where((side_N >= -1) & (side_N <= 1), side_N, WRONG).astype(np.int8)

    def places(self) -> Int64:
        """Return where the numbers of each column of ``_NUMBERS`` lie, 8 bytes each, and its bits."""
        found = [self._place(name, np.float64 if name in FLOATS else np.int64) for name in _NUMBERS]
        return np.array(found, np.int64).T.copy()

    def count_nulls(self, nulls_C: Int64) -> None:
        """Let Arrow judge the columns of ``_NUMBERS`` that claim another number of nulls than they have."""
        for name, nulls in zip(_NUMBERS, nulls_C.tolist(), strict=True):
            column = self._columns.get(name)
            if column is not None and column.null_count != nulls:
                column.validate(full=True)

    def _place(self, name: str, dtype: type) -> tuple[int, int]:
        column = self._columns.get(name)
        if column is None:
            return 0, 0
        kind = column.type
        is_number = pa.types.is_integer(kind) and not (dtype is np.int64 and pa.types.is_uint64(kind))
        if not (is_number or (dtype is np.float64 and pa.types.is_floating(kind))):
            raise _UnusualError
        bits, data = column.buffers()
        if data is None or data.size * 8 < self._rows * kind.bit_width:
            raise _UnusualError
        address = data.address
        if kind.to_pandas_dtype() is not dtype:
            # Whatever a null hides becomes a number as well, and is as hidden.
            with np.errstate(all="ignore"):
                array: Any = np.frombuffer(data, kind.to_pandas_dtype(), self._rows).astype(dtype)
            self._kept.append(array)
            address = array.ctypes.data
        return address, self._bits(bits)

    def _texts(self, column: pa.Array) -> Texts:
        bits, offsets, text = column.buffers()
        if offsets is None or offsets.size < 4 * (self._rows + 1):
            raise _UnusualError
        text_T = _SLACK if text is None else np.concatenate([np.frombuffer(text, np.uint8), _SLACK])
        return Texts(offsets.address, self._bits(bits), text_T)

    def _bits(self, bits: pa.Buffer | None) -> int:
        if bits is None:
            return 0
        if bits.size * 8 < self._rows:
            raise _UnusualError
        return int(bits.address)

    def _dictionary(self, name: str) -> tuple[list[str], Int64]:
        """Return the texts of a column and an index into them for each row, -1 where there is none."""
        column = self._columns.get(name)
        if column is None:
            return [], np.full(self._rows, -1)
        column.validate(full=True)
        if _is_text(column.type):
            column = column.dictionary_encode()
        elif not (pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)):
            raise _UnusualError
        if column.dictionary.null_count:
            raise _UnusualError
        return column.dictionary.to_pylist(), _filled(column.indices, -1).astype(np.int64)


def _is_text(kind: pa.DataType) -> Any:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _filled(column: pa.Array, none: int) -> Any:
    """Return ``column`` as an array with ``none`` for null, without a detour by way of floats."""
    return (column.fill_null(none) if column.null_count else column).to_numpy(zero_copy_only=False)
