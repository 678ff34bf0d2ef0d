"""The bar kernel: one compiled pass over ticks in arrival order that moves the open bars and writes those that end.

Bars by time stand in slots, one for each bar that a tick within the lateness can fall into, and the bar of the clock
is the open one. Bars by ticks, volume and value have one slot, which is emptied when its bar ends. Volume and value are
summed in pairs of floats, so that the order of ticks does not show in the first of them.

A tick further ahead of its symbol's clock than gap bound and lateness is parked as a whole. If the next one that is not
late lies there too, or beyond, it counts just before that one, else never: bars are those of the ticks that are
believed, as they came. A tick that came too late may say that the clock is wrong: open bars are not complete.
No calendar has a say: the first tick behind a night is parked as well, and the second one confirms it.

Shapes: N ticks, S symbols, K floats and J integers of state a symbol, Q kinds of bars, R integers of a rule, B bars,
O floats and I integers of a bar.
"""

from typing import Any, NamedTuple

import numpy as np

from ml_core.compiled import njit
from ml_core.data_processor.kernel_tables import Memory
from ml_core.data_processor.kernels import RESYNC_TICKS
from ml_core.data_processor.repeats import SEQ_INTS, seen_before
from ml_core.types import BarStatus, Bool, Float64, Int8, Int32, Int64, TickKind

# Integers of state every symbol has; NUMBERS of trades, then of quotes, as in `repeats`. Ticks before COUNTS_FROM, to
# which a wrong clock was set back, are in no bar: one that had ended would begin anew with them. TICKS has none that is
# parked or was dropped.
(TICKS, CLOCK, BEHIND, WHOLE_FROM, COUNTS_FROM, IS_PARKED, PARKED_TS, PARKED_SEQ, NUMBERS) = range(9)
SYMBOL_INTS = NUMBERS + 2 * SEQ_INTS
(PARKED_PRICE, PARKED_SIZE, PARKED_BOUGHT) = range(3)  # of floats; no price where the tick moves only the clock
SYMBOL_FLOATS = 3
# Integers of state of a kind of bars: the number of the open one, the revision that bars begin with, and how many
# revisions were used. A clock that was wrong gives numbers that come again, so that bars begin behind what is out.
(NUMBER, BASE, USED) = range(3)
KIND_INTS = 3
# Of a slot; nothing is in it while COUNT is 0. WHOLE stays behind for the next bar by ticks, volume or value.
(COUNT, OF_BAR, REVISION, WHOLE, FIRST_TS, FIRST_SEQ, LAST_TS, LAST_SEQ) = range(8)
SLOT_INTS = 8
(OPEN, HIGH, LOW, CLOSE, VOLUME, VOLUME_REST, VALUE, VALUE_REST, BOUGHT, BOUGHT_REST) = range(10)
SLOT_FLOATS = 10
# A rule: what ends a bar (the place of its word in BAR_KINDS), after how many ns or ticks, slots, where state begins.
(BY, SPAN, SLOTS, FLOATS_AT, INTS_AT) = range(5)
RULE_INTS = 5
(BY_TIME, BY_TICKS, BY_VOLUME, _) = range(4)
# What is written of a bar that ends.
(TICK, SYMBOL, KIND, NUMBER_OUT, START, END, COUNT_OUT, REVISION_OUT, STATUS, IS_WHOLE) = range(10)
OUT_INTS = 10
(OPEN_OUT, HIGH_OUT, LOW_OUT, CLOSE_OUT, VOLUME_OUT, VALUE_OUT, BOUGHT_OUT) = range(7)
OUT_FLOATS = 7

_IS_TRADE, _IS_QUOTE = int(TickKind.TRADE), int(TickKind.QUOTE)
_FINAL, _REVISED = int(BarStatus.FINAL), int(BarStatus.REVISED)
_LARGEST = 1e290  # of a price, a size and their product, so that the product can be split into two floats
_SPLIT = 134217729.0  # 2**27 + 1: splits a float into halves of 26 bits
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
# For what runs once a tick.
_INLINED: dict[str, Any] = {**_OPTIONS, "forceinline": True}


class Rules(NamedTuple):
    """What to make, as tables."""

    rule_RQ: Int64
    limit_Q: Float64
    of_mids: bool  # of quotes' mids; else of trades
    gap_ns: int
    lateness_ns: int


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
    seq_N: Int64


def run(first: int, ticks: Ticks, rules: Rules, memory: Memory, int_BI: Int64, float_BO: Float64) -> tuple[int, ...]:
    """Move ``memory`` over the ticks from number ``first`` on, and write the bars that end, as long as there is room.

    Returns:
        The number of the tick to go on from, how many bars were written, and how many ticks came too late, or were
        dropped because the next one did not confirm their time.
    """
    return tuple(map(int, _run(first, *ticks, *rules, *memory, int_BI, float_BO)))


@njit(cache=True, **_OPTIONS)
def _run(  # noqa: PLR0913, PLR0917 - see `run`
    first: int,
    kind_N: Int8,
    symbol_N: Int32,
    ts_ns_N: Int64,
    price_N: Float64,
    size_N: Float64,
    side_N: Int8,
    bid_N: Float64,
    ask_N: Float64,
    seq_N: Int64,
    rule_RQ: Int64,
    limit_Q: Float64,
    of_mids: bool,
    gap_ns: int,
    lateness_ns: int,
    float_SK: Float64,
    int_SJ: Int64,
    wanted_S: Bool,
    dirty_B: Bool,
    int_BI: Int64,
    float_BO: Float64,
) -> tuple[int, int, int, int]:
    """See `run`; the fields of its arguments, in their order."""
    made = too_late = misdated = 0
    kinds, doubt_ns = len(limit_Q), max(gap_ns, lateness_ns)
    for i in range(first, len(ts_ns_N)):
        if made + 2 * kinds > len(int_BI):  # a tick that counts ends at most one bar of each kind, and two may count
            return i, made, too_late, misdated
        symbol, kind, seq = symbol_N[i], kind_N[i], seq_N[i]
        if symbol < 0 or not wanted_S[symbol]:
            continue
        f, j = float_SK[symbol], int_SJ[symbol]
        if seen_before(j, NUMBERS + kind * SEQ_INTS, seq, ts_ns_N[i] > j[CLOCK]):
            continue
        dirty_B[symbol >> 6] = True
        ts = ts_ns_N[i]
        price, size, bought = _price_of(of_mids, kind, price_N[i], size_N[i], side_N[i], bid_N[i], ask_N[i])
        if j[IS_PARKED] and ts >= j[CLOCK]:  # a straggler says nothing of the time that is parked
            j[IS_PARKED] = 0
            if ts >= j[PARKED_TS] - doubt_ns and ts - j[CLOCK] > doubt_ns:
                made = _count_parked(f, j, rule_RQ, limit_Q, gap_ns, lateness_ns, i, symbol, int_BI, float_BO, made)
            else:
                misdated += not np.isnan(f[PARKED_PRICE])
        if ts - j[CLOCK] > doubt_ns and j[TICKS] > 0:
            _park(f, j, ts, seq, price, size, bought)
            continue
        made, is_late = _count(
            f, j, rule_RQ, limit_Q, gap_ns, lateness_ns, ts, seq, price, size, bought, i, symbol, int_BI, float_BO, made
        )
        too_late += is_late
    return len(ts_ns_N), made, too_late, misdated


@njit(**_OPTIONS)
def _count_parked(  # noqa: PLR0913, PLR0917 - see `run`
    f: Float64,
    j: Int64,
    rule_RQ: Int64,
    limit_Q: Float64,
    gap_ns: int,
    lateness_ns: int,
    i: int,
    symbol: int,
    int_BI: Int64,
    float_BO: Float64,
    made: int,
) -> int:
    """Count the tick that was parked, which tick ``i`` has confirmed; return the bars written."""
    tick = j[PARKED_TS], j[PARKED_SEQ], f[PARKED_PRICE], f[PARKED_SIZE], f[PARKED_BOUGHT]
    made, _ = _count(f, j, rule_RQ, limit_Q, gap_ns, lateness_ns, *tick, i, symbol, int_BI, float_BO, made)
    return int(made)


@njit(**_INLINED)
def _park(f: Float64, j: Int64, ts: int, seq: int, price: float, size: float, bought: float) -> None:
    j[IS_PARKED], j[PARKED_TS], j[PARKED_SEQ] = 1, ts, seq
    f[PARKED_PRICE], f[PARKED_SIZE], f[PARKED_BOUGHT] = price, size, bought


@njit(**_INLINED)
def _count(  # noqa: PLR0913, PLR0917 - see `run`
    f: Float64,
    j: Int64,
    rule_RQ: Int64,
    limit_Q: Float64,
    gap_ns: int,
    lateness_ns: int,
    ts: int,
    seq: int,
    price: float,
    size: float,
    bought: float,
    i: int,
    symbol: int,
    int_BI: Int64,
    float_BO: Float64,
    made: int,
) -> tuple[int, bool]:
    """Move the clock by a tick that is believed, and add it; return the bars written, and whether it was too late."""
    is_over, restarts = _advance_clock(j, ts, gap_ns, lateness_ns)
    if is_over:
        made = _break_off(f, j, rule_RQ, restarts, i, symbol, int_BI, float_BO, made)
    if j[CLOCK] == ts:
        made = _close_by_time(f, j, rule_RQ, i, symbol, int_BI, float_BO, made)
    if np.isnan(price):
        return made, False
    if ts < j[COUNTS_FROM] or j[CLOCK] - ts > lateness_ns:
        _break_off(f, j, rule_RQ, False, i, symbol, int_BI, float_BO, made)
        j[WHOLE_FROM] = j[CLOCK]
        return made, True
    for q in range(len(limit_Q)):
        slot_f, slot_j = _slot_of(f, j, rule_RQ, q, ts)
        _add(slot_f, slot_j, ts, seq, price, size, bought)
        if _ends(slot_f, slot_j, j, rule_RQ, limit_Q, q):
            _write(slot_f, slot_j, j, rule_RQ, q, i, symbol, int_BI[made], float_BO[made])
            made += 1
    return made, False


@njit(**_INLINED)
def _advance_clock(j: Int64, ts: int, gap_ns: int, lateness_ns: int) -> tuple[bool, bool]:
    """Move the symbol's clock; return whether something may be missing before the tick, and whether all starts over."""
    j[TICKS] += 1
    dt = ts - j[CLOCK]
    is_first = j[TICKS] == 1
    if not is_first and dt < 0:
        j[BEHIND] = j[BEHIND] + 1 if -dt > max(gap_ns, lateness_ns) else 0
        if j[BEHIND] < RESYNC_TICKS:
            return False, False
    j[BEHIND] = 0
    j[CLOCK] = ts
    is_over = is_first or dt < 0 or dt > gap_ns
    if is_over:
        j[WHOLE_FROM] = ts
    restarts = dt < 0 and not is_first
    if restarts:
        j[COUNTS_FROM] = ts
    return is_over, restarts


@njit(**_OPTIONS)
def _break_off(
    f: Float64,
    j: Int64,
    rule_RQ: Int64,
    restarts: bool,
    i: int,
    symbol: int,
    int_BI: Int64,
    float_BO: Float64,
    made: int,
) -> int:
    """Mark the open bars as not whole, and end those by time where the clock was wrong; return the bars written."""
    for q in range(rule_RQ.shape[1]):
        at, slots = rule_RQ[INTS_AT, q], rule_RQ[SLOTS, q]
        is_by_time = rule_RQ[BY, q] == BY_TIME
        open_slot = j[at + NUMBER] % slots if is_by_time else 0
        begin = at + KIND_INTS + open_slot * SLOT_INTS
        slot_j = j[begin : begin + SLOT_INTS]
        is_open = not is_by_time or (slot_j[COUNT] > 0 and slot_j[OF_BAR] == j[at + NUMBER])
        if is_open:
            slot_j[WHOLE] = 0
        if not (restarts and is_by_time):
            continue
        if is_open:
            first = rule_RQ[FLOATS_AT, q] + open_slot * SLOT_FLOATS
            slot_f = f[first : first + SLOT_FLOATS]
            _write(slot_f, slot_j, j, rule_RQ, q, i, symbol, int_BI[made], float_BO[made])
            made += 1
        for k in range(slots):
            j[at + KIND_INTS + k * SLOT_INTS + COUNT] = 0
        j[at + NUMBER] = -1
        j[at + BASE] = j[at + USED]
    return made


@njit(**_INLINED)
def _close_by_time(
    f: Float64, j: Int64, rule_RQ: Int64, i: int, symbol: int, int_BI: Int64, float_BO: Float64, made: int
) -> int:
    """Write the bars by time that end at or before the clock; return the bars written."""
    for q in range(rule_RQ.shape[1]):
        at, width = rule_RQ[INTS_AT, q], rule_RQ[SPAN, q]
        if rule_RQ[BY, q] != BY_TIME or j[CLOCK] - j[at + NUMBER] * width < width:
            continue
        held = j[at + NUMBER] % rule_RQ[SLOTS, q]
        begin = at + KIND_INTS + held * SLOT_INTS
        slot_j = j[begin : begin + SLOT_INTS]
        if slot_j[COUNT] > 0 and slot_j[OF_BAR] == j[at + NUMBER]:
            first = rule_RQ[FLOATS_AT, q] + held * SLOT_FLOATS
            slot_f = f[first : first + SLOT_FLOATS]
            _write(slot_f, slot_j, j, rule_RQ, q, i, symbol, int_BI[made], float_BO[made])
            made += 1
        j[at + NUMBER] = j[CLOCK] // width
    return made


@njit(**_INLINED)
def _price_of(
    of_mids: bool, kind: int, price: float, size: float, side: int, bid: float, ask: float
) -> tuple[float, float, float]:
    """Return price, size and bought size; a price of NaN where the tick is not in bars."""
    if of_mids:
        mid = 0.5 * bid + 0.5 * ask
        return mid if kind == _IS_QUOTE and 0.0 < bid <= ask < np.inf else np.nan, 0.0, 0.0
    if kind != _IS_TRADE or not 0.0 < price < np.inf:
        return np.nan, 0.0, 0.0
    if not (0.0 < size < _LARGEST and price < _LARGEST and price * size < _LARGEST):
        return price, 0.0, 0.0
    return price, size, size if side > 0 else 0.0


@njit(**_INLINED)
def _slot_of(f: Float64, j: Int64, rule_RQ: Int64, q: int, ts: int) -> tuple[Float64, Int64]:
    """Return the slot of the bar that the tick belongs to; a bar that begins has no tick yet."""
    at, slot, number = rule_RQ[INTS_AT, q], 0, j[rule_RQ[INTS_AT, q] + NUMBER]
    is_by_time = rule_RQ[BY, q] == BY_TIME
    if is_by_time:
        if ts < number * rule_RQ[SPAN, q]:
            number = ts // rule_RQ[SPAN, q]
        slot = number % rule_RQ[SLOTS, q]
    begin, first = at + KIND_INTS + slot * SLOT_INTS, rule_RQ[FLOATS_AT, q] + slot * SLOT_FLOATS
    slot_j, slot_f = j[begin : begin + SLOT_INTS], f[first : first + SLOT_FLOATS]
    if slot_j[COUNT] == 0 or slot_j[OF_BAR] != number:
        slot_j[COUNT], slot_j[OF_BAR], slot_j[REVISION] = 0, number, j[at + BASE]
        if is_by_time:
            slot_j[WHOLE] = number * rule_RQ[SPAN, q] > j[WHOLE_FROM]
    return slot_f, slot_j


@njit(**_INLINED)
def _add(f: Float64, j: Int64, ts: int, seq: int, price: float, size: float, bought: float) -> None:
    """Add a tick to a slot; of ticks with one event time the higher number is the later, then the later arrival."""
    if j[COUNT] == 0:
        f[OPEN] = f[HIGH] = f[LOW] = f[CLOSE] = price
        for k in range(VOLUME, SLOT_FLOATS):
            f[k] = 0.0
        j[FIRST_TS] = j[LAST_TS] = ts
        j[FIRST_SEQ] = j[LAST_SEQ] = seq
    else:
        if ts < j[FIRST_TS] or (ts == j[FIRST_TS] and seq < j[FIRST_SEQ]):
            f[OPEN], j[FIRST_TS], j[FIRST_SEQ] = price, ts, seq
        if ts > j[LAST_TS] or (ts == j[LAST_TS] and seq >= j[LAST_SEQ]):
            f[CLOSE], j[LAST_TS], j[LAST_SEQ] = price, ts, seq
        f[HIGH], f[LOW] = max(f[HIGH], price), min(f[LOW], price)
    j[COUNT] += 1
    if size > 0.0:
        _sum(f, VOLUME, size)
        product, rest = _product(price, size)
        _sum(f, VALUE, product)
        _sum(f, VALUE, rest)
    if bought > 0.0:
        _sum(f, BOUGHT, bought)


@njit(**_INLINED)
def _ends(slot_f: Float64, slot_j: Int64, j: Int64, rule_RQ: Int64, limit_Q: Float64, q: int) -> bool:
    """Return whether the tick that was added ends its bar, or came behind the end of it."""
    if rule_RQ[BY, q] == BY_TIME:
        return bool(slot_j[OF_BAR] < j[rule_RQ[INTS_AT, q] + NUMBER])
    if rule_RQ[BY, q] == BY_TICKS:
        return bool(slot_j[COUNT] >= rule_RQ[SPAN, q])
    return bool(slot_f[VOLUME if rule_RQ[BY, q] == BY_VOLUME else VALUE] >= limit_Q[q])


@njit(**_INLINED)
def _sum(f: Float64, at: int, value: float) -> None:
    """Add ``value`` to the pair at ``at``, whose first float is the sum to the nearest float64 (TwoSum)."""
    total = f[at] + value
    seen = total - f[at]
    rest = (f[at] - (total - seen)) + (value - seen) + f[at + 1]
    f[at] = total + rest
    f[at + 1] = rest - (f[at] - total)


@njit(**_INLINED)
def _product(a: float, b: float) -> tuple[float, float]:
    """Return a * b and what it lacks to the exact product (TwoProd of Dekker)."""
    product, x, y = a * b, _SPLIT * a, _SPLIT * b
    a_high, b_high = x - (x - a), y - (y - b)
    a_low, b_low = a - a_high, b - b_high
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


@njit(**_OPTIONS)
def _write(
    slot_f: Float64,
    slot_j: Int64,
    j: Int64,
    rule_RQ: Int64,
    q: int,
    i: int,
    symbol: int,
    int_I: Int64,
    float_O: Float64,
) -> None:
    """Write a bar that ends with tick ``i``, and make its slot ready for what may follow."""
    at, is_by_time = rule_RQ[INTS_AT, q], rule_RQ[BY, q] == BY_TIME
    int_I[TICK], int_I[SYMBOL], int_I[KIND], int_I[NUMBER_OUT] = i, symbol, q, slot_j[OF_BAR]
    if is_by_time:
        int_I[START] = slot_j[OF_BAR] * rule_RQ[SPAN, q]
        int_I[END] = int_I[START] + rule_RQ[SPAN, q]
    else:
        int_I[START], int_I[END] = slot_j[FIRST_TS], slot_j[LAST_TS]
    int_I[COUNT_OUT], int_I[REVISION_OUT], int_I[IS_WHOLE] = slot_j[COUNT], slot_j[REVISION], slot_j[WHOLE]
    int_I[STATUS] = _REVISED if slot_j[REVISION] > j[at + BASE] else _FINAL
    float_O[OPEN_OUT], float_O[HIGH_OUT] = slot_f[OPEN], slot_f[HIGH]
    float_O[LOW_OUT], float_O[CLOSE_OUT] = slot_f[LOW], slot_f[CLOSE]
    float_O[VOLUME_OUT], float_O[VALUE_OUT], float_O[BOUGHT_OUT] = slot_f[VOLUME], slot_f[VALUE], slot_f[BOUGHT]
    slot_j[REVISION] += 1
    j[at + USED] = max(j[at + USED], slot_j[REVISION])
    if not is_by_time:
        j[at + NUMBER] += 1
        slot_j[COUNT], slot_j[WHOLE] = 0, 1
