"""The topic ``predictions.<pipeline>.v1``: a prediction of each feature row, named after its tick.

A record holds one prediction as JSON or, where the pipeline says so, an Arrow IPC stream of many.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_io.topics import arrow_records, prediction_arrow
from data_io.topics import prediction_kernel as kernel
from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.prediction_arrow import ArrowPredictionEncoder
from data_io.topics.prediction_batch import NO_SCORE, STATE_OF_FLAGS, STATES, WINDOW, PredictionBatch, row_id
from data_io.topics.record_batch import BATCH_BYTES, HEADER_BYTES, VARINTS, RecordBatch
from data_io.topics.records import Header
from ml_core.errors import SchemaMismatchError
from ml_core.spec import format_duration
from ml_core.types import as_compiled

__all__ = [
    "ENCODERS",
    "Encoder",
    "PredictionBatch",
    "PredictionEncoder",
    "decode",
    "encode",
    "name",
    "row_id",
    "topic_spec",
    "warm_up",
]


def name(pipeline: str) -> str:
    """Return the topic of the predictions of ``pipeline``.

    >>> name("demo")
    'predictions.demo.v1'
    """
    return f"predictions.{pipeline}.v1"


def topic_spec(pipeline: str, partitions: int) -> TopicSpec:
    """Return the topic of the predictions of ``pipeline``: as many partitions as the ticks have."""
    return log_topic(name(pipeline), partitions)


def decode(value: bytes | None, headers: Sequence[Header]) -> list[dict[str, Any]]:
    """Return the predictions of one record, JSON or Arrow as its headers say, with the fields that JSON has.

    Raises:
        SchemaMismatchError: The value is no record of this topic. A retry will not help.
    """
    if ("content-type", arrow_records.CONTENT_TYPE) in headers:
        return prediction_arrow.decode(value)
    try:
        return [json.loads(value or b"")]
    except ValueError as error:
        raise SchemaMismatchError(f"the record holds no prediction: {error}") from error


class PredictionEncoder:
    """Writes the predictions of one model for one partition; it keeps what is the same for all of them.

    A score is the shortest decimal that reads back as the same float32. A row with a flag, without a filled window, or
    with a score that is no finite number is ``abstained``: its score is null and ``reason`` says why.
    """

    def __init__(self, *, topic_id: str, partition: int, horizons_ns: Sequence[int], model: str, version: int) -> None:
        """Prepare the parts that do not depend on the row.

        Args:
            topic_id: Of the topic of ticks.
            partition: Of the ticks and of the predictions.
            horizons_ns: H durations; the first is the one of ``score``, several are all in ``scores``.
            model: Name of the model that scored.
            version: Of that model.
        """
        self.version = version
        names = [format_duration(horizon) for horizon in horizons_ns]
        opening = [f'{{"id":{json.dumps(f"{topic_id}-{partition}-")[:-1]}', f',"horizon":"{names[0]}","score":']
        if len(names) > 1:
            openings = [',"scores":{', *[","] * (len(names) - 1)]
            opening += [f'{opening}"{name}":' for opening, name in zip(openings, names, strict=True)] + ["}"]
        about = f',"model":{json.dumps(model)},"version":{version},"status":'
        ends = [f'{about}"ok","reason":null}}']
        ends += [f'{about}"abstained","reason":"{reason}"}}' for reason in STATES[1:]]
        self._row = _pieces([piece.encode() for piece in opening + ends])
        self._symbols = _SymbolTexts()
        # What one record may take at most, beside its symbol.
        self._room = (
            kernel.FRAME_BYTES
            + sum(map(len, opening))
            + max(map(len, ends))
            + 3 * kernel.NUMBER_BYTES
            + (1 + len(names)) * kernel.SCORE_BYTES
        )

    def values(self, batch: PredictionBatch) -> list[tuple[bytes, bytes]]:
        """Return key and JSON value of one record a row, in order."""
        columns, texts = _columns(batch), self._texts(batch)
        end_N = np.empty(len(batch), np.int64)
        buffer = np.empty(len(batch) * self._record_bytes + kernel.SLACK, np.uint8)
        kernel.write_values(columns, texts, buffer, end_N)
        text, ends = buffer.tobytes(), [0, *end_N.tolist()]
        keys = {i: batch.symbols[i].encode() for i in np.unique(batch.symbol_N).tolist()}
        return [(keys[symbol], text[ends[n] : ends[n + 1]]) for n, symbol in enumerate(batch.symbol_N.tolist())]

    def record_batches(self, batch: PredictionBatch) -> list[RecordBatch]:
        """Return the same as record batches of at most BATCH_BYTES, ready to be sent."""
        columns, texts = _columns(batch), self._texts(batch)
        made, first, rows, room = [], 0, len(batch), self._record_bytes
        while first < rows:
            size = min((rows - first + 1) * room, BATCH_BYTES)
            buffer = np.empty(HEADER_BYTES + size + kernel.SLACK, np.uint8)
            behind, end = kernel.write_records(columns, texts, first, buffer, HEADER_BYTES, room)
            made.append(RecordBatch(buffer[:end], behind - first))
            first = behind
        return made

    @property
    def _record_bytes(self) -> int:
        return self._room + self._symbols.longest

    def _texts(self, batch: PredictionBatch) -> kernel.Texts:
        return kernel.Texts(self._row, self._symbols.follow(batch.symbols), STATE_OF_FLAGS, WINDOW, NO_SCORE)


class _SymbolTexts:
    """The symbols of a partition as keys of records and as JSON strings; follows a table that only grows."""

    def __init__(self) -> None:
        self._pieces = _pieces([])
        self.longest = 0  # bytes of both texts of a symbol

    def follow(self, symbols: Sequence[str]) -> kernel.Pieces:
        old, known = self._pieces, len(self._pieces.bound_P) // 2
        if known == len(symbols):
            return old
        new = []
        for symbol in symbols[known:]:
            key, text = symbol.encode(), json.dumps(symbol, ensure_ascii=False)
            new += [VARINTS[len(key)] + key, f'","symbol":{text},"ts":'.encode()]
        added = _pieces(new)
        bound_P = np.concatenate([old.bound_P, added.bound_P[1:] + old.bound_P[-1]])
        self._pieces = kernel.Pieces(np.concatenate([old.text[: -kernel.SLACK], added.text]), bound_P)
        self.longest = int((bound_P[2::2] - bound_P[:-2:2]).max())
        return self._pieces


def encode(
    batch: PredictionBatch, *, topic_id: str, partition: int, horizons_ns: Sequence[int], model: str, version: int
) -> list[tuple[bytes, bytes]]:
    """Return key and JSON value of one record a row, in order, as a new ``PredictionEncoder`` of the same does."""
    encoder = PredictionEncoder(
        topic_id=topic_id, partition=partition, horizons_ns=horizons_ns, model=model, version=version
    )
    return encoder.values(batch)


Encoder = PredictionEncoder | ArrowPredictionEncoder
ENCODERS: dict[str, type[Encoder]] = {"json": PredictionEncoder, "arrow": ArrowPredictionEncoder}


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache, so that the first batch does not wait."""
    one = np.zeros(1, np.int64)
    flags_1, ok_1 = one.astype(np.uint8), one.astype(np.bool_)
    batch = PredictionBatch(
        one, one.astype(np.int32), one.astype(np.int32), one, np.zeros((1, 1), np.float32), flags_1, ok_1, ["A"]
    )
    encoder = PredictionEncoder(topic_id="", partition=0, horizons_ns=[1], model="", version=0)
    encoder.values(batch)
    encoder.record_batches(batch)


def _columns(batch: PredictionBatch) -> kernel.Columns:
    """Return the columns as the kernel was compiled for."""
    return kernel.Columns(
        as_compiled(batch.offset_N, np.int64),
        as_compiled(batch.index_N, np.int32),
        as_compiled(batch.symbol_N, np.int32),
        as_compiled(batch.ts_ns_N, np.int64),
        as_compiled(batch.score_NH, np.float32),
        as_compiled(batch.flags_N, np.uint8),
        as_compiled(batch.window_ok_N, np.bool_),
    )


def _pieces(parts: Sequence[bytes]) -> kernel.Pieces:
    bound_P = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return kernel.Pieces(np.frombuffer(bytearray(b"".join(parts) + bytes(kernel.SLACK)), np.uint8), bound_P)
