"""From ticks to rows: one step over a batch. Plans, state and the catalogue can be had from here.

Shapes: N ticks, R rows, A accepted ticks, S symbols, K floats of state, F features.
"""

from typing import Any, NamedTuple

import numpy as np

from ml_core.data_processor import kernels
from ml_core.data_processor.catalogue import CATALOGUE, DEFAULT_USE, Feature
from ml_core.data_processor.cleaning import select
from ml_core.data_processor.kernel_tables import TICK_DTYPES, UNCOUNTED, Memory, Rows, Ticks
from ml_core.data_processor.kernels import KERNEL_VERSION
from ml_core.data_processor.own import evaluate
from ml_core.data_processor.plan import FeaturePlan
from ml_core.data_processor.state import FeatureState
from ml_core.data_processor.windows import link
from ml_core.spec import PipelineSpec
from ml_core.types import Int64, RowBatch, SymbolTable, TickBatch, as_compiled

__all__ = [
    "CATALOGUE",
    "DEFAULT_USE",
    "KERNEL_VERSION",
    "Feature",
    "FeaturePlan",
    "FeatureState",
    "Moved",
    "move",
    "step",
    "warm_up",
]

_DTYPES = [np.dtype(dtype) for _, dtype in TICK_DTYPES]  # comparing with a name would parse it each time


class Moved(NamedTuple):
    """What a pass over N ticks gives."""

    rows: RowBatch
    lag_N: Int64  # by tick: its symbol's clock minus its time, ns, where that left the clock; else 0, or UNCOUNTED


def step(ticks: TickBatch, state: FeatureState) -> RowBatch:
    """Return the rows of ``move``; raises as that."""
    return move(ticks, state).rows


def move(ticks: TickBatch, state: FeatureState) -> Moved:
    """Move ``state`` over ``ticks`` and return one row for each that counts, in the same order, and how late each was.

    No row: duplicates (a ``seq`` already seen of that symbol and kind), symbols the plan does not want, and kinds
    outside ``rows_on``, which move state all the same. Where batches are cut makes no difference.

    Raises:
        InputError: An own feature failed. A retry will not help.
    """
    plan, memory = state.plan, state.memory()
    n = len(ticks)
    # Read-only memory is copied, or the kernel would be compiled once more.
    given: tuple[Any, ...] = ticks[2:-1]
    columns = Ticks._make(map(as_compiled, given, _DTYPES))
    made = Rows(
        x_NF=np.empty((n, len(plan.names)), np.float32),
        mid_N=np.empty(n),
        spread_N=np.empty(n),
        flags_N=np.empty(n, np.uint8),
        tick_N=np.empty(n, np.int64),
        lag_N=np.full(n, UNCOUNTED),
    )
    count = kernels.run(columns, plan.compiled.program, memory, made, state.scratch)
    if plan.own:
        _add_own(ticks, plan, memory, made, count)
    of_ticks: list[Any] = [ticks.offset_N, ticks.index_N, columns.symbol_N, columns.ts_ns_N]
    of_rows: list[Any] = [made.mid_N, made.spread_N, made.x_NF, made.flags_N]
    if count == n:  # the usual case, a row for each tick
        of_ticks = [column.copy() for column in of_ticks]
    else:
        tick_R = made.tick_N[:count]
        of_ticks = [column[tick_R] for column in of_ticks]
        of_rows = [column[:count] for column in of_rows]
    return Moved(RowBatch(*[*of_ticks, *of_rows, ticks.symbols]), made.lag_N)


def warm_up() -> None:
    """Compile the kernels, or read them from their cache, so that the first batch does not wait for it.

    Compiling takes about ten seconds and is done once for an installation; reading takes half a second.
    """
    plan = FeaturePlan.from_spec(PipelineSpec(name="warm-up"))
    none = np.empty(0)
    columns: dict[str, Any] = dict.fromkeys(TickBatch._fields, none) | {"symbols": []}
    step(TickBatch(**columns), FeatureState(plan, SymbolTable(["none"])))
    link(np.empty(0, np.int32), np.empty(0, np.uint8), 2)


def _add_own(ticks: TickBatch, plan: FeaturePlan, memory: Memory, made: Rows, count: int) -> None:
    accepted_N = made.lag_N != UNCOUNTED
    seen = select(ticks, accepted_N)
    place_N = np.cumsum(accepted_N) - 1  # of a tick among those accepted
    first = plan.compiled.floats
    for own in plan.own:
        value_A = evaluate(own, seen, memory.float_SK[:, first : first + own.width])
        made.x_NF[:count, own.column] = value_A[place_N[made.tick_N[:count]]]
        first += own.width
