"""Predictions on demand: the same steps, and so the same numbers, as on the stream.

Shapes: N rows, T rows of a window, F features.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from api.errors import NotServingError
from api.parts import Parts
from data_io.topics import predictions as predictions_topic
from ml_core.errors import InputError, nearest
from ml_core.types import Bool, Float32, RowBatch
from model_ops_manager.champion import Serving
from model_ops_manager.scoring import score

Record = dict[str, Any]
Values = Sequence[float | None]


def serving_of(parts: Parts, pipeline: str) -> Serving:
    """Return the model that answers for ``pipeline``.

    Raises:
        NotServingError: There is none yet. A retry is safe.
    """
    follower = parts.followers[pipeline]
    serving = follower.current
    if serving is None:
        raise NotServingError(f"no model of {pipeline!r} serves: {follower.problem or 'none is champion yet'}")
    return serving


def for_symbol(parts: Parts, pipeline: str, symbol: str) -> Record:
    """Return the prediction for the newest row of ``symbol``, as it stands or would stand on the topic.

    Raises:
        NotServingError: No model serves, or the window cannot be known yet. A retry is safe.
        KafkaUnavailableError: The newest rows are not at hand. A retry is safe.
        SymbolNotFoundError: No row of it was seen.
    """
    serving, spec = serving_of(parts, pipeline), parts.pipelines[pipeline]
    followed = parts.rows[spec.feature_set]
    newest = followed.newest(symbol, spec.features.window)
    if not newest.sure and not newest.row.flags_N[0]:
        raise NotServingError(
            f"the window of {spec.features.window} rows is not whole here: reading began too late for this symbol. "
            "Retry when it has more rows, or raise TICKWISE_ROWS_READ_BACK"
        )
    ready_1 = np.array([newest.ready])
    return _records(newest.row, newest.x_1TF, ready_1, serving, pipeline, followed.topic_id, newest.partition)[0]


def for_features(parts: Parts, pipeline: str, features: Mapping[str, float | None]) -> Record:
    """Return the prediction for the values of one row; a missing value is null.

    Raises:
        InputError: Names are missing or unknown, or the model looks at several rows. A retry will not help.
        NotServingError: No model serves. A retry is safe.
    """
    contract = serving_of(parts, pipeline).scorer.contract
    if contract.window > 1:
        raise InputError(f"{pipeline!r} looks at {contract.window} rows; send `rows`, oldest first")
    unknown = [name for name in features if name not in contract.features]
    if unknown:
        raise InputError(f"unknown feature {unknown[0][:64]!r}{nearest(unknown[0][:64], contract.features)}")
    missing = [name for name in contract.features if name not in features]
    if missing:
        raise InputError(f"features are missing (null where undefined): {', '.join(missing)}")
    return for_rows(parts, pipeline, [[features[name] for name in contract.features]])[0]


def for_rows(parts: Parts, pipeline: str, rows: Sequence[Values]) -> list[Record]:
    """Return one prediction for each of ``rows``, consecutive rows of one symbol, oldest first.

    As on the stream a row abstains until the window is full.

    Raises:
        InputError: A row has another number of values than the model has features. A retry will not help.
        NotServingError: No model serves. A retry is safe.
    """
    serving = serving_of(parts, pipeline)
    contract = serving.scorer.contract
    for place, row in enumerate(rows):
        if len(row) != len(contract.features):
            raise InputError(
                f"rows/{place} has {len(row)} values and needs {len(contract.features)}: {', '.join(contract.features)}"
            )
    x_NF = np.array(rows, dtype=np.float32)  # None becomes NaN: undefined, as in the rows on Kafka
    x_NTF, ready_N = _windows(x_NF, contract.window)
    records = _records(_nameless(x_NF), x_NTF, ready_N, serving, pipeline, "", 0)
    return [{**record, "id": None, "symbol": None, "ts": None} for record in records]


def _records(
    rows: RowBatch, x_NTF: Float32, ready_N: Bool, serving: Serving, pipeline: str, topic_id: str, partition: int
) -> list[Record]:
    """Return what the stream's encoder writes, read back: the same fields and the same numbers."""
    encoded = predictions_topic.encode(
        score(rows, x_NTF, ready_N, serving.scorer),
        topic_id=topic_id,
        partition=partition,
        horizons_ns=serving.scorer.contract.horizons_ns,
        model=pipeline,
        version=serving.version.version,
    )
    return [json.loads(value) for _, value in encoded]


def _windows(x_NF: Float32, window: int) -> tuple[Float32, Bool]:
    """Return the window that ends at each row, and whether it is whole; a broken one repeats the first row."""
    at_NT = np.arange(len(x_NF))[:, None] + np.arange(1 - window, 1)
    return x_NF[np.maximum(at_NT, 0)], at_NT[:, 0] >= 0


def _nameless(x_NF: Float32) -> RowBatch:
    count = len(x_NF)
    return RowBatch(
        offset_N=np.zeros(count, np.int64),
        index_N=np.arange(count, dtype=np.int32),
        symbol_N=np.zeros(count, np.int32),
        ts_ns_N=np.zeros(count, np.int64),
        mid_N=np.full(count, np.nan),
        spread_N=np.full(count, np.nan),
        x_NF=x_NF,
        flags_N=np.zeros(count, np.uint8),
        symbols=[""],
    )
