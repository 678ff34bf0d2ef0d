"""From ticks to bars: one step over a batch. Plans and state can be had from here.

Shapes: N ticks, B bars, O floats and I integers of a bar.
"""

from typing import Any

import numpy as np

from ml_core.data_processor import bar_kernel as k
from ml_core.data_processor.bar_plan import BAR_KERNEL_VERSION, BarPlan
from ml_core.data_processor.kernels import TICK_DTYPES
from ml_core.data_processor.state import BarState
from ml_core.spec import Bars, PipelineSpec
from ml_core.types import BarBatch, BarStatus, Float64, Int32, Int64, SymbolTable, TickBatch, as_compiled

__all__ = ["BAR_KERNEL_VERSION", "BarPlan", "BarState", "batch_of", "step", "warm_up"]

ROOM = 1024  # bars the kernel writes at once
_DTYPES = [(name, np.dtype(dtype)) for name, dtype in TICK_DTYPES if name in k.Ticks._fields]


def step(ticks: TickBatch, state: BarState) -> BarBatch:
    """Move ``state`` over ``ticks`` and return the bars that ended or were revised, each as often as it was.

    In no bar: duplicates (a ``seq`` already seen of that symbol and kind), ticks later than the lateness, symbols the
    plan does not want. Where batches are cut makes no difference.
    """
    memory = state.memory()
    columns = k.Ticks._make(as_compiled(getattr(ticks, name), dtype) for name, dtype in _DTYPES)
    int_BI, float_BO = np.empty((ROOM, k.OUT_INTS), np.int64), np.empty((ROOM, k.OUT_FLOATS))
    ints: list[Int64] = []
    floats: list[Float64] = []
    begin = too_late = 0
    while True:
        begin, made, late = k.run(begin, columns, state.plan.rules, memory, int_BI, float_BO)
        too_late += late
        ints.append(int_BI[:made].copy())
        floats.append(float_BO[:made].copy())
        if begin == len(ticks):
            break
    int_BI, float_BO = np.concatenate(ints), np.concatenate(floats)
    tick_B = int_BI[:, k.TICK]
    made_by = ticks.offset_N[tick_B], ticks.index_N[tick_B]
    return batch_of(int_BI, float_BO, state, *made_by, too_late=too_late)


def batch_of(
    int_BI: Int64, float_BO: Float64, state: BarState, offset_B: Int64, index_B: Int32, *, too_late: int
) -> BarBatch:
    """Return the bars that stand in what the kernel has written."""
    volume_B, value_B = float_BO[:, k.VOLUME_OUT], float_BO[:, k.VALUE_OUT]
    return BarBatch(
        offset_B=offset_B,
        index_B=index_B,
        symbol_B=int_BI[:, k.SYMBOL].astype(np.int32),
        kind_B=int_BI[:, k.KIND].astype(np.int32),
        number_B=int_BI[:, k.NUMBER_OUT],
        start_ns_B=int_BI[:, k.START],
        end_ns_B=int_BI[:, k.END],
        open_B=float_BO[:, k.OPEN_OUT],
        high_B=float_BO[:, k.HIGH_OUT],
        low_B=float_BO[:, k.LOW_OUT],
        close_B=float_BO[:, k.CLOSE_OUT],
        volume_B=volume_B,
        value_B=value_B,
        vwap_B=np.divide(value_B, volume_B, out=np.full(len(volume_B), np.nan), where=volume_B > 0),
        buy_volume_B=float_BO[:, k.BOUGHT_OUT],
        ticks_B=int_BI[:, k.COUNT_OUT],
        revision_B=int_BI[:, k.REVISION_OUT],
        status_B=np.where(int_BI[:, k.IS_REVISED] != 0, BarStatus.REVISED, BarStatus.FINAL).astype(np.int8),
        complete_B=int_BI[:, k.IS_WHOLE] != 0,
        symbols=state.symbols.names,
        kinds=state.plan.kinds,
        too_late=too_late,
    )


def warm_up() -> None:
    """Compile the kernel, or read it from its cache, so that the first batch does not wait for it."""
    plan = BarPlan.of(PipelineSpec(name="warm-up"), Bars(by=("time:10s",)))
    none = np.empty(0)
    columns: dict[str, Any] = dict.fromkeys(TickBatch._fields, none) | {"symbols": []}
    step(TickBatch(**columns), BarState(plan, SymbolTable(["none"])))
