"""Records that hold an Arrow IPC stream each: what pyarrow says of a schema once, a kernel repeats for every record."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_io.topics import arrow_kernel as kernel
from data_io.topics.arrow_kernel import Fill
from data_io.topics.record_batch import BATCH_BYTES, HEADER_BYTES, RecordBatch, sized, varint
from data_io.topics.records import Header
from ml_core.types import Int64

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
FROM_HEADER, TO_HEADER = "tickwise.offset-from", "tickwise.offset-to"
# Varints, two offsets as text, end of the stream: what a record has beside its texts and buffers, at most.
_FRAME_BYTES = 100
# Fields of the flatbuffers tables Message and RecordBatch.
_HEADER, _BODY_LENGTH = 2, 3
_LENGTH, _NODES, _BUFFERS = 0, 1, 2


class ArrowRecords:
    """Writes columns of one schema as records; the values are byte for byte those of pyarrow."""

    def __init__(self, schema: pa.Schema, headers: Sequence[Header], step: int) -> None:
        """Prepare what does not depend on the rows.

        Args:
            schema: Its columns are numbers, strings, or lists of a fixed number of numbers, and hold no nulls. The
                first is the offset, int64; the third is the symbol, and the only string.
            headers: Of each record, between the content type and those that name its first and last offset.
            step: Rows a record at most.
        """
        self._plan = _plan(schema, headers)
        self._step = step
        self._symbols = _SymbolTexts()
        self._record_bytes = len(self._plan.text) + 8 * len(self._plan.buffer_B3) + _FRAME_BYTES
        self._row_bytes = 4 + int(self._plan.buffer_B3[:, 1].sum())

    def record_batches(self, columns: tuple[npt.NDArray[Any], ...], symbols: Sequence[str]) -> list[RecordBatch]:
        """Return batches of at most BATCH_BYTES, unless one record alone has more, in order; no rows, no batch.

        Args:
            columns: Contiguous, of N rows and the types of the schema; int32 indices into ``symbols`` for the symbol.
            symbols: The table of symbols, which only grows from call to call.
        """
        texts = self._symbols.follow(symbols)
        made: list[RecordBatch] = []
        first, rows = 0, len(columns[0])
        while first < rows:
            left = rows - first
            size = min(self._bound(left), max(BATCH_BYTES, self._bound(min(left, self._step))))
            buffer = np.empty(HEADER_BYTES + size + kernel.SLACK, np.uint8)
            first, used, records = kernel.write_records(
                self._plan, texts, columns, first, self._step, BATCH_BYTES, buffer[HEADER_BYTES:]
            )
            made.append(RecordBatch(buffer[: HEADER_BYTES + used], records))
        return made

    def _bound(self, rows: int) -> int:
        """Return what records of ``rows`` may take at most."""
        return -(-rows // self._step) * self._record_bytes + rows * (self._row_bytes + self._symbols.longest)


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


def _plan(schema: pa.Schema, headers: Sequence[Header]) -> kernel.Plan:
    node_K, buffer_B3 = _body(schema)
    head = schema.serialize().to_pybytes()
    one_row = pa.RecordBatch.from_arrays([pa.nulls(1, field.type) for field in schema], schema=schema)
    message, places = _message(one_row.serialize().to_pybytes())
    all_headers = [("content-type", CONTENT_TYPE), *headers]
    front = varint(len(all_headers) + 2)
    front += b"".join(part for name, content in all_headers for part in (*sized(name.encode()), *sized(content)))
    front += b"".join(sized(FROM_HEADER.encode()))
    texts = [head, message, front, b"".join(sized(TO_HEADER.encode()))]
    bounds = np.cumsum([len(text) for text in texts])
    text = np.frombuffer(bytearray(b"".join(texts)), np.uint8)
    return kernel.Plan(text, np.array([*bounds, *places]), node_K, buffer_B3)


def _body(schema: pa.Schema) -> tuple[Int64, Int64]:
    """Return the nodes and buffers that Arrow's format gives to the columns."""
    nodes: list[int] = []
    buffers: list[tuple[int, int, int]] = []
    for source, field in enumerate(schema):
        nodes.append(1)
        buffers.append((Fill.NOTHING, 0, source))
        if pa.types.is_string(field.type):
            buffers += [(Fill.ENDS, 0, source), (Fill.TEXTS, 0, source)]
        elif pa.types.is_fixed_size_list(field.type):
            width = field.type.list_size * field.type.value_type.bit_width // 8
            nodes.append(field.type.list_size)
            buffers += [(Fill.NOTHING, 0, source), (Fill.COLUMN, width, source)]
        else:
            buffers.append((Fill.COLUMN, field.type.bit_width // 8, source))
    return np.array(nodes), np.array(buffers)


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
