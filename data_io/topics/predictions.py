"""The topic ``predictions.<pipeline>.v1``: one JSON record a feature row, named after its tick."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_io.topics.admin import TopicSpec, log_topic
from ml_core.spec import format_duration
from ml_core.types import Bool, Float32, Int32, Int64, RowFlag, UInt8


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


def encode(
    batch: PredictionBatch, *, topic_id: str, partition: int, horizons_ns: Sequence[int], model: str, version: int
) -> list[tuple[bytes, bytes]]:
    """Return key and JSON value of one record a row, in order.

    A score is the shortest decimal that reads back as the same float32. A row with a flag, without a filled window, or
    with a score that is no finite number is ``abstained``: its score is null and ``reason`` says why.

    Args:
        batch: What to write.
        topic_id: Of the topic of ticks.
        partition: Of the ticks and of the predictions.
        horizons_ns: H durations; the first is the one of ``score``, several are all in ``scores``.
        model: Name of the model that scored.
        version: Of that model.
    """
    state_N = _states(batch)
    used, place_N = np.unique(batch.symbol_N, return_inverse=True)
    symbols = [batch.symbols[i] for i in used.tolist()]
    names = [format_duration(horizon) for horizon in horizons_ns]
    scores = [_texts(batch.score_NH[:, h], state_N != 0) for h in range(len(names))]
    parts: list[Any] = [f'{{"id":{json.dumps(f"{topic_id}-{partition}-")[:-1]}', batch.offset_N, "-", batch.index_N]
    parts += ['","symbol":', _take([json.dumps(symbol, ensure_ascii=False) for symbol in symbols], place_N)]
    parts += [',"ts":', batch.ts_ns_N, f',"horizon":"{names[0]}","score":', scores[0]]
    if len(names) > 1:
        for opening, name, score in zip([',"scores":{', *[","] * (len(names) - 1)], names, scores, strict=True):
            parts += [f'{opening}"{name}":', score]
        parts.append("}")
    about = f',"model":{json.dumps(model)},"version":{version},"status":'
    endings = [f'{about}"abstained","reason":"{reason}"}}' for reason in _STATES]
    endings[0] = f'{about}"ok","reason":null}}'
    parts.append(_take(endings, state_N))
    texts = pc.binary_join_element_wise(*(_strings(part) for part in parts), "")
    keys = [symbol.encode() for symbol in symbols]
    return list(zip([keys[i] for i in place_N.tolist()], texts.cast(pa.binary()).to_pylist(), strict=True))


def _states(batch: PredictionBatch) -> npt.NDArray[np.intp]:
    """Return for each row its index in ``_STATES``."""
    conditions = [(batch.flags_N & flag) != 0 for flag in _REASONS]
    conditions += [~batch.window_ok_N, ~np.isfinite(batch.score_NH).all(axis=1)]
    return np.select(conditions, range(1, len(_STATES)), 0)


def _texts(score_N: Float32, abstained_N: Bool) -> pa.Array:
    scores = pa.array(np.ascontiguousarray(score_N, np.float32), mask=abstained_N)
    texts = scores.cast(pa.string()).fill_null("null")
    return pc.if_else(pc.equal(texts, "-0"), "-0.0", texts)  # "-0" is an integer to many readers and loses its sign


def _take(texts: list[str], place_N: npt.NDArray[np.intp]) -> pa.Array:
    return pa.array(texts, pa.string()).take(pa.array(place_N))


def _strings(part: object) -> object:
    return pa.array(part).cast(pa.string()) if isinstance(part, np.ndarray) else part
