"""From ticks to bars: one step over a batch. Plans and state can be had from here.

Shapes: N ticks, B bars, O floats and I integers of a bar.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ml_core.data_processor import bar_kernel as k
from ml_core.data_processor.bar_plan import BAR_KERNEL_VERSION, BarPlan
from ml_core.data_processor.kernel_tables import TICK_DTYPES
from ml_core.data_processor.state import BarState
from ml_core.spec import Bars, PipelineSpec
from ml_core.types import BarBatch, Float64, Int64, SymbolTable, TickBatch, as_compiled

__all__ = ["BAR_KERNEL_VERSION", "BarPlan", "BarState", "columns_of", "step", "warm_up"]

ROOM = 1024  # bars the kernel writes at once
_DTYPES = [(name, np.dtype(dtype)) for name, dtype in TICK_DTYPES if name in k.Ticks._fields]


def step(ticks: TickBatch, state: BarState) -> BarBatch:
    """Move ``state`` over ``ticks`` and return the bars that ended or were revised, each as often as it was.

    In no bar: duplicates (a ``seq`` already seen of that symbol and kind), ticks later than the lateness, those too far
    ahead whose time the next tick did not confirm, symbols the plan does not want. Where batches are cut makes no
    difference.
    """
    memory = state.memory()
    columns = k.Ticks._make(as_compiled(getattr(ticks, name), dtype) for name, dtype in _DTYPES)
    parts: list[tuple[Int64, Float64]] = []
    begin = too_late = misdated = 0
    while begin < len(ticks) or not parts:
        int_BI, float_BO = np.empty((ROOM, k.OUT_INTS), np.int64), np.empty((ROOM, k.OUT_FLOATS))
        begin, made, late, dropped = k.run(begin, columns, state.plan.rules, memory, int_BI, float_BO)
        parts.append((int_BI[:made], float_BO[:made]))
        too_late, misdated = too_late + late, misdated + dropped
    int_BI, float_BO = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    tick_B = int_BI[:, k.TICK]
    place = ticks.offset_N[tick_B], ticks.index_N[tick_B]
    of_all = state.symbols.names, state.plan.kinds, too_late, misdated
    fields: list[Any] = [*place, *columns_of(int_BI, float_BO), *of_all]
    return BarBatch(*fields)


def columns_of(int_BI: Int64, float_BO: Float64) -> Sequence[Any]:
    """Return the columns of a `BarBatch` from `symbol_B` to `complete_B`, of bars as the kernel writes them."""
    if not len(int_BI):  # the usual case
        return _NO_BARS
    int_IB, float_OB = int_BI.T, float_BO.T
    volume_B, value_B = float_OB[k.VOLUME_OUT], float_OB[k.VALUE_OUT]
    return (
        int_IB[k.SYMBOL].astype(np.int32),
        int_IB[k.KIND].astype(np.int32),
        int_IB[k.NUMBER_OUT],
        int_IB[k.START],
        int_IB[k.END],
        *float_OB[k.OPEN_OUT : k.CLOSE_OUT + 1],
        volume_B,
        value_B,
        np.divide(value_B, volume_B, out=np.full(len(volume_B), np.nan), where=volume_B > 0),
        float_OB[k.BOUGHT_OUT],
        int_IB[k.COUNT_OUT],
        int_IB[k.REVISION_OUT],
        int_IB[k.STATUS].astype(np.int8),
        int_IB[k.IS_WHOLE] != 0,
    )


def warm_up() -> None:
    """Compile the kernel, or read it from its cache, so that the first batch does not wait for it."""
    plan = BarPlan.of(PipelineSpec(name="warm-up"), Bars(by=("time:10s",)))
    none = np.empty(0)
    columns: dict[str, Any] = dict.fromkeys(TickBatch._fields, none) | {"symbols": []}
    step(TickBatch(**columns), BarState(plan, SymbolTable(["none"])))


_INTS, _FLOATS, _NONE = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int32)
_NO_BARS = (_NONE, _NONE, *[_INTS] * 3, *[_FLOATS] * 8, _INTS, _INTS, np.empty(0, np.int8), np.empty(0, np.bool_))
