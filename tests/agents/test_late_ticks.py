"""Ticks that come later than lateness: their rows stand as ever, and their records go to a topic of their own."""

import numpy as np
import pytest

from data_io.topics import late_ticks, rows
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import parse
from ml_core.types import RowFlag
from streams import metrics
from streams.agents import windowing
from streams.partition_state import PartitionState
from streams.transport.batch_channel import Batch
from streams.transport.tails import Tails
from tests.agents.conftest import partition_of
from tests.agents.in_memory import ARROW, TOPIC, TRACE, arrow, fetch_of, quote

LETTERS = late_ticks.name(TOPIC)
S = 10**9
NOW = 1_700_000_000 * S


def at(*seconds: float) -> list[bytes]:
    return [quote(NOW + round(second * S)) for second in seconds]


async def run(partition, *fetches) -> None:
    for fetch in fetches:
        batch = Batch(partition, fetch)
        windowing.process([batch], TickDecoder())
        await batch.ended


def said(partition) -> list[tuple[str, str, str]]:
    """Offset, places and lateness of each letter."""
    parts = ("offset", "index", "late-ns")
    return [
        tuple(dict(headers)[f"tickwise.late.{part}"].decode() for part in parts)
        for *_, headers in partition.outputs.of(LETTERS)
    ]


async def test_a_record_later_than_lateness_is_copied_byte_for_byte_and_its_row_stands(partition, spec) -> None:
    # second 0  60  55: just within  54.999: beyond  {: no tick  61
    values = [*at(0, 60, 55, 54.999), b"{", *at(61)]

    await run(partition, fetch_of(values, first_offset=7))

    [(key, value, headers)] = partition.outputs.of(LETTERS)
    assert (key, value, headers[0]) == (b"ACME", values[3], TRACE)
    assert said(partition) == [("10", "0", "5001000000")]
    made = [rows.decode(record[1]).rows for record in partition.outputs.of(rows.name(spec.feature_set))]
    flags_N = np.concatenate([each.flags_N for each in made])
    assert [bool(flags & RowFlag.LATE) for flags in flags_N.tolist()] == [False, False, True, True, False]


async def test_late_ticks_are_counted_as_within_lateness_or_beyond(partition) -> None:
    counters = [metrics.LATE.labels(TOPIC, beyond) for beyond in ("true", "false")]
    before = [counter._value.get() for counter in counters]

    await run(partition, fetch_of(at(60, 50, 58, 59, 61, 10)))

    assert [counter._value.get() - count for counter, count in zip(counters, before, strict=True)] == [2, 2]


async def test_the_bound_is_that_of_the_pipeline_file() -> None:
    partition = partition_of(parse({"name": "demo", "source": {"lateness": "1s"}}))

    await run(partition, fetch_of(at(60, 59, 58.999)))

    assert said(partition) == [("2", "0", "1001000000")]


async def test_an_arrow_record_is_copied_once_and_its_letter_names_the_late_rows(partition) -> None:
    value = arrow(*at(60, 50, 61, 49, 48, 62))

    await run(partition, fetch_of([value], first_offset=3, headers=(ARROW, TRACE)))

    [(key, copied, headers)] = partition.outputs.of(LETTERS)
    assert (key, copied, headers[:2]) == (b"ACME", value, [ARROW, TRACE])
    assert said(partition) == [("3", "1,3-4", "13000000000")]


async def test_where_batches_are_cut_makes_no_difference(partition) -> None:
    values = at(60, 50, 61, 49, 62, 60, 40)

    await run(partition, *[fetch_of([value], first_offset=offset) for offset, value in enumerate(values)])

    assert said(partition) == [("1", "0", "10000000000"), ("3", "0", "12000000000"), ("6", "0", "22000000000")]


async def test_what_is_out_already_is_not_copied_again(partition) -> None:
    partition.tails = Tails(3)

    await run(partition, fetch_of(at(60, 50, 61, 49)))

    assert said(partition) == [("3", "0", "12000000000")]


@pytest.mark.parametrize("symbols", [None, ["ACME"]])
async def test_several_feature_sets_make_one_letter(partition, spec, symbols) -> None:
    # one wants nothing, one believes the gap later: the clock that is furthest says how late
    others = [
        parse({"name": "nothing", "source": {"symbols": ["OTHER"]}}),
        parse({"name": "all", "source": {"symbols": symbols}, "features": {"gap": "1h"}}),
    ]
    sets = {each.feature_set: (FeaturePlan.from_spec(each), [each]) for each in (spec, *others)}
    partition.state = PartitionState(sets, {})

    await run(partition, fetch_of(at(0, 100, 50)))

    assert said(partition) == [("2", "0", "50000000000")]
