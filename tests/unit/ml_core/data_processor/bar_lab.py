"""Bars by hand: what a pipeline with ``[bars]`` makes of some ticks, as plain tuples."""

from typing import Any, NamedTuple

from ml_core.data_processor.bars import BarPlan, BarState, step
from ml_core.spec import PipelineSpec, parse
from ml_core.types import BarBatch, BarStatus, SymbolTable
from tests.unit.ml_core.data_processor.market import START_NS, Tick, batch


class Bar(NamedTuple):
    symbol: str
    kind: str
    number: int
    start_s: float  # after START_NS, as of ticks
    end_s: float
    prices: tuple[float, float, float, float]  # open, high, low, close
    volume: float
    value: float
    buy_volume: float
    ticks: int
    revision: int
    status: BarStatus
    complete: bool
    cause: int  # place of the tick that made it be written; -1: none did


def pipeline(*by: str, price: str = "trade", lateness: str = "5s", **parts: Any) -> PipelineSpec:
    source = {"lateness": lateness, **parts.pop("source", {})}
    return parse({"name": "test", "source": source, "bars": {"by": by, "price": price}, **parts})


def state_of(spec: PipelineSpec) -> BarState:
    plan = BarPlan.from_spec(spec)
    assert plan is not None
    return BarState(plan, SymbolTable())


def bars(ticks: list[Tick], spec: PipelineSpec) -> list[Bar]:
    state = state_of(spec)
    return listed(step(batch(ticks, state.symbols), state))


def listed(made: BarBatch) -> list[Bar]:
    columns = [column.tolist() for column in made[:-4]]
    found = []
    for offset, _, symbol, kind, number, start, end, *values in zip(*columns, strict=True):
        opened, high, low, close, volume, value, _, bought, ticks, revision, status, complete = values
        found.append(
            Bar(
                made.symbols[symbol],
                made.kinds[kind],
                number,
                (start - START_NS) / 1e9,
                (end - START_NS) / 1e9,
                (opened, high, low, close),
                volume,
                value,
                bought,
                ticks,
                revision,
                BarStatus(status),
                complete,
                offset,
            )
        )
    return found


def latest(made: list[Bar]) -> dict[tuple[str, str, int], Bar]:
    """The highest revision of each bar; a name stands once."""
    names = [(bar.symbol, bar.kind, bar.number, bar.revision) for bar in made]
    assert len(names) == len(set(names))
    return {(bar.symbol, bar.kind, bar.number): bar for bar in sorted(made, key=lambda bar: bar.revision)}
