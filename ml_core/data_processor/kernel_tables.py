"""What the feature kernel reads and writes, as named arrays.

Shapes: N ticks, E edges of sessions, S symbols, K floats and J integers of state a symbol.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.types import Bool, Float32, Float64, Int8, Int32, Int64, UInt8

# Of slots: numba has indices that may be negative counted from the end, which takes time at each access.
UInt32 = npt.NDArray[np.uint32]
UNCOUNTED = -(2**63)  # lag of a tick that is a duplicate, or of a symbol that is not wanted


class Ticks(NamedTuple):
    """The columns of a `TickBatch` that the kernel reads; N ticks, contiguous and writeable."""

    kind_N: Int8
    symbol_N: Int32
    ts_ns_N: Int64
    price_N: Float64
    size_N: Float64
    side_N: Int8
    bid_N: Float64
    ask_N: Float64
    bid_size_N: Float64
    ask_size_N: Float64
    seq_N: Int64


TICK_DTYPES = (
    ("kind_N", "i1"),
    ("symbol_N", "i4"),
    ("ts_ns_N", "i8"),
    ("price_N", "f8"),
    ("size_N", "f8"),
    ("side_N", "i1"),
    ("bid_N", "f8"),
    ("ask_N", "f8"),
    ("bid_size_N", "f8"),
    ("ask_size_N", "f8"),
    ("seq_N", "i8"),
)


class Program(NamedTuple):
    """What to compute, as tables of slots.

    D time constants, U sums, M means, G grids of time (each for a volatility or a ring of past prices), H rings,
    F features. Before its features are written, W floats are noted of each row: those of slots ``watch_W``, the past
    prices of the rings, and the time since the last trade, ns or -1.
    """

    start_K: Float64  # state of a symbol never seen
    rate_D: Float64  # 1 / time constant, per ns
    weight_D: UInt32  # slot: share of an exponential window that has been seen, 0 to 1
    sum_3U: UInt32  # impulse, number of the time constant, slot
    mean_3M: UInt32  # slot of the value held, number of the time constant, slot
    grid_3G: UInt32  # VOLATILITY or RING, first float slot, int slot: the bucket of the clock
    width_G: Int64  # of a bucket, ns
    watch_W: UInt32
    ring_2H: UInt32  # first float slot, int slot
    op_6F: UInt32  # operation; a, b, c, d: numbers of what was noted; column
    factor_F: Float64
    rows_on_2: Bool  # by TickKind
    gap_ns: int
    max_age_ns: int
    look_back_ns: int
    edge_E: Int64  # where sessions begin and are over, by turns, ns; empty where it is always open


class Memory(NamedTuple):
    """State of all symbols; `dirty_B` marks blocks of 64 symbols that changed."""

    float_SK: Float64
    int_SJ: Int64
    wanted_S: Bool
    dirty_B: Bool


class Scratch(NamedTuple):
    """Room for one tick's decays (D,) and impulses."""

    decay_D: Float64
    impulse_I: Float64


class Rows(NamedTuple):
    """What a pass writes: the first so many places of the row columns, and of every tick whether it counted."""

    x_NF: Float32
    mid_N: Float64
    spread_N: Float64
    flags_N: UInt8
    tick_N: Int64  # number of the row's tick
    lag_N: Int64  # by tick: its symbol's clock minus its time, ns, where that left the clock; else 0, or UNCOUNTED
