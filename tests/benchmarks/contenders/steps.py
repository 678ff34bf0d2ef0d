"""What the contenders on aiokafka do with ticks besides moving them: one at a time, or many at once.

They share with tickwise the feature kernel and the model file, nothing else. Shapes: N ticks, R rows, F features.
"""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort
import pyarrow as pa

from ml_core.data_processor import features, kernels
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.kernel_tables import TICK_DTYPES, Rows, Scratch, Ticks
from ml_core.spec import load
from ml_core.types import Float32, RowFlag, SymbolTable, TickBatch, TickKind, UInt8

PIPELINE = Path(__file__).parents[1] / "pipeline.toml"
COMMIT_S = 5.0
# Why a row has no score. Of several reasons the first is given.
REASONS = {
    RowFlag.NO_PRICE: "no_price",
    RowFlag.WARM_UP: "warm_up",
    RowFlag.GAP: "gap",
    RowFlag.STALE: "stale",
    RowFlag.AHEAD: "ahead",
}
_ABSTAIN = sum(REASONS)
_KINDS = {"trade": int(TickKind.TRADE), "quote": int(TickKind.QUOTE)}
_SIDES = {"buy": 1, "sell": -1, 1: 1, -1: -1, 0: 0, None: 0}
_NAN = float("nan")
_END = b',"model":"bench","version":1,"status":"%b","reason":%b}'
_ENDS = (_END % (b"ok", b"null"), *(_END % (b"abstained", b'"%b"' % text.encode()) for text in REASONS.values()))


class Task(NamedTuple):
    """The command line of a contender."""

    bootstrap: str
    ticks_topic: str
    topic_id: str
    out_topic: str
    group: str
    model: str
    partitions: str
    form: str


class Tick(msgspec.Struct, gc=False):
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


def new_state() -> FeatureState:
    """Return the state of a partition that has seen nothing."""
    return FeatureState(FeaturePlan.from_spec(load(PIPELINE)), SymbolTable())


def warm_up() -> None:
    """Compile the kernel, or read it from its cache; keep the collector from walking what was imported."""
    features.warm_up()
    gc.collect()
    gc.freeze()


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

    def __call__(self, state: FeatureState, tick: Any) -> tuple[float | None, str | None]:
        """Return score, and the reason where there is none, of a tick with the fields of `Tick`; move the state."""
        fields = (
            _KINDS[tick.type], state.symbols.add(tick.symbol), tick.ts, tick.price, tick.size, _SIDES[tick.side],
            tick.bid, tick.ask, tick.bid_size, tick.ask_size, tick.seq,
        )  # fmt: skip
        for column, value in zip(self._tick, fields, strict=True):
            column[0] = value
        row = self._row
        kernels.run(self._tick, self._program, state.memory(), row, self._scratch)
        flags = int(row.flags_N[0])
        if flags & _ABSTAIN:
            return None, next(text for flag, text in REASONS.items() if flags & flag)
        # by way of its text, because the shortest decimal of a float32 is not that of the equal float64
        return float(str(self._model.score(row.x_NF)[0])), None


class ManyTicks:
    """Many ticks of one partition at once: a call a stage, and in Python as little a tick as JSON text allows."""

    def __init__(self, model: Model, topic_id: str, partition: int) -> None:
        self._model, self._state = model, new_state()
        self._decode = msgspec.json.Decoder(list[Tick]).decode
        self._line = b'{"id":"%b-%d-%%d%%b%%d,"horizon":"10s","score":%%b%%b' % (topic_id.encode(), partition)
        self._keys: list[bytes] = []  # by symbol
        self._names: list[bytes] = []  # by symbol: what stands between offset and time

    def __call__(self, offsets: Sequence[int], values: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return key and value of each prediction, in order, and move the state over the ticks."""
        rows = features.step(self._columns(offsets, values), self._state)
        symbols, keys, names = rows.symbol_N.tolist(), self._keys, self._names
        parts = zip(
            rows.offset_N.tolist(), [names[i] for i in symbols], rows.ts_ns_N.tolist(),
            self._texts(rows.x_NF, rows.flags_N), self._ends(rows.flags_N), strict=True,
        )  # fmt: skip
        line = self._line
        return list(zip([keys[i] for i in symbols], [line % part for part in parts], strict=True))

    def _columns(self, offsets: Sequence[int], values: Sequence[bytes]) -> TickBatch:
        ticks = self._decode(b"[" + b",".join(values) + b"]")
        n, symbols = len(ticks), self._state.symbols
        kind, symbol, ts, price, size, side, bid, ask, bid_size, ask_size, seq = zip(
            *map(msgspec.structs.astuple, ticks), strict=True
        )
        for name in set(symbol).difference(symbols.index):
            symbols.add(name)
            self._keys.append(name.encode())
            self._names.append(b'-0","symbol":%b,"ts":' % json.dumps(name, ensure_ascii=False).encode())
        return TickBatch(
            offset_N=np.fromiter(offsets, np.int64, n),
            index_N=np.zeros(n, np.int32),
            kind_N=np.fromiter(map(_KINDS.__getitem__, kind), np.int8, n),
            symbol_N=np.fromiter(map(symbols.index.__getitem__, symbol), np.int32, n),
            ts_ns_N=np.fromiter(ts, np.int64, n),
            price_N=np.fromiter(price, np.float64, n),
            size_N=np.fromiter(size, np.float64, n),
            side_N=np.fromiter(map(_SIDES.__getitem__, side), np.int8, n),
            bid_N=np.fromiter(bid, np.float64, n),
            ask_N=np.fromiter(ask, np.float64, n),
            bid_size_N=np.fromiter(bid_size, np.float64, n),
            ask_size_N=np.fromiter(ask_size, np.float64, n),
            seq_N=np.fromiter(seq, np.int64, n),
            symbols=symbols.names,
        )

    def _texts(self, x_RF: Float32, flags_R: UInt8) -> list[bytes]:
        """Return the scores as the shortest decimals of a float32, null where there is none."""
        left_out_R = (flags_R & _ABSTAIN) != 0
        score_R = np.zeros(len(x_RF), np.float32)
        if not left_out_R.any():
            score_R = self._model.score(x_RF)
        elif not left_out_R.all():
            score_R[~left_out_R] = self._model.score(x_RF[~left_out_R])
        texts = pa.array(np.ascontiguousarray(score_R), mask=left_out_R).cast(pa.string()).fill_null("null")
        found: list[bytes] = texts.cast(pa.binary()).to_pylist()
        return found

    @staticmethod
    def _ends(flags_R: UInt8) -> list[bytes]:
        """Return the end of each record: whether the row was scored, and if not, why."""
        if not (flags_R & _ABSTAIN).any():
            return [_ENDS[0]] * len(flags_R)
        state_R = np.select([(flags_R & flag) != 0 for flag in REASONS], range(1, len(_ENDS)), 0)
        return [_ENDS[state] for state in state_R.tolist()]
