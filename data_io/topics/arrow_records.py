"""Records that hold an Arrow IPC stream each: what pyarrow says of a schema once, a kernel repeats for every record."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_io.topics import arrow_kernel as kernel
from data_io.topics.arrow_kernel import Fill
from data_io.topics.record_batch import BATCH_BYTES, HEADER_BYTES, VARINTS, RecordBatch, sized
from data_io.topics.records import Header

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
FROM_HEADER, TO_HEADER = "tickwise.offset-from", "tickwise.offset-to"
# Varints, two offsets as text, end of the stream: what a record has beside its texts and buffers, at most.
_FRAME_BYTES = 100
# Fields of the flatbuffers tables Message and RecordBatch.
_HEADER, _BODY_LENGTH = 2, 3
_LENGTH, _NODES, _BUFFERS = 0, 1, 2
_NO_NULLS = (Fill.NO_NULLS, 0, 0, 0)


class Part(NamedTuple):
    """A column, or a part of one, as Arrow's format knows it."""

    nodes: list[int]  # values a row
    buffers: list[tuple[int, int, int, int]]  # as kernel.Plan has them


def numbers(width: int, source: int, part: int = 0, *, null: Fill = Fill.NO_NULLS, ok: int = 0) -> Part:
    """Return numbers of ``width`` bytes; nulls, if any, are said by the source ``ok``."""
    return Part([1], [(null, 0, ok, 0), (Fill.COLUMN, width, source, part)])


def lists(size: int, width: int, source: int) -> Part:
    """Return lists of ``size`` numbers of ``width`` bytes."""
    return Part([1, size], [_NO_NULLS, _NO_NULLS, (Fill.COLUMN, size * width, source, 0)])


def same(width: int, value: int) -> Part:
    """Return one number of ``width`` bytes in every row; of a dictionary, the place of its entry."""
    return Part([1], [_NO_NULLS, (Fill.SAME, width, value, 0)])


def texts() -> Part:
    """Return the symbols."""
    return Part([1], [_NO_NULLS, (Fill.ENDS, 0, 0, 0), (Fill.TEXTS, 0, 0, 0)])


def struct_of(children: Sequence[Part]) -> Part:
    """Return a struct of other parts."""
    nodes = [node for child in children for node in child.nodes]
    return Part([1, *nodes], [_NO_NULLS, *(buffer for child in children for buffer in child.buffers)])


class ArrowRecords:
    """Writes columns of one schema as records; the values are byte for byte those of pyarrow."""

    def __init__(
        self, example: pa.RecordBatch, parts: Sequence[Part], headers: Sequence[Header], *, max_rows: int
    ) -> None:
        """Prepare what does not depend on the rows.

        Args:
            example: One row of the schema, which has the dictionaries of all rows.
            parts: What each column is made of. Source ``kernel.OFFSET`` is the offset of each row, int64, and
                ``kernel.SYMBOL`` the number of its symbol, int32.
            headers: Of each record, between the content type and those that name its first and last offset.
            max_rows: Rows a record at most.
        """
        self._plan = _plan(example, parts, headers)
        self._max_rows = max_rows
        self._symbols = _SymbolTexts()
        self._record_bytes = len(self._plan.text) + 8 * len(self._plan.buffer_B4) + _FRAME_BYTES
        # The end of a text, a bit or less for each buffer, and what the buffers hold.
        self._row_bytes = 4 + len(self._plan.buffer_B4) // 8 + 1 + int(self._plan.buffer_B4[:, 1].sum())

    def record_batches(self, columns: tuple[npt.NDArray[Any], ...], symbols: Sequence[str]) -> list[RecordBatch]:
        """Return batches of at most BATCH_BYTES, unless one record alone has more, in order; no rows, no batch.

        Args:
            columns: The sources, contiguous, of N rows; one may hold several columns of N, one after the other.
            symbols: The table of symbols, which only grows from call to call.
        """
        texts = self._symbols.follow(symbols)
        made: list[RecordBatch] = []
        first, rows = 0, len(columns[0])
        while first < rows:
            left = rows - first
            size = min(self._bound(left), max(BATCH_BYTES, self._bound(min(left, self._max_rows))))
            buffer = np.empty(HEADER_BYTES + size + kernel.SLACK, np.uint8)
            first, used, records = kernel.write_records(
                self._plan, texts, columns, first, self._max_rows, BATCH_BYTES, buffer[HEADER_BYTES:]
            )
            made.append(RecordBatch(buffer[: HEADER_BYTES + used], records))
        return made

    def _bound(self, rows: int) -> int:
        """Return what records of ``rows`` may take at most."""
        return -(-rows // self._max_rows) * self._record_bytes + rows * (self._row_bytes + self._symbols.longest)


class _SymbolTexts:
    """The symbols of a partition as UTF-8; follows a table that only grows."""

    def __init__(self) -> None:
        self._arrays = kernel.SymbolTexts(
            np.zeros(kernel.SLACK, np.uint8), np.empty(0, np.int64), np.empty(0, np.int32)
        )
        self.longest = 0  # bytes of a symbol

    def follow(self, symbols: Sequence[str]) -> kernel.SymbolTexts:
        old, known = self._arrays, len(self._arrays.at_M)
        if known == len(symbols):
            return old
        new = [symbol.encode() for symbol in symbols[known:]]
        text = np.frombuffer(b"".join(new) + bytes(kernel.SLACK), np.uint8)
        len_M = np.concatenate([old.len_M, np.array([len(each) for each in new], np.int32)])
        at_M = np.cumsum(len_M, dtype=np.int64) - len_M
        self._arrays = kernel.SymbolTexts(np.concatenate([old.text[: -kernel.SLACK], text]), at_M, len_M)
        self.longest = int(len_M.max())
        return self._arrays


def _plan(example: pa.RecordBatch, parts: Sequence[Part], headers: Sequence[Header]) -> kernel.Plan:
    batch = example.serialize().to_pybytes()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, example.schema) as stream:
        stream.write_batch(example)
    head = sink.getvalue().to_pybytes()[: -len(batch) - kernel.END_BYTES]
    message, places = _message(batch)
    all_headers = [("content-type", CONTENT_TYPE), *headers]
    front = VARINTS[len(all_headers) + 2]
    front += b"".join(part for name, content in all_headers for part in (*sized(name.encode()), *sized(content)))
    front += b"".join(sized(FROM_HEADER.encode()))
    pieces = [head, message, front, b"".join(sized(TO_HEADER.encode()))]
    bounds = np.cumsum([len(piece) for piece in pieces])
    return kernel.Plan(
        text=np.frombuffer(bytearray(b"".join(pieces)), np.uint8),
        place_P=np.array([*bounds, *places]),
        node_K=np.array([node for part in parts for node in part.nodes]),
        buffer_B4=np.array([buffer for part in parts for buffer in part.buffers]),
    )


def _message(batch: bytes) -> tuple[bytes, list[int]]:
    """Return the message of a record batch without its body, and where in it the places of ``kernel.Place`` lie.

    Source: flatbuffers' format, https://flatbuffers.dev/internals/.
    """
    start = 8  # a mark and the length of the flatbuffer
    (length,) = struct.unpack_from("<i", batch, start - 4)

    def follow(at: int) -> int:
        return at + int(struct.unpack_from("<I", batch, at)[0])

    def field(table: int, number: int) -> int:
        (back,) = struct.unpack_from("<i", batch, table)
        return table + int(struct.unpack_from("<H", batch, table - back + 4 + 2 * number)[0])

    message = follow(start)
    header = follow(field(message, _HEADER))
    nodes, buffers = (follow(field(header, number)) + 4 for number in (_NODES, _BUFFERS))
    return batch[: start + length], [field(header, _LENGTH), field(message, _BODY_LENGTH), nodes, buffers]
