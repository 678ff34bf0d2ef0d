"""Predictions on demand: the same steps, and so the same numbers, as on the stream.

Shapes: N rows, T rows of a window, F features.
"""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from api.errors import NotServingError
from api.latest_rows import LatestRows
from api.metrics import Metrics
from api.questions import Question
from api.row_table import Newest
from data_io.topics.predictions import PredictionEncoder
from ml_core.errors import InputError, TickwiseError, nearest
from ml_core.spec import PipelineSpec
from ml_core.types import Bool, Float32, RowBatch
from model_ops_manager.champion import ChampionFollower, Serving
from model_ops_manager.scoring import Unscored, score

Values = Sequence[float | None]

BATCH_ROWS = 4096
BATCH_VALUES = 2**20  # of float32, 4 MB: what the windows of one batch may take
_NAMELESS = b'{"id":null,"symbol":null,"ts":null,"feature_age_s":null'  # how an answer for given values begins
_HORIZON = b',"horizon":'  # what stands behind name, symbol and time in a record
# The end of the record of a scored row. Neither it nor a beginning can stand inside a string: there quotes are escaped.
_OK = b'"status":"ok","reason":null}'


class Asked(NamedTuple):
    """A question that fits its pipeline."""

    symbol: str | None  # None: the rows are given
    rows: Sequence[Values]  # values in the order of the model's features; empty where a symbol is named
    is_list: bool  # the answer is a list


class _Stretch(NamedTuple):
    """Rows to be scored, with their windows."""

    rows: RowBatch
    x_NTF: Float32
    ready_N: Bool


class Answerer:
    """Answers questions about one pipeline, several at once; safe from any thread."""

    def __init__(self, spec: PipelineSpec, follower: ChampionFollower, followed: LatestRows, metrics: Metrics) -> None:
        """Answer with the model of ``follower`` and the newest rows of ``followed``."""
        self.spec, self.follower, self.followed = spec, follower, followed
        self._counts = metrics.predictions
        self._nameless: PredictionEncoder | None = None  # of the version that served last

    @property
    def batch_rows(self) -> int:
        """How many rows to score in one call at most."""
        values = self.spec.features.window * len(self.followed.plan.names)
        return min(BATCH_ROWS, max(1, BATCH_VALUES // values))

    def check(self, question: Question) -> Asked:
        """Return ``question`` as ``answer`` takes it.

        Raises:
            InputError: Names or values do not fit the model. A retry will not help.
            NotServingError: No model serves. A retry is safe.
        """
        contract = self._serving().scorer.contract
        if question.features is not None:
            if contract.window > 1:
                raise InputError(f"{self.spec.name!r} looks at {contract.window} rows; send `rows`, oldest first")
            return Asked(None, [_in_order(question.features, contract.features)], is_list=False)
        rows, width = question.rows or (), len(contract.features)
        for place, row in enumerate(rows):
            if len(row) != width:
                raise InputError(
                    f"rows/{place} has {len(row)} values and needs {width}: {', '.join(contract.features)}"
                )
        return Asked(question.symbol, rows, is_list=question.symbol is None)

    def answer(self, asked: Sequence[Asked]) -> list[bytes | Exception]:
        """Return the JSON of each answer, or why there is none. All rows are scored in one call, by one version.

        The answer for a symbol is the record that stands or would stand on the topic, with the age of its row. Given
        rows are consecutive rows of one symbol; as on the stream a row abstains until the window is full.

        Raises:
            NotServingError: No model serves. A retry is safe.
        """
        serving = self._serving()
        answers: list[bytes | Exception] = [b""] * len(asked)
        given = [place for place, each in enumerate(asked) if each.symbol is None]
        if given:
            stretch = _given([asked[place].rows for place in given], self.spec.features.window)
            if self._nameless is None or self._nameless.version != serving.version.version:
                self._nameless = self._encoder(serving, "", 0)
            records, end = self._records(stretch, serving, self._nameless), 0
            beginning = records[0].partition(_HORIZON)[0]  # the same of all: no place, no symbol, no time
            for place in given:
                start, end = end, end + len(asked[place].rows)
                found = b",".join(records[start:end]).replace(beginning, _NAMELESS)
                answers[place] = b'{"predictions":[%b]}' % found if asked[place].is_list else found
        for (topic_id, partition), newest_of in self._by_partition(asked, answers).items():
            encoder = self._encoder(serving, topic_id, partition)
            named = self._records(_named(newest_of.values()), serving, encoder)
            now_ns = time.time_ns()
            for record, (place, newest) in zip(named, newest_of.items(), strict=True):
                age_s = (now_ns - int(newest.row.ts_ns_N[0])) / 1e9
                answers[place] = b'%b,"feature_age_s":%b}' % (record[:-1], repr(age_s).encode())
        return answers

    def _serving(self) -> Serving:
        serving = self.follower.current
        if serving is None:
            problem = self.follower.problem or "none is champion yet"
            raise NotServingError(f"no model of {self.spec.name!r} serves: {problem}")
        return serving

    def _by_partition(
        self, asked: Sequence[Asked], answers: list[bytes | Exception]
    ) -> dict[tuple[str, int], dict[int, Newest]]:
        """Return the rows of the symbols asked for, by topic id and partition, then place; put the errors in place."""
        found: dict[tuple[str, int], dict[int, Newest]] = {}
        for place, each in enumerate(asked):
            if each.symbol is not None:
                try:
                    newest = self._newest(each.symbol)
                except TickwiseError as error:
                    answers[place] = error
                else:
                    found.setdefault((self.followed.topic_id, newest.partition), {})[place] = newest
        return found

    def _newest(self, symbol: str) -> Newest:
        """Return the newest row of ``symbol``.

        Raises:
            NotServingError: Its window cannot be known yet. A retry is safe.
            KafkaUnavailableError: The newest rows are not at hand. A retry is safe.
            SymbolNotFoundError: No row of it was seen.
        """
        newest = self.followed.newest(symbol, self.spec.features.window)
        if not newest.sure and not newest.row.flags_N[0]:
            raise NotServingError(
                f"the window of {self.spec.features.window} rows is not whole here: reading began too late for this "
                "symbol. Retry when it has more rows, or raise TICKWISE_ROWS_READ_BACK"
            )
        return newest

    def _encoder(self, serving: Serving, topic_id: str, partition: int) -> PredictionEncoder:
        return PredictionEncoder(
            topic_id=topic_id,
            partition=partition,
            horizons_ns=serving.scorer.contract.horizons_ns,
            model=self.spec.name,
            version=serving.version.version,
        )

    def _records(self, stretch: _Stretch, serving: Serving, encoder: PredictionEncoder) -> list[bytes]:
        """Return what the stream's encoder writes of each row, and count it."""
        [predictions] = score([Unscored(stretch.rows, stretch.x_NTF, stretch.ready_N)], serving.scorer)
        records = [value for _, value in encoder.values(predictions)]
        scored = b"".join(records).count(_OK)
        for status, count in (("ok", scored), ("abstained", len(records) - scored)):
            if count:
                self._counts.labels(self.spec.name, status).inc(count)
        return records


def _in_order(features: dict[str, float | None], names: Sequence[str]) -> Values:
    if len(features) == len(names):
        try:
            return [features[name] for name in names]
        except KeyError:
            pass  # told below
    for name in features:
        if name not in names:
            raise InputError(f"unknown feature {name[:64]!r}{nearest(name[:64], names)}")
    missing = [name for name in names if name not in features]
    raise InputError(f"features are missing (null where undefined): {', '.join(missing)}")


def _given(rows_of: Sequence[Sequence[Values]], window: int) -> _Stretch:
    """Return the rows of several questions with windows within each; one that is not whole holds anything."""
    # None becomes NaN: undefined, as in the rows on Kafka
    x_NF = np.array([row for rows in rows_of for row in rows], dtype=np.float32)
    count_Q = np.array([len(rows) for rows in rows_of])
    first_N = np.repeat(np.cumsum(count_Q) - count_Q, count_Q)
    at_NT = np.arange(len(x_NF))[:, None] + np.arange(1 - window, 1)
    x_NTF = x_NF[np.maximum(at_NT, 0)]
    return _Stretch(_nameless(x_NF), x_NTF, at_NT[:, 0] >= first_N)


def _nameless(x_NF: Float32) -> RowBatch:
    count = len(x_NF)
    return RowBatch(
        offset_N=np.zeros(count, np.int64),
        index_N=np.zeros(count, np.int32),
        symbol_N=np.zeros(count, np.int32),
        ts_ns_N=np.zeros(count, np.int64),
        mid_N=np.full(count, np.nan),
        spread_N=np.full(count, np.nan),
        x_NF=x_NF,
        flags_N=np.zeros(count, np.uint8),
        symbols=[""],
    )


def _named(found: Iterable[Newest]) -> _Stretch:
    """Return the newest rows of several symbols of one partition."""
    newest = list(found)
    rows = [each.row for each in newest]
    columns = {
        name: np.concatenate([getattr(row, name) for row in rows]) for name in RowBatch._fields if name != "symbols"
    }
    columns["symbol_N"] = np.arange(len(rows), dtype=np.int32)
    joined = RowBatch(**columns, symbols=[row.symbols[row.symbol_N[0]] for row in rows])
    x_NTF = np.concatenate([each.x_1TF for each in newest])
    return _Stretch(joined, x_NTF, np.array([each.ready for each in newest]))
