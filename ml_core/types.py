"""The words of tickwise as types: ticks, rows, jobs.

Shapes: N ticks or rows, F features, T rows of a window, B rows of a batch, H horizons.
"""

from collections.abc import Sequence
from enum import IntEnum, IntFlag, StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

SECOND_NS = 1_000_000_000
# The last event time of a tick, 2100-01-01, and the longest duration of a setting: both together fit 64 bits.
MAX_TS_NS = 4_102_444_800 * SECOND_NS
MAX_DURATION_NS = 3_650 * 86_400 * SECOND_NS
# kinds of label that are classes: down, flat, up; others are numbers
CLASS_LABELS = frozenset({"direction", "triple_barrier"})


def as_compiled(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return ``values`` as kernels are compiled for: of ``dtype``, contiguous, writeable; copied only where needed."""
    # np.require does the same in ten times the time, which small batches notice.
    return values if values.dtype == dtype and values.flags.carray else np.require(values, dtype, ["C", "W"])


class TickKind(IntEnum):
    """What a tick reports."""

    TRADE = 0
    QUOTE = 1


class RowFlag(IntFlag):
    """Why a row should not be scored or trained on; 0 means it is whole."""

    WARM_UP = 1  # the symbol has not been seen for as long as its longest feature looks back
    GAP = 2  # the feed was silent for longer than the gap bound; features look across it
    NO_PRICE = 4  # neither a two-sided quote nor a trade has been seen yet
    STALE = 8  # the last quote is older than `max_age` at a trade
    LATE = 16  # the tick is older than one already seen of its symbol
    AHEAD = 32  # the tick lies further ahead of its symbol than the gap bound, and no second tick has confirmed it yet
    CLOSED = 64  # the tick, or the clock at which it counts, lies in closed time of the calendar
    NO_CALENDAR = 128  # likewise before the first or behind the last session that the calendar knows


class BarStatus(IntEnum):
    """Why a bar is written."""

    FINAL = 0  # it ended
    REVISED = 1  # a late tick has changed a bar that had ended
    PROVISIONAL = 2  # its time is over by the wall clock and its symbol is silent; the final one may differ


class TickBatch(NamedTuple):
    """Ticks of one partition (or file) in arrival order; N ticks.

    A field that does not apply to a kind is NaN (prices and sizes) or 0 (side).
    """

    offset_N: Int64  # Kafka offset, or line number in a file
    index_N: Int32  # place inside the record, 0 for one tick a record
    kind_N: Int8  # TickKind
    symbol_N: Int32  # index into `symbols`
    ts_ns_N: Int64  # event time, ns since the epoch, UTC
    price_N: Float64  # trades: quote currency
    size_N: Float64  # trades: base units
    side_N: Int8  # trades: +1 the buyer took, -1 the seller took, 0 unknown
    bid_N: Float64
    ask_N: Float64
    bid_size_N: Float64
    ask_size_N: Float64
    seq_N: Int64  # number given by the venue, -1 where it gives none
    symbols: Sequence[str]  # the symbol table of the partition; it only grows

    def __len__(self) -> int:
        """Return the number of ticks, not of fields."""
        return len(self.ts_ns_N)


class RowBatch(NamedTuple):
    """Feature rows of one partition (or file), one per accepted tick, in arrival order; N rows."""

    offset_N: Int64
    index_N: Int32
    symbol_N: Int32
    ts_ns_N: Int64
    mid_N: Float64  # mid of the last quote, or the last trade price where no quote is known
    spread_N: Float64  # ask minus bid, NaN where no quote is known
    x_NF: Float32  # NaN where a feature is undefined
    flags_N: UInt8  # RowFlag
    symbols: Sequence[str]

    def __len__(self) -> int:
        """Return the number of rows, not of fields."""
        return len(self.ts_ns_N)

    def select(self, chosen: Bool | Int64 | slice) -> "RowBatch":
        """Return the rows at ``chosen``, in its order."""
        fields: list[Any] = [*(column[chosen] for column in self[:-1]), self.symbols]
        return RowBatch(*fields)


class BarBatch(NamedTuple):
    """Bars of one partition (or file) in the order in which they ended; B bars of Q kinds.

    A name (symbol, kind, number, revision) has one value. Of one number the highest revision counts.
    """

    offset_B: Int64  # of the tick that made the bar be written, -1 of provisional ones
    index_B: Int32
    symbol_B: Int32
    kind_B: Int32  # index into `kinds`
    number_B: Int64  # by time: start // width; others: bars of this kind since the symbol's first tick
    start_ns_B: Int64  # by time: [start, end); others: event time of the first and of the last tick
    end_ns_B: Int64
    open_B: Float64
    high_B: Float64
    low_B: Float64
    close_B: Float64
    volume_B: Float64  # base units; 0 where no tick has a size
    value_B: Float64  # price times size
    vwap_B: Float64  # NaN without volume
    buy_volume_B: Float64  # of trades whose buyer took
    ticks_B: Int64
    revision_B: Int64  # -1 of provisional ones
    status_B: Int8  # BarStatus
    complete_B: Bool  # False: ticks may be missing, it lies beside a gap or begins with the first tick ever seen
    symbols: Sequence[str]
    kinds: Sequence[str]
    too_late: int  # ticks that are in no bar, because they came later than the lateness
    misdated: int  # likewise, because they lay too far ahead and the next tick of the symbol did not

    def __len__(self) -> int:
        """Return the number of bars, not of fields."""
        return len(self.offset_B)

    def select(self, chosen: Bool | slice) -> "BarBatch":
        """Return the chosen bars, in order."""
        fields: list[Any] = [*(column[chosen] for column in self[:-4]), *self[-4:]]
        return BarBatch(*fields)


class Batch(NamedTuple):
    """Some samples, ready for a model; B samples, T rows of a window, H horizons."""

    x_BTF: Float32  # raw feature rows, oldest first
    y_BH: npt.NDArray[Any]  # int64 classes (0 down, 1 flat, 2 up) or float32 log returns
    weight_B: Float32


class SymbolTable:
    """Symbols of a partition in the order they were first seen; the index of a symbol never changes."""

    def __init__(self, names: Sequence[str] = (), *, limit: int = 100_000) -> None:
        """Start from ``names``; at most ``limit`` symbols are ever held."""
        self.names: list[str] = list(names)
        self.index: dict[str, int] = {name: i for i, name in enumerate(self.names)}
        self.limit = limit

    def __len__(self) -> int:
        """Return how many symbols are known."""
        return len(self.names)

    def add(self, name: str) -> int:
        """Return the index of ``name``, giving it the next one when it is new; -1 when the table is full."""
        found = self.index.get(name)
        if found is not None:
            return found
        if len(self.names) >= self.limit:
            return -1
        self.index[name] = len(self.names)
        self.names.append(name)
        return len(self.names) - 1


class JobKind(StrEnum):
    """What a job does: it trains from scratch or on from the champion, tries out a space, or predicts past ticks."""

    BATCH = "batch"
    INCREMENTAL = "incremental"
    TUNE = "tune"
    PREDICT = "predict"

    @property
    def trains(self) -> bool:
        """True when it makes a version."""
        return self in (JobKind.BATCH, JobKind.INCREMENTAL)


class JobState(StrEnum):
    """Life of a job: queued -> running -> succeeded | failed | cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when the job will not change any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class OffsetRange(BaseModel):
    """Ticks ``[start, end)`` of one partition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class PredictSpec(BaseModel):
    """Which ticks a job of kind ``predict`` takes, beside ``ranges``, and where its predictions go.

    Files are named and not placed: their folders are settings of the runner.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: str = Field(
        pattern=r"^(topic:[A-Za-z0-9._-]{1,249}|[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\.parquet)$",
        description="NAME.parquet, a file in TICKWISE_PREDICTIONS, replaced if it is there; or topic:NAME, to be there",
    )
    source: str | None = Field(
        default=None,
        pattern=r"^(dataset:[A-Za-z0-9][A-Za-z0-9._-]{0,99}@[1-9][0-9]{0,8}|[A-Za-z0-9_-][A-Za-z0-9._-]{0,199})$",
        description="dataset:NAME@VERSION, or a file in TICKWISE_HISTORY; absent: ticks of the pipeline's topic",
    )
    since: AwareDatetime | None = Field(default=None, description="ticks that arrived at Kafka from then on")
    until: AwareDatetime | None = Field(default=None, description="and before this time of arrival")
    version: int | None = Field(default=None, ge=1, lt=2**31, description="of the model; absent: the champion")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if any(each is not None and each.timestamp() < 0 for each in (self.since, self.until)):
            raise ValueError("since and until must not lie before 1970")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since must be before until")
        if self.source is not None and (self.since is not None or self.until is not None):
            raise ValueError("a source is read whole: since and until are for ticks of the topic")
        return self


class JobSpec(BaseModel):
    """What a job is asked to do; the same type from the REST body to the stored row."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"pipeline": "demo", "kind": "batch"},
                {
                    "pipeline": "demo",
                    "kind": "predict",
                    "ranges": [{"partition": 0, "start": 0, "end": 1000}],
                    "predict": {"to": "past.parquet"},
                },
            ]
        },
    )

    pipeline: Name
    kind: JobKind = JobKind.BATCH
    trigger: Literal["api", "schedule", "rows", "request", "cli"] = "api"
    ranges: tuple[OffsetRange, ...] | None = Field(
        default=None,
        max_length=1_024,
        description="exact tick offsets to use; absent: train.span up to the newest tick, to predict all there are",
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    priority: int = Field(default=0, ge=-10, le=10, description="higher ones are taken up first, equal ones by age")
    params: dict[str, Any] = Field(
        default_factory=dict, description="model parameters that replace those of the pipeline file"
    )
    predict: PredictSpec | None = Field(default=None, description="of a job of kind predict")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.predict is None) == (self.kind is JobKind.PREDICT):
            raise ValueError("'predict' is there for a job of kind 'predict', and for no other")
        if self.predict is None:
            return self
        if self.params:
            raise ValueError("params are for jobs that train; a job of kind 'predict' names a version")
        if self.ranges is not None and self.predict.source is not None:
            raise ValueError("a source is read whole: ranges are for ticks of the topic")
        if self.ranges is not None and (self.predict.since is not None or self.predict.until is not None):
            raise ValueError("ranges name offsets, since and until times: give one of both")
        return self
