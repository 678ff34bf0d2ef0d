"""What every contender's output must be, computed offline in float64, and the check that refuses anything else.

Features and flags are the kernel's, which a plain loop over 10 million ticks would take hours for;
`tests.benchmarks.kernel_check` holds a sample of them against their formulas first. The network is computed here.
Shapes: N ticks of a partition, S symbols, F features.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_io.topics.raw_records import FoundRecords
from ml_core.contract import ModelContract
from ml_core.data_processor import kernels
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.kernel_tables import TICK_DTYPES, UNCOUNTED, Rows, Scratch, Ticks
from ml_core.spec import PipelineSpec, format_duration
from ml_core.types import Float64, Int32, Int64, RowFlag, SymbolTable, UInt8
from model_ops_manager.scoring import ABSTAIN
from tests.benchmarks.workload import Workload

ABSOLUTE, RELATIVE = 1e-5, 1e-4
_CHUNK = 65_536
# Of several reasons the first is given, as data_io.topics.predictions orders them.
_REASONS = (
    (RowFlag.NO_PRICE, "no_price"),
    (RowFlag.WARM_UP, "warm_up"),
    (RowFlag.GAP, "gap"),
    (RowFlag.STALE, "stale"),
    (RowFlag.LATE, "late"),
    (RowFlag.AHEAD, "ahead"),
)


class WrongOutputError(AssertionError):
    """A contender's output is not what it must be; its time does not count."""


class Expected(NamedTuple):
    """What the ticks of one partition become, in their order; a tick is named by offset and index."""

    offset_N: Int64
    index_N: Int64
    ts_ns_N: Int64
    symbol_N: Int32
    reason_N: UInt8  # 0: scored, else place in `reasons` + 1
    score_N: Float64  # NaN where not scored
    symbols: list[str]

    def __len__(self) -> int:
        """Return the number of ticks, not of fields."""
        return len(self.ts_ns_N)


class Prediction(msgspec.Struct, gc=False):
    """A record as the contract of a contender wants it."""

    id: str
    symbol: str
    ts: int
    horizon: str
    score: float | None
    model: str
    version: int
    status: str
    reason: str | None


class Network:
    """The model in float64, from its weights."""

    def __init__(self, folder: Path) -> None:
        """Read what `tests.benchmarks.model` left in ``folder``."""
        contract = ModelContract.model_validate_json((folder / "contract.json").read_bytes())
        self._median_F, self._iqr_F = (np.array(part) for part in (contract.scaler.median, contract.scaler.iqr))
        self._limit = contract.scaler.limit
        with np.load(folder / "weights.npz") as stored:
            names = [name.removesuffix(".weight") for name in stored.files if name.endswith(".weight")]
            self._layers = [(stored[f"{n}.weight"].T.astype(float), stored[f"{n}.bias"].astype(float)) for n in names]
        (self._mean, variance), *_ = contract.prior
        self._deviation = np.sqrt(variance)

    def score(self, x_NF: Float64) -> Float64:
        """Return one score a row."""
        z = np.clip((x_NF - self._median_F) / self._iqr_F, -self._limit, self._limit)
        z = np.where(np.isnan(z), 0.0, z)
        for place, (weight, bias) in enumerate(self._layers, start=1):
            z = z @ weight + bias
            if place < len(self._layers):
                z = np.maximum(z, 0.0)
        scores: Float64 = self._mean + self._deviation * z[:, 0]
        return scores


def expected_of(
    work: Workload, partition: int, passes: int, spec: PipelineSpec, network: Network, rows_a_record: int = 1
) -> Expected:
    """Return what ``passes`` passes of the partition's ticks must become; each pass begins a record."""
    ticks, number_N = work.ticks, work.of_partition(partition)
    symbol_N = np.tile(ticks.symbol_N[number_N], passes)
    ts_ns_N = np.concatenate([ticks.ts_ns_N[number_N] + k * work.span_ns for k in range(passes)])
    flags_N, score_N = np.empty(len(ts_ns_N), np.uint8), np.full(len(ts_ns_N), np.nan)
    at = 0
    for x_NF, flags_n in feature_rows(work, partition, passes, spec):
        flags_N[at : at + len(flags_n)] = flags_n
        scored_N = (flags_n & ABSTAIN) == 0
        score_N[at : at + len(flags_n)][scored_N] = network.score(x_NF[scored_N])
        at += len(flags_n)
    reason_N = np.select([(flags_N & flag) != 0 for flag, _ in _REASONS], range(1, len(_REASONS) + 1), 0)
    score_N[reason_N != 0] = np.nan
    place_N = np.tile(np.arange(len(number_N)), passes)
    record_N = np.repeat(np.arange(passes), len(number_N)) * -(-len(number_N) // rows_a_record)
    return Expected(
        offset_N=record_N + place_N // rows_a_record,
        index_N=place_N % rows_a_record,
        ts_ns_N=ts_ns_N,
        symbol_N=symbol_N,
        reason_N=reason_N.astype(np.uint8),
        score_N=score_N,
        symbols=list(ticks.symbols),
    )


def feature_rows(work: Workload, partition: int, passes: int, spec: PipelineSpec) -> Iterator[tuple[Float64, UInt8]]:
    """Yield features and flags of the partition's ticks in their order, many at once."""
    ticks, number_N = work.ticks, work.of_partition(partition)
    once = {name: np.require(getattr(ticks, name)[number_N], dtype, "CW") for name, dtype in TICK_DTYPES}
    state = FeatureState(FeaturePlan.from_spec(spec), SymbolTable(ticks.symbols))
    for k in range(passes):
        for start in range(0, len(number_N), _CHUNK):
            part = {name: column[start : start + _CHUNK].copy() for name, column in once.items()}
            part["ts_ns_N"] += k * work.span_ns
            yield _rows(state, Ticks(**part))


def _rows(state: FeatureState, ticks: Ticks) -> tuple[Float64, UInt8]:
    """Return features in float64: the kernel computes in it anyway and rounds only where it writes."""
    n, plan = len(ticks.ts_ns_N), state.plan
    rows = Rows(
        x_NF=np.empty((n, len(plan.names))),
        mid_N=np.empty(n),
        spread_N=np.empty(n),
        flags_N=np.empty(n, np.uint8),
        tick_N=np.empty(n, np.int64),
        lag_N=np.full(n, UNCOUNTED),
    )
    program = plan.compiled.program
    scratch = Scratch(np.empty(len(program.rate_D)), np.empty(kernels.IMPULSES))
    count = kernels.run(ticks, program, state.memory(), rows, scratch)
    assert count == n, "every tick of the workload makes a row"
    return rows.x_NF, rows.flags_N


class Judge:
    """Follows the output of one partition, batch by batch."""

    def __init__(self, expected: Expected, *, topic_id: str, partition: int, spec: PipelineSpec) -> None:
        """Expect the predictions of ``expected`` in order, from the first on."""
        self._expected, self._partition = expected, partition
        self._prefix = f"{topic_id}-{partition}-"
        self._decoder = msgspec.json.Decoder(list[Prediction])
        self._constant = (format_duration(spec.label.horizons[0]), spec.name, 1)
        self._key_bytes, self._key_at = _joined([name.encode() for name in expected.symbols])
        self.seen = 0

    def take(self, found: FoundRecords) -> None:
        """Check the records of one fetch.

        Raises:
            WrongOutputError: A record is not the one that must come next.
        """
        places = found.places
        count = len(places.offset_N)
        first, self.seen = self.seen, self.seen + count
        if self.seen > len(self._expected):
            self._refuse(len(self._expected), "there are more predictions than ticks")
        part = slice(first, self.seen)
        symbol_N = self._expected.symbol_N[part]
        buffer = np.frombuffer(found.data, np.uint8)
        wrong = _first_wrong_key(buffer, places.key_at_N, places.key_len_N, self._key_bytes, self._key_at, symbol_N)
        if wrong >= 0:
            self._refuse(first + wrong, "its key is not its symbol")
        if count and int(places.value_len_N.min()) < 0:
            self._refuse(first + int(places.value_len_N.argmin()), "it is a tombstone")
        try:
            made = self._decoder.decode(_as_list(buffer, places.value_at_N, places.value_len_N))
        except msgspec.MsgspecError as error:
            raise WrongOutputError(f"partition {self._partition}, a prediction after {first}: {error}") from error
        fields = {name: [getattr(each, name) for each in made] for name in ("id", "symbol", "ts", "reason", "status")}
        constant = {(each.horizon, each.model, each.version) for each in made}
        score_N = np.array([np.nan if each.score is None else each.score for each in made], np.float64)
        self._compare(fields, constant, score_N, first)

    def take_arrow(self, found: FoundRecords) -> list[int]:
        """Check records that hold predictions as Arrow streams, and return how many each holds; raises as ``take``."""
        records = found.take(range(len(found.places.offset_N)))
        return [self._take_stream(value) for value in records.value]

    def _take_stream(self, value: bytes | None) -> int:
        with pa.ipc.open_stream(pa.py_buffer(value or b"")) as stream:
            table = stream.read_all()
        first, self.seen = self.seen, self.seen + len(table)
        if self.seen > len(self._expected):
            self._refuse(len(self._expected), "there are more predictions than ticks")
        column = {name: table[name].combine_chunks() for name in table.column_names}
        topic_id, partition = column["topic_id"].unique().to_pylist(), column["partition"].unique().to_pylist()
        if [f"{t}-{p}-" for t in topic_id for p in partition] != [self._prefix]:
            self._refuse(first, "topic and partition are not those of its tick")
        offsets, indices = column["offset"].to_pylist(), column["index"].to_pylist()
        found = {
            "id": [f"{self._prefix}{offset}-{index}" for offset, index in zip(offsets, indices, strict=True)],
            "symbol": column["symbol"].to_pylist(),
            "ts": column["ts"].to_pylist(),
            "reason": column["reason"].to_pylist(),
            "status": column["status"].to_pylist(),
        }
        constant = set(product(*(column[name].unique().to_pylist() for name in ("horizon", "model", "version"))))
        score_N = column["score"].cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        self._compare(found, constant, score_N, first)
        return len(table)

    def _compare(self, found: dict[str, list[Any]], constant: set[Any], score_N: Float64, first: int) -> None:
        expected, part = self._expected, slice(first, first + len(score_N))
        names, reasons = expected.symbols, (None, *(reason for _, reason in _REASONS))
        reason_N = expected.reason_N[part]
        pairs = zip(expected.offset_N[part].tolist(), expected.index_N[part].tolist(), strict=True)
        wanted = {
            "id": [f"{self._prefix}{offset}-{index}" for offset, index in pairs],
            "symbol": [names[s] for s in expected.symbol_N[part].tolist()],
            "ts": expected.ts_ns_N[part].tolist(),
            "reason": [reasons[r] for r in reason_N.tolist()],
            "status": ["abstained" if r else "ok" for r in reason_N.tolist()],
        }
        for name, values in wanted.items():
            if found[name] != values:
                at = next(i for i, pair in enumerate(zip(found[name], values, strict=True)) if pair[0] != pair[1])
                self._refuse(first + at, f"{name} is {found[name][at]!r}, not {values[at]!r}")
        if constant - {self._constant}:
            self._refuse(first, f"horizon, model and version are not {self._constant} everywhere behind it")
        wanted_N = expected.score_N[part]
        gap_N = np.abs(score_N - wanted_N) - (ABSOLUTE + RELATIVE * np.abs(wanted_N))
        wrong_N = ~(gap_N <= 0) & ~(np.isnan(score_N) & np.isnan(wanted_N))
        if wrong_N.any():
            at = int(wrong_N.argmax())
            self._refuse(first + at, f"score is {score_N[at]!r}, not {wanted_N[at]!r}")

    def _refuse(self, offset: int, why: str) -> None:
        raise WrongOutputError(f"prediction {offset} of partition {self._partition}: {why}")


def expectations(
    work: Workload, passes: int, spec: PipelineSpec, network: Network, rows_a_record: int = 1
) -> Iterator[Expected]:
    """Yield what must come of each partition, in their order."""
    for partition in range(int(work.partition_N.max()) + 1):
        yield expected_of(work, partition, passes, spec, network, rows_a_record)


def _joined(parts: list[bytes]) -> tuple[npt.NDArray[np.uint8], Int64]:
    ends = np.cumsum([0, *(len(part) for part in parts)])
    return np.frombuffer(b"".join(parts), np.uint8), ends.astype(np.int64)


def _as_list(buffer: npt.NDArray[np.uint8], at_N: Int64, len_N: Int64) -> bytes:
    """Return the values as one JSON array."""
    out = np.empty(int(len_N.sum()) + len(len_N) + 2, np.uint8)
    end = _join_values(buffer, at_N, len_N, out)
    return out[:end].tobytes()


@numba.njit(cache=True)
def _join_values(buffer: Any, at_N: Any, len_N: Any, out: Any) -> int:
    out[0] = 91  # [
    to = 1
    for i in range(len(at_N)):
        if i:
            out[to] = 44  # ,
            to += 1
        out[to : to + len_N[i]] = buffer[at_N[i] : at_N[i] + len_N[i]]
        to += len_N[i]
    out[to] = 93  # ]
    return to + 1


@numba.njit(cache=True)
def _first_wrong_key(buffer: Any, at_N: Any, len_N: Any, keys: Any, key_at_S: Any, symbol_N: Any) -> int:
    for i in range(len(at_N)):
        start = key_at_S[symbol_N[i]]
        length = key_at_S[symbol_N[i] + 1] - start
        if len_N[i] != length:
            return i
        for k in range(length):
            if buffer[at_N[i] + k] != keys[start + k]:
                return i
    return -1
