"""The topic ``predictions.<pipeline>.v1``: one JSON record a feature row, named after its tick."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_io.topics import prediction_kernel as kernel
from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.record_batch import BATCH_BYTES, HEADER_BYTES, RecordBatch
from ml_core.spec import format_duration
from ml_core.types import Bool, Float32, Int32, Int64, RowFlag, UInt8, as_compiled


def name(pipeline: str) -> str:
    """Return the topic of the predictions of ``pipeline``.

    >>> name("demo")
    'predictions.demo.v1'
    """
    return f"predictions.{pipeline}.v1"


def topic_spec(pipeline: str, partitions: int) -> TopicSpec:
    """Return the topic of the predictions of ``pipeline``: as many partitions as the ticks have."""
    return log_topic(name(pipeline), partitions)


def row_id(topic_id: str, partition: int, offset: int, index: int) -> str:
    """Return the name of a row, and so of its prediction: the place of its tick in the log.

    >>> row_id("NxrSSrYXQSGq5VVnQ1bVIA", 0, 41, 0)
    'NxrSSrYXQSGq5VVnQ1bVIA-0-41-0'
    """
    return f"{topic_id}-{partition}-{offset}-{index}"


class PredictionBatch(NamedTuple):
    """Predictions of one partition in the order of their rows; N rows, H horizons."""

    offset_N: Int64
    index_N: Int32
    symbol_N: Int32
    ts_ns_N: Int64
    score_NH: Float32  # anything where the row was abstained from
    flags_N: UInt8  # RowFlag of the row
    window_ok_N: Bool  # the window of the model is filled
    symbols: Sequence[str]

    def __len__(self) -> int:
        """Return the number of rows, not of fields."""
        return len(self.ts_ns_N)


# Why a row has no score. Of several reasons the first is given: what an operator should look at first.
_REASONS = {
    RowFlag.NO_PRICE: "no_price",
    RowFlag.WARM_UP: "warm_up",
    RowFlag.GAP: "gap",
    RowFlag.STALE: "stale",
    RowFlag.LATE: "late",
}
_STATES = ("ok", *_REASONS.values(), "window", "no_score")
_WINDOW, _NO_SCORE = _STATES.index("window"), _STATES.index("no_score")
# [flags of a row] -> its state, as far as flags decide
_STATE_OF_FLAGS = np.array(
    [next((i for i, flag in enumerate(_REASONS, start=1) if flags & flag), 0) for flags in range(256)], np.uint8
)


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
        pieces = [f'{{"id":{json.dumps(f"{topic_id}-{partition}-")[:-1]}', '","symbol":', ',"ts":']
        pieces.append(f',"horizon":"{names[0]}","score":')
        if len(names) > 1:
            openings = [',"scores":{', *[","] * (len(names) - 1)]
            pieces += [f'{opening}"{name}":' for opening, name in zip(openings, names, strict=True)] + ["}"]
        about = f',"model":{json.dumps(model)},"version":{version},"status":'
        ends = [f'{about}"ok","reason":null}}']
        ends += [f'{about}"abstained","reason":"{reason}"}}' for reason in _STATES[1:]]
        self._pieces = kernel.Pieces(*_text([piece.encode() for piece in pieces + ends]))
        self._symbols = _SymbolTexts()
        # What one value may take at most, beside its symbol.
        self._room = (
            sum(map(len, pieces))
            + max(map(len, ends))
            + 3 * kernel.NUMBER_BYTES
            + (1 + len(names)) * kernel.SCORE_BYTES
        )

    def values(self, batch: PredictionBatch) -> list[tuple[bytes, bytes]]:
        """Return key and JSON value of one record a row, in order."""
        columns, symbols = _columns(batch), self._symbols.follow(batch.symbols)
        end_N = np.empty(len(batch), np.int64)
        buffer = np.empty(len(batch) * self._row_bytes + kernel.SLACK, np.uint8)
        kernel.write_values(columns, self._pieces, symbols, buffer, end_N)
        text, ends = buffer.tobytes(), [0, *end_N.tolist()]
        keys = {i: batch.symbols[i].encode() for i in np.unique(batch.symbol_N).tolist()}
        return [(keys[symbol], text[ends[n] : ends[n + 1]]) for n, symbol in enumerate(batch.symbol_N.tolist())]

    def record_batches(self, batch: PredictionBatch) -> list[RecordBatch]:
        """Return the same as record batches of at most BATCH_BYTES, ready to be sent."""
        columns, symbols = _columns(batch), self._symbols.follow(batch.symbols)
        room = self._row_bytes + kernel.FRAME_BYTES
        made, first, rows = [], 0, len(batch)
        while first < rows:
            size = min((rows - first + 1) * room, BATCH_BYTES)
            buffer = np.empty(HEADER_BYTES + size + kernel.SLACK, np.uint8)
            behind, used = kernel.write_records(
                columns, self._pieces, symbols, first, buffer[HEADER_BYTES:], room + kernel.SLACK
            )
            made.append(RecordBatch(buffer[: HEADER_BYTES + used], behind - first))
            first = behind
        return made

    @property
    def _row_bytes(self) -> int:
        return self._room + self._symbols.longest


class _SymbolTexts:
    """The symbols of a partition as bytes and as JSON strings; follows a table that only grows."""

    def __init__(self) -> None:
        self._arrays = kernel.SymbolTexts(
            *_text([])[:1], np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32)
        )
        self.longest = 0  # bytes of a symbol both ways

    def follow(self, symbols: Sequence[str]) -> kernel.SymbolTexts:
        old, known = self._arrays, len(self._arrays.at_M)
        if known == len(symbols):
            return old
        keys = [symbol.encode() for symbol in symbols[known:]]
        texts = [json.dumps(symbol, ensure_ascii=False).encode() for symbol in symbols[known:]]
        key_len_M = np.concatenate([old.key_len_M, np.array([len(key) for key in keys], np.int32)])
        json_len_M = np.concatenate([old.json_len_M, np.array([len(text) for text in texts], np.int32)])
        length_M = key_len_M + json_len_M
        new = b"".join(part for pair in zip(keys, texts, strict=True) for part in pair) + bytes(kernel.SLACK)
        text = np.concatenate([old.text[: -kernel.SLACK], np.frombuffer(new, np.uint8)])
        at_M = np.cumsum(length_M, dtype=np.int64) - length_M
        self._arrays = kernel.SymbolTexts(text, at_M, key_len_M, json_len_M)
        self.longest = int(length_M.max())
        return self._arrays


def encode(
    batch: PredictionBatch, *, topic_id: str, partition: int, horizons_ns: Sequence[int], model: str, version: int
) -> list[tuple[bytes, bytes]]:
    """Return key and JSON value of one record a row, in order, as a new ``PredictionEncoder`` of the same does."""
    encoder = PredictionEncoder(
        topic_id=topic_id, partition=partition, horizons_ns=horizons_ns, model=model, version=version
    )
    return encoder.values(batch)


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
    """Return the columns as the kernel was compiled for, and the state of each row."""
    score_NH = as_compiled(batch.score_NH, np.float32)
    state_N = _STATE_OF_FLAGS[batch.flags_N]
    is_ok_N = state_N == 0
    if not is_ok_N.all() or not batch.window_ok_N.all():
        state_N[is_ok_N & ~batch.window_ok_N] = _WINDOW
    finite_N = np.isfinite(score_NH).all(axis=1)
    if not finite_N.all():
        state_N[(state_N == 0) & ~finite_N] = _NO_SCORE
    return kernel.Columns(
        offset_N=as_compiled(batch.offset_N, np.int64),
        index_N=as_compiled(batch.index_N, np.int32),
        symbol_N=as_compiled(batch.symbol_N, np.int32),
        ts_ns_N=as_compiled(batch.ts_ns_N, np.int64),
        score_NH=score_NH,
        state_N=state_N,
    )


def _text(parts: Sequence[bytes]) -> tuple[UInt8, Int64]:
    """Return the bytes of ``parts`` with slack behind them, and their bounds."""
    bounds = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return np.frombuffer(bytearray(b"".join(parts) + bytes(kernel.SLACK)), np.uint8), bounds
