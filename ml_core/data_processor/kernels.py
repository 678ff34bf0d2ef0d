"""The feature kernel: one compiled pass over ticks in arrival order that moves per-symbol state and writes rows.

Every value depends only on the symbol's own ticks in their order, so neither batch boundaries nor other symbols change
a bit. The work per tick does not depend on window or horizon. What is computed is said by a `Program`, small tables
that `ml_core.data_processor.program` compiles from feature names.

Time constants are true decays: a sum S over a time constant tau becomes ``S * exp(-dt / tau) + x``, whatever the gap
between ticks. Shapes: N ticks, S symbols, K floats and J integers of state a symbol, F features, B rows at once.
"""

from typing import Any

import numpy as np

from ml_core.compiled import njit
from ml_core.data_processor.kernel_tables import Memory, Program, Rows, Scratch, Ticks, UInt32
from ml_core.data_processor.repeats import SEQ_INTS, seen_before
from ml_core.types import Bool, Float32, Float64, Int8, Int32, Int64, RowFlag, TickKind, UInt8

KERNEL_VERSION = 4  # grows with every change that can change a value of a row
BUCKETS = 16  # of a return's horizon: the past price is 15/16 to 16/16 of the horizon old
VOL_BUCKETS = 64  # of a volatility's time constant: prices are sampled once a bucket, which leaves bid-ask bounce out
RESYNC_TICKS = 8  # so many ticks in a row behind the clock by more than the gap bound: the clock was wrong, not they
TINY = 1e-250  # decayed sums below this are nothing
MS_NS = 1e6

# Floats of state every symbol has; NaN is "not known yet". Slots of sums, means, rings and volatilities follow.
FIXED_FLOATS = 15
(BID, ASK, BID_SIZE, ASK_SIZE, REF, LOG_REF, SPREAD, SPREAD_BPS, QUEUE, DEPTH, MICRO, TRADE, SIZE, STREAK, IS_TRADE) = (
    range(FIXED_FLOATS)
)
# Integers of state every symbol has. Bucket numbers of rings and volatilities follow.
(TICKS, CLOCK, WARM_UNTIL, GAP_UNTIL, OWED, BEHIND, TRADE_TS, QUOTE_TS, TRADE_GAP, SIDE, RUN) = range(11)
PARKED = 11  # time of the tick before, where BEHIND is -1: it lay too far ahead to be believed alone
EDGE = 12  # where the session, or the closed time, that the clock is in ends
HOURS = 13  # the flag of that time: 0 in a session
NUMBERS = 14  # of trades, then of quotes, as in `repeats`
FIXED_INTS = NUMBERS + 2 * SEQ_INTS
# What happens to a grid when its next bucket begins.
(VOLATILITY, RING) = range(2)
# What one tick adds to sums.
(TRADE_COUNT, QUOTE_COUNT, VOLUME, SIGNED_VOLUME, OFI, ABS_OFI, TRADE_SIDE, TURNOVER) = range(8)
IMPULSES = 8
# What turns state into a feature; a, b, c, d are what was noted of it.
(VALUE, DISTANCE, PER_VOL, SHARE, EXCESS, DIFFERENCE, LOG_RATIO, LOG_RATE, LOG_MS, FROM_MEAN) = range(10)
# Rows noted before their features are written, each feature in one loop without branches; they fit the L1 cache.
ROWS_AT_ONCE = 64

_WARM_UP, _GAP, _NO_PRICE = int(RowFlag.WARM_UP), int(RowFlag.GAP), int(RowFlag.NO_PRICE)
_STALE, _LATE, _AHEAD = int(RowFlag.STALE), int(RowFlag.LATE), int(RowFlag.AHEAD)
_CLOSED, _NO_CALENDAR = int(RowFlag.CLOSED), int(RowFlag.NO_CALENDAR)
_IS_TRADE = int(TickKind.TRADE)
# No reference counts: the kernel allocates nothing and its caller holds every array; with them it takes twice as long.
_COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
# A call would pass each array as seven words on the stack: with calls the kernel takes a third longer.
_INLINED: dict[str, Any] = {**_COMPILED, "forceinline": True}
_NEVER = 2**63 - 1
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def run(ticks: Ticks, program: Program, memory: Memory, rows: Rows, scratch: Scratch) -> int:
    """Move ``memory`` over ``ticks``, fill ``rows``, and return the number of rows."""
    seen_WB = np.empty((len(program.watch_W) + program.ring_2H.shape[1] + 2, ROWS_AT_ONCE))
    # One by one: an array in a named tuple takes the call four times as long.
    return int(_run(*ticks, *program, *memory, *rows, *scratch, seen_WB))


@njit(**_COMPILED)
def _run(  # noqa: PLR0913, PLR0917 - see `run`
    kind_N: Int8,
    symbol_N: Int32,
    ts_ns_N: Int64,
    price_N: Float64,
    size_N: Float64,
    side_N: Int8,
    bid_N: Float64,
    ask_N: Float64,
    bid_size_N: Float64,
    ask_size_N: Float64,
    seq_N: Int64,
    start_K: Float64,
    rate_D: Float64,
    weight_D: UInt32,
    sum_3U: UInt32,
    mean_3M: UInt32,
    grid_3G: UInt32,
    width_G: Int64,
    watch_W: UInt32,
    ring_2H: UInt32,
    op_6F: UInt32,
    factor_F: Float64,
    rows_on_2: Bool,
    gap_ns: int,
    max_age_ns: int,
    look_back_ns: int,
    edge_E: Int64,
    float_SK: Float64,
    int_SJ: Int64,
    wanted_S: Bool,
    dirty_B: Bool,
    x_NF: Float32,
    mid_N: Float64,
    spread_N: Float64,
    flags_N: UInt8,
    tick_N: Int64,
    lag_N: Int64,
    decay_D: Float64,
    impulse_I: Float64,
    seen_WB: Float64,
) -> int:
    """See `run`; the fields of its arguments, in their order."""
    count = 0
    for start in range(0, len(ts_ns_N), ROWS_AT_ONCE):
        begin = count
        for tick in range(start, min(start + ROWS_AT_ONCE, len(ts_ns_N))):
            i = np.uint64(tick)  # as with slots
            symbol, kind = symbol_N[i], kind_N[i]
            if symbol < 0 or not wanted_S[symbol]:
                continue
            f, j = float_SK[symbol], int_SJ[symbol]
            if seen_before(j, NUMBERS + kind * SEQ_INTS, seq_N[i], ts_ns_N[i] > j[CLOCK]):
                continue
            dirty_B[symbol >> 6] = True
            dt, lag_N[i] = _advance_clock(f, j, ts_ns_N[i], start_K, grid_3G, width_G, gap_ns, look_back_ns, edge_E)
            if dt > 0:
                _decay(f, dt, rate_D, weight_D, mean_3M, decay_D)
                _move_grids(f, j, grid_3G, width_G)
            else:
                for k in range(len(decay_D)):
                    decay_D[k] = 1.0
            for k in range(IMPULSES):
                impulse_I[k] = 0.0
            if kind == _IS_TRADE:
                _take_trade(f, j, price_N[i], size_N[i], side_N[i], impulse_I)
            else:
                _take_quote(f, j, bid_N[i], ask_N[i], bid_size_N[i], ask_size_N[i], impulse_I)
            _add_impulses(f, decay_D, impulse_I, sum_3U)
            if rows_on_2[kind]:
                tick_N[count] = tick
                mid_N[count] = f[REF]
                spread_N[count] = f[SPREAD]
                flags_N[count] = _flags(f, j, lag_N[i], max_age_ns, edge_E)
                _watch(f, j, watch_W, ring_2H, seen_WB, count - begin)
                count += 1
        _write(seen_WB, op_6F, factor_F, x_NF[begin:count])
    return count


@njit(**_INLINED)
def _advance_clock(
    f: Float64,
    j: Int64,
    ts: int,
    start_K: Float64,
    grid_3G: UInt32,
    width_G: Int64,
    gap_ns: int,
    look_back_ns: int,
    edge_E: Int64,
) -> tuple[int, int]:
    """Move the symbol's clock, and return the time passed and the clock's lead over a tick that leaves it, ns.

    A tick behind the clock is late. One further ahead than the gap bound is parked: only if the next one lies there
    too, or beyond, was it a silence and no wrong stamp. Closed time is no silence: behind it the symbol begins anew.
    """
    j[TICKS] += 1
    dt = ts - j[CLOCK]
    if j[TICKS] > 1 and dt < 0:
        j[BEHIND] = max(j[BEHIND], 0) + 1 if -dt > gap_ns else 0
        if j[BEHIND] < RESYNC_TICKS:
            return 0, -dt
    is_doubted = j[TICKS] > 1 and dt > gap_ns and (j[BEHIND] >= 0 or ts < j[PARKED] - gap_ns)
    if is_doubted and (ts < j[EDGE] or _edges_before(edge_E, ts) % 2 == 0):  # not where another session is open
        j[BEHIND], j[PARKED] = -1, ts
        return 0, -dt
    j[BEHIND] = 0
    if j[TICKS] == 1 or dt < 0 or ts >= j[EDGE]:
        is_gap = j[TICKS] > 1 and (dt < 0 or (dt > gap_ns and _open_time(edge_E, j[CLOCK], ts) > gap_ns))
        _start(f, j, ts, start_K, grid_3G, width_G)
        place = _edges_before(edge_E, ts)
        j[EDGE] = edge_E[place] if place < len(edge_E) else _NEVER
        j[HOURS] = _hours(edge_E, place)
        j[WARM_UNTIL] = ts + look_back_ns
        j[OWED] = _WARM_UP | (_GAP if is_gap else 0) if j[TICKS] > 1 else 0
        j[GAP_UNTIL] = ts + look_back_ns if is_gap else ts
        dt = 0
    elif dt > gap_ns:
        j[GAP_UNTIL] = ts + look_back_ns
        j[OWED] |= _GAP
    j[CLOCK] = ts
    return dt, 0


@njit(**_COMPILED)
def _edges_before(edge_E: Int64, ts: int) -> int:
    """Return how many edges of sessions lie at or before ``ts``; odd in a session."""
    low, high = 0, len(edge_E)
    while low < high:
        middle = (low + high) // 2
        if edge_E[middle] <= ts:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**_COMPILED)
def _hours(edge_E: Int64, place: int) -> int:
    """Return the flag of the time behind so many edges; 0 in a session, and where there are none."""
    if place % 2 == 1 or len(edge_E) == 0:
        return 0
    return _CLOSED if 0 < place < len(edge_E) else _NO_CALENDAR


@njit(**_COMPILED)
def _open_time(edge_E: Int64, start: int, end: int) -> int:
    """Return how much of a stretch of time lies in sessions, ns; all of it where there are none."""
    if len(edge_E) == 0:
        return end - start
    first, last = _edges_before(edge_E, start), _edges_before(edge_E, end)
    total = 0
    for place in range(first, last + 1):
        if place % 2 == 1:  # the time up to this edge is open
            begin = start if place == first else edge_E[place - 1]
            total += (end if place == last else edge_E[place]) - begin
    return total


@njit(**_INLINED)
def _start(f: Float64, j: Int64, ts: int, start_K: Float64, grid_3G: UInt32, width_G: Int64) -> None:
    for k in range(len(start_K)):
        f[k] = start_K[k]
    j[SIDE] = j[RUN] = 0
    j[TRADE_TS] = j[QUOTE_TS] = j[TRADE_GAP] = -1
    for k in range(len(width_G)):
        j[grid_3G[2, k]] = ts // width_G[k]


@njit(**_INLINED)
def _decay(f: Float64, dt: int, rate_D: Float64, weight_D: UInt32, mean_3M: UInt32, decay_D: Float64) -> None:
    """Let ``dt`` ns pass with the values that were in force before this tick."""
    for k in range(len(rate_D)):
        decay_D[k] = np.exp(-dt * rate_D[k])
    for k in range(len(weight_D)):
        f[weight_D[k]] += (1.0 - f[weight_D[k]]) * (1.0 - decay_D[k])
    held_M, number_M, slot_M = mean_3M[0], mean_3M[1], mean_3M[2]
    for k in range(len(slot_M)):
        held, slot = f[held_M[k]], slot_M[k]
        if np.isnan(f[slot]):
            f[slot] = held
        elif not np.isnan(held):
            f[slot] += (1.0 - decay_D[number_M[k]]) * (held - f[slot])


@njit(**_INLINED)
def _move_grids(f: Float64, j: Int64, grid_3G: UInt32, width_G: Int64) -> None:
    """Close the buckets that ended before the clock, with the price that was in force."""
    now, price = j[CLOCK], f[LOG_REF]
    kind_G, base_G, slot_G = grid_3G[0], grid_3G[1], grid_3G[2]
    for k in range(len(width_G)):
        width, base, slot = width_G[k], base_G[k], slot_G[k]
        held = j[slot]
        if now < (held + 1) * width:
            continue
        # Mostly the next bucket has begun; a division takes longer than all else here.
        bucket = held + 1 if now < (held + 2) * width else now // width
        if kind_G[k] == VOLATILITY:
            _sample_volatility(f, base, bucket - held, width, price)
        else:
            for past in range(max(held, bucket - BUCKETS), bucket):
                f[base + (past & (BUCKETS - 1))] = price
        j[slot] = bucket


@njit(**_INLINED)
def _sample_volatility(f: Float64, base: int, buckets: int, width: int, price: float) -> None:
    """Add the squared change of the log price since the last sample; slots: squares, seconds, sample, sigma, log."""
    if np.isnan(price):
        return
    if not np.isnan(f[base + 2]):
        decay = np.exp(-buckets / VOL_BUCKETS)
        change = price - f[base + 2]
        f[base] = f[base] * decay + change * change
        f[base + 1] = f[base + 1] * decay + buckets * width * 1e-9
        if f[base] > TINY:
            f[base + 3] = np.sqrt(f[base] / f[base + 1])
            f[base + 4] = np.log(1e4 * f[base + 3])
        else:
            f[base + 3] = f[base + 4] = np.nan
    f[base + 2] = price


@njit(**_INLINED)
def _take_trade(f: Float64, j: Int64, price: float, size: float, side: int, impulse_I: Float64) -> None:
    impulse_I[TRADE_COUNT] = 1.0
    f[IS_TRADE] = 1.0
    now = j[CLOCK]
    j[TRADE_GAP] = now - j[TRADE_TS] if j[TRADE_TS] >= 0 else -1
    j[TRADE_TS] = now
    if not 0.0 < price < np.inf:
        return
    if side == 0:
        side = _side_of(f, j, price)
    if side != 0:
        j[RUN] = j[RUN] + 1 if side == j[SIDE] else 1
        j[SIDE] = side
        f[STREAK] = side * np.log(1.0 + j[RUN])
        impulse_I[TRADE_SIDE] = side
    f[TRADE] = price
    if np.isnan(f[BID]) and price != f[REF]:
        f[REF] = price
        f[LOG_REF] = np.log(price)
    if 0.0 < size < np.inf:
        f[SIZE] = size
        impulse_I[VOLUME] = size
        impulse_I[SIGNED_VOLUME] = side * size
        impulse_I[TURNOVER] = price * size


@njit(**_INLINED)
def _side_of(f: Float64, j: Int64, price: float) -> int:
    """Return who took: by the quote, else by the last change of trade prices, else as before (Lee and Ready 1991)."""
    against = f[REF] if not np.isnan(f[BID]) and price != f[REF] else f[TRADE]
    if price > against:
        return 1
    if price < against:
        return -1
    return int(j[SIDE])


@njit(**_INLINED)
def _take_quote(
    f: Float64, j: Int64, bid: float, ask: float, bid_size: float, ask_size: float, impulse_I: Float64
) -> None:
    """Take over a quote; one that is one-sided or crossed leaves the book as it was."""
    impulse_I[QUOTE_COUNT] = 1.0
    f[IS_TRADE] = 0.0
    j[TRADE_GAP] = j[CLOCK] - j[TRADE_TS] if j[TRADE_TS] >= 0 else -1
    if not 0.0 < bid <= ask < np.inf:
        return
    j[QUOTE_TS] = j[CLOCK]
    flow = _order_flow(f, bid, ask, bid_size, ask_size)
    if not np.isnan(flow):
        impulse_I[OFI] = flow
        impulse_I[ABS_OFI] = abs(flow)
    f[BID], f[ASK], f[BID_SIZE], f[ASK_SIZE] = bid, ask, bid_size, ask_size
    mid, spread = 0.5 * bid + 0.5 * ask, ask - bid
    if mid != f[REF]:
        f[REF] = mid
        f[LOG_REF] = np.log(mid)
    f[SPREAD] = spread
    f[SPREAD_BPS] = 1e4 * spread / mid
    if bid_size >= 0.0 and ask_size >= 0.0 and 0.0 < bid_size + ask_size < np.inf:
        f[DEPTH] = bid_size + ask_size
        f[QUEUE] = (bid_size - ask_size) / f[DEPTH]
        f[MICRO] = 0.5 * f[QUEUE] * spread / mid
    else:
        f[DEPTH] = f[QUEUE] = f[MICRO] = np.nan


@njit(**_INLINED)
def _order_flow(f: Float64, bid: float, ask: float, bid_size: float, ask_size: float) -> float:
    """Return e_n of Cont, Kukanov and Stoikov (2014), eq. 4, base units; NaN at the first quote or without sizes."""
    flow = 0.0
    if bid >= f[BID]:
        flow += bid_size
    if bid <= f[BID]:
        flow -= f[BID_SIZE]
    if ask <= f[ASK]:
        flow -= ask_size
    if ask >= f[ASK]:
        flow += f[ASK_SIZE]
    return flow if abs(flow) < np.inf and not np.isnan(f[BID]) else np.nan


@njit(**_INLINED)
def _add_impulses(f: Float64, decay_D: Float64, impulse_I: Float64, sum_3U: UInt32) -> None:
    impulse_U, number_U, slot_U = sum_3U[0], sum_3U[1], sum_3U[2]
    for k in range(len(slot_U)):
        slot = slot_U[k]
        f[slot] = f[slot] * decay_D[number_U[k]] + impulse_I[impulse_U[k]]


@njit(**_INLINED)
def _flags(f: Float64, j: Int64, lag: int, max_age_ns: int, edge_E: Int64) -> int:
    """Return why the row is not whole. The first row after a gap or a new start always says so, however late."""
    flags, now = int(j[HOURS]), j[CLOCK]
    if lag != 0:  # the time of the tick may be another than that at which it counts
        flags |= _hours(edge_E, _edges_before(edge_E, now - lag))
    if np.isnan(f[REF]):
        flags |= _NO_PRICE
    if now < j[WARM_UNTIL]:
        flags |= _WARM_UP
    if now < j[GAP_UNTIL]:
        flags |= _GAP
    if j[OWED]:
        flags |= j[OWED]
        j[OWED] = 0
    if j[QUOTE_TS] >= 0 and now - j[QUOTE_TS] > max_age_ns:
        flags |= _STALE
    if lag > 0:
        flags |= _LATE
    elif lag < 0:
        flags |= _AHEAD
    return flags


@njit(**_INLINED)
def _watch(f: Float64, j: Int64, watch_W: UInt32, ring_2H: UInt32, seen_WB: Float64, b: int) -> None:
    """Note what the features of a row are made of, as its column ``b``."""
    for k in range(len(watch_W)):
        seen_WB[k, b] = f[watch_W[k]]
    base_H, slot_H = ring_2H[0], ring_2H[1]
    for k in range(len(base_H)):
        seen_WB[len(watch_W) + k, b] = f[base_H[k] + (j[slot_H[k]] & (BUCKETS - 1))]
    seen_WB[len(watch_W) + len(base_H), b] = j[TRADE_GAP]


@njit(**_INLINED)
def _write(  # noqa: PLR0912 - a switch over operations
    seen_WB: Float64, op_6F: UInt32, factor_F: Float64, x_BF: Float32
) -> None:
    """Write the features of some rows, a feature at a time; whatever is not a finite float32 becomes NaN."""
    value_B, rows = seen_WB[len(seen_WB) - 1], len(x_BF)
    for k in range(len(factor_F)):
        op, factor, column = op_6F[0, k], factor_F[k], op_6F[5, k]
        a_B, b_B, c_B, d_B = (
            seen_WB[op_6F[1, k]],
            seen_WB[op_6F[2, k]],
            seen_WB[op_6F[3, k]],
            seen_WB[op_6F[4, k]],
        )
        if op == VALUE:
            for i in range(rows):
                value_B[i] = a_B[i]
        elif op == DISTANCE:
            for i in range(rows):
                value_B[i] = (a_B[i] - b_B[i]) / (_above(c_B[i], 0.0) * factor)
        elif op == PER_VOL:
            for i in range(rows):
                value_B[i] = a_B[i] / (_above(c_B[i], 0.0) * factor)
        elif op == SHARE:
            for i in range(rows):
                value_B[i] = a_B[i] / _above(b_B[i], TINY)
        elif op == EXCESS:
            for i in range(rows):
                value_B[i] = a_B[i] / _above(b_B[i], 0.0) - 1.0
        elif op == DIFFERENCE:
            for i in range(rows):
                value_B[i] = a_B[i] - b_B[i]
        elif op == LOG_RATIO:
            for i in range(rows):
                value_B[i] = np.log(_above(a_B[i], 0.0) * _above(c_B[i], TINY) / _above(b_B[i], TINY))
        elif op == LOG_RATE:
            for i in range(rows):
                value_B[i] = np.log(_above(a_B[i], TINY) / (_above(b_B[i], 0.0) * factor))
        elif op == LOG_MS:
            for i in range(rows):
                value_B[i] = np.log(1.0 + _from(a_B[i], 0.0) / MS_NS)
        elif op == FROM_MEAN:
            for i in range(rows):
                value_B[i] = (a_B[i] - b_B[i] / _above(c_B[i], TINY)) / _above(d_B[i], 0.0)
        for i in range(rows):
            x_BF[i, column] = value_B[i] if abs(value_B[i]) <= _MAX_FLOAT32 else np.nan


@njit(**_INLINED)
def _above(value: float, bound: float) -> float:
    return value if value > bound else np.nan


@njit(**_INLINED)
def _from(value: float, bound: float) -> float:
    return value if value >= bound else np.nan
