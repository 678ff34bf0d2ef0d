"""What the contenders in Python do with ticks besides moving them: one at a time, or many at once.

They share with tickwise the feature kernel and the model file, nothing else. Shapes: N ticks, R rows.
"""

import gc
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort
import orjson

from ml_core.data_processor import features, kernels
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.kernel_tables import TICK_DTYPES, Rows, Scratch, Ticks
from ml_core.spec import load
from ml_core.types import Float32, Int64, RowFlag, SymbolTable, TickBatch, TickKind, UInt8

PIPELINE = Path(__file__).parents[1] / "pipeline.toml"
COMMIT_S = 5.0
# Why a row has no score; of several reasons the first is given. Integers, because `RowFlag` takes 1 us for an "and".
_REASONS = {
    int(RowFlag.NO_PRICE): "no_price",
    int(RowFlag.WARM_UP): "warm_up",
    int(RowFlag.GAP): "gap",
    int(RowFlag.STALE): "stale",
    int(RowFlag.AHEAD): "ahead",
}
_ABSTAIN = sum(_REASONS)
_KINDS = {"trade": int(TickKind.TRADE), "quote": int(TickKind.QUOTE)}
_SIDES = {"buy": 1, "sell": -1, 1: 1, -1: -1, 0: 0, None: 0}
_NAN = float("nan")

_END = b',"model":"bench","version":1,"status":"%b","reason":%b}'
_ENDS = (_END % (b"ok", b"null"), *(_END % (b"abstained", b'"%b"' % text.encode()) for text in _REASONS.values()))


class Task(NamedTuple):
    """The command line of a contender."""

    bootstrap: str
    ticks_topic: str
    topic_id: str
    out_topic: str
    group: str
    model: str
    partitions: str
    form: str = "best"
    aim: str = "throughput"

    @property
    def is_quick(self) -> bool:
        """True where each tick is to be answered as soon as can be; else as many as can be a second."""
        return self.aim == "latency"


def warm_up() -> None:
    """Compile the kernel, or read it from its cache; keep the collector from walking what was imported."""
    features.warm_up()
    gc.collect()
    gc.freeze()


class Model:
    """The ONNX model on one thread."""

    def __init__(self, file: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def score(self, x_RF: Float32) -> Float32:
        """Return the score of each row."""
        score_R: Float32 = self._session.run(None, {self._input: x_RF[:, None, :]})[0][:, 0]
        return score_R

    def score_wanted(self, x_RF: Float32, flags_R: UInt8) -> Float32:
        """Return the score of each row, NaN where it is to be abstained from."""
        wanted_R = (flags_R & _ABSTAIN) == 0
        if wanted_R.all():
            return self.score(x_RF)
        score_R = np.full(len(x_RF), np.nan, np.float32)
        if wanted_R.any():
            score_R[wanted_R] = self.score(x_RF[wanted_R])
        return score_R


@dataclass
class Partition:
    """What is known of one partition of ticks; it can be pickled."""

    number: int
    features: FeatureState = field(
        default_factory=lambda: FeatureState(FeaturePlan.from_spec(load(PIPELINE)), SymbolTable())
    )
    keys: list[bytes] = field(default_factory=list)  # of the records to produce, by symbol
    names: list[bytes] = field(default_factory=list)  # the middle of their values, by symbol

    def learn(self) -> None:
        """Prepare what is written about symbols that are new."""
        for symbol in self.features.symbols.names[len(self.keys) :]:
            self.keys.append(symbol.encode())
            self.names.append(b'-0","symbol":%b,"ts":' % json.dumps(symbol, ensure_ascii=False).encode())


def tune_collector() -> None:
    """Let the collector of cycles rest: a batch holds thousands of objects for a moment and makes no cycle."""
    gc.set_threshold(1_000_000)


class OneTick:
    """One tick at a time: a call of the kernel and a call of the model each, no array allocated."""

    def __init__(self, model: Model) -> None:
        self._model = model
        plan = FeaturePlan.from_spec(load(PIPELINE))
        self._program = plan.compiled.program
        self._tick = Ticks(*(np.zeros(1, dtype) for _, dtype in TICK_DTYPES))
        self._scratch = Scratch(np.empty(len(self._program.rate_D)), np.empty(kernels.IMPULSES))
        self._row = Rows(
            x_NF=np.empty((1, len(plan.names)), np.float32),
            mid_N=np.empty(1),
            spread_N=np.empty(1),
            flags_N=np.empty(1, np.uint8),
            tick_N=np.empty(1, np.int64),
            lag_N=np.zeros(1, np.int64),
        )

    def __call__(  # noqa: PLR0917 - the columns of a tick; a tuple of them would be made anew for each
        self, state: FeatureState, kind: str, symbol: str, ts: int, price: float, size: float, side: str | int | None,
        bid: float, ask: float, bid_size: float, ask_size: float, seq: int,
    ) -> tuple[float | None, str | None]:  # fmt: skip
        """Return the score of a tick, and the reason where there is none; move the state over it."""
        fields = (
            _KINDS[kind], state.symbols.add(symbol), ts, price, size, _SIDES[side],
            bid, ask, bid_size, ask_size, seq,
        )  # fmt: skip
        for column, value in zip(self._tick, fields, strict=True):
            column[0] = value
        row = self._row
        kernels.run(self._tick, self._program, state.memory(), row, self._scratch)
        flags = int(row.flags_N[0])
        if flags & _ABSTAIN:
            return None, next(text for flag, text in _REASONS.items() if flags & flag)
        # by way of its text, because the shortest decimal of a float32 is not that of the equal float64
        return float(str(self._model.score(row.x_NF)[0])), None


class OneDict:
    """`OneTick` for a tick as it came out of JSON, and a prediction that goes there."""

    def __init__(self, topic_id: str, model: Model) -> None:
        self._topic_id, self._step = topic_id, OneTick(model)

    def __call__(self, partition: Partition, offset: int, tick: dict[str, Any]) -> dict[str, Any]:
        """Return the prediction, and move the state over the tick."""
        score, reason = self._step(
            partition.features, tick["type"], tick["symbol"], tick["ts"],
            tick.get("price", _NAN), tick.get("size", _NAN), tick.get("side"),
            tick.get("bid", _NAN), tick.get("ask", _NAN), tick.get("bid_size", _NAN), tick.get("ask_size", _NAN),
            tick.get("seq", -1),
        )  # fmt: skip
        return {
            "id": f"{self._topic_id}-{partition.number}-{offset}-0",
            "symbol": tick["symbol"],
            "ts": tick["ts"],
            "horizon": "10s",
            "score": score,
            "model": "bench",
            "version": 1,
            "status": "abstained" if reason else "ok",
            "reason": reason,
        }


class _Tick(msgspec.Struct, gc=False):
    """A trade or a quote; one flat type decodes faster than a union of two."""

    type: Literal["trade", "quote"]
    symbol: str
    ts: int
    price: float = _NAN
    size: float = _NAN
    side: Literal["buy", "sell", 1, -1, 0, None] = None
    bid: float = _NAN
    ask: float = _NAN
    bid_size: float = _NAN
    ask_size: float = _NAN
    seq: int = -1


_decode = msgspec.json.Decoder(list[_Tick]).decode


class Predictions(NamedTuple):
    """Records to produce to one partition, in the order of their ticks."""

    partition: int
    keys: list[bytes]
    values: list[bytes]


class ManyTicks:
    """Many ticks of one partition at once: each stage is one call; Python runs a few comprehensions a tick, no more."""

    def __init__(self, topic_id: str, model: Model) -> None:
        self._topic_id, self._model = topic_id.encode(), model

    def __call__(self, partition: Partition, offsets: Sequence[int], values: Sequence[bytes]) -> Predictions:
        """Return the predictions for JSON ticks, and move the state over them."""
        rows = features.step(decode(offsets, values, partition.features.symbols), partition.features)
        partition.learn()
        keys, names, symbols = partition.keys, partition.names, rows.symbol_N.tolist()
        opening = b'{"id":"%b-%d-' % (self._topic_id, partition.number)
        columns = zip(
            _texts(rows.offset_N), [names[i] for i in symbols], _texts(rows.ts_ns_N),
            _texts(self._model.score_wanted(rows.x_NF, rows.flags_N)), _ends(rows.flags_N), strict=True,
        )  # fmt: skip
        join, scored = b"".join, b',"horizon":"10s","score":'
        values = [join((opening, offset, name, ts, scored, score, end)) for offset, name, ts, score, end in columns]
        return Predictions(partition.number, [keys[i] for i in symbols], values)


def decode(offsets: Sequence[int], values: Sequence[bytes], symbols: SymbolTable) -> TickBatch:
    """Return JSON ticks as columns; new symbols are added to ``symbols``."""
    ticks = _decode(b"[%b]" % b",".join(values))
    n = len(ticks)
    kind, symbol, ts, price, size, side, bid, ask, bid_size, ask_size, seq = zip(
        *map(msgspec.structs.astuple, ticks), strict=True
    )
    try:
        symbol_N = np.fromiter(map(symbols.index.__getitem__, symbol), np.int32, n)
    except KeyError:
        symbol_N = np.fromiter(map(symbols.add, symbol), np.int32, n)
    # numpy's own conversions of sequences take twice as long as packing them
    floats, integers = struct.Struct(f"{n}d").pack, struct.Struct(f"{n}q").pack
    return TickBatch(
        offset_N=np.array(offsets, np.int64),
        index_N=np.zeros(n, np.int32),
        kind_N=np.fromiter(map(_KINDS.__getitem__, kind), np.int8, n),
        symbol_N=symbol_N,
        ts_ns_N=np.frombuffer(integers(*ts), np.int64),
        price_N=np.frombuffer(floats(*price)),
        size_N=np.frombuffer(floats(*size)),
        side_N=np.fromiter(map(_SIDES.__getitem__, side), np.int8, n),
        bid_N=np.frombuffer(floats(*bid)),
        ask_N=np.frombuffer(floats(*ask)),
        bid_size_N=np.frombuffer(floats(*bid_size)),
        ask_size_N=np.frombuffer(floats(*ask_size)),
        seq_N=np.frombuffer(integers(*seq), np.int64),
        symbols=symbols.names,
    )


def _texts(values_R: Int64 | Float32) -> list[bytes]:
    """Return each number as JSON: the shortest decimal that reads back equal, null for NaN."""
    return orjson.dumps(values_R, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _ends(flags_R: UInt8) -> Iterable[bytes]:
    """Return the end of each record: whether the row was scored, and if not, why."""
    if not (flags_R & _ABSTAIN).any():
        return repeat(_ENDS[0], len(flags_R))
    state_R = np.select([(flags_R & flag) != 0 for flag in _REASONS], range(1, len(_ENDS)), 0)
    return [_ENDS[state] for state in state_R.tolist()]
