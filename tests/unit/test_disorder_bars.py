"""Bars of a log in disorder are those that the rules, written down a second time, make of its ticks."""

import random

import pytest

from data_io.topics import bars as topic
from data_io.topics.records import Records
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import bars
from ml_core.data_processor.bars import BarPlan, BarState
from ml_core.spec import parse
from ml_core.types import SymbolTable
from tests.faults import bar_oracle, disorder


@pytest.mark.parametrize("seed", [1, 2, 60, 72])  # in 60 and 72 misdated ticks come again behind others
def test_final_bars_of_a_log_in_disorder_are_those_of_the_ticks_that_count(seed) -> None:
    spec = parse({"name": "demo", "bars": {"by": disorder.BARS}})
    gap_ns, lateness_ns = spec.features.gap, spec.source.lateness
    log = disorder.make(6_000, random.Random(seed), gap_ns=gap_ns, lateness_ns=lateness_ns)
    state = BarState(BarPlan.from_spec(spec), SymbolTable())
    keys, values = zip(*log.records, strict=True)
    ticks, _ = TickDecoder().decode(Records(range(len(keys)), keys, values, [()] * len(keys)), state.symbols)
    made = bars.step(ticks, state)

    published = [topic.decode(value) for _, value, _ in topic.encode(made, topic_id="id", partition=0)]
    expected = bar_oracle.bars_of(log.of_symbol, spec.bars, gap_ns=gap_ns, lateness_ns=lateness_ns)

    assert bar_oracle.highest(published) == expected
    assert made.too_late > 0
    assert made.misdated > 0
    assert max(bar.revision for bar in published) > 1
    assert {kind for _, kind, _ in expected} == set(disorder.BARS)
