"""Bars of a worker on a real Kafka: those of an undisturbed run, and those of symbols that fell silent."""

import json
import time

import pytest

from data_io.topics import admin, bars, ticks
from data_io.topics.records import Records
from ml_core.data_processor.bars import BarPlan, BarState, step
from ml_core.data_processor.silent_bars import SilentBars
from ml_core.types import SECOND_NS, SymbolTable
from model_ops_manager import parity
from tests.integration.test_parity import send
from tests.integration.worker_lab import stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SOURCE = "synthetic:symbols=6,ticks=10000,rate=500,seed={seed}"


async def expected_bars(lab, spec) -> tuple[dict[str, bytes], set[bytes]]:
    """Bars computed offline, from the first tick of each partition on: those by name, and those that stay open."""
    topic_id = (await admin.describe(lab.kafka, lab.topic)).topic_id
    ended, still_open = {}, set()
    for partition in range(lab.partitions):
        state = BarState(BarPlan.from_spec(spec), SymbolTable())
        records = [r async for r in lab.records(lab.topic, partition)]
        columns = ([r.offset for r in records], [r.key for r in records], [r.value for r in records])
        batch, _ = ticks.TickDecoder().decode(Records(*columns, [()] * len(records)), state.symbols)
        for _, value, _ in bars.encode(step(batch, state), topic_id=topic_id, partition=partition):
            ended[bars.decode(value).id] = value
        silent = SilentBars(state)
        silent.due(time.time_ns())
        due = silent.due(time.time_ns() + 60 * SECOND_NS)
        still_open |= {value for _, value, _ in bars.encode(due, topic_id=topic_id, partition=partition)}
    return ended, still_open


async def live_bars(lab, spec) -> tuple[dict[str, bytes], set[bytes]]:
    """What stands in the topic: bars by name, which have one value each, and provisional ones."""
    ended, provisional = {}, set()
    for partition in range(lab.partitions):
        async for record in lab.records(bars.name(spec.feature_set), partition):
            bar = bars.decode(record.value)
            if bar.id is None:
                provisional.add(record.value)
            else:
                assert ended.setdefault(bar.id, record.value) == record.value, f"two values for one bar: {bar.id}"
    return ended, provisional


async def test_a_worker_killed_in_the_middle_leaves_the_bars_of_an_undisturbed_run_and_shows_what_is_open(lab) -> None:
    spec = lab.pipeline("bars", bars={"by": ["time:1s", "ticks:50", "volume:100"]})
    await lab.publish(SOURCE.format(seed=3))
    process = lab.start(spec, instance="a")
    await lab.until(lambda: _some(lab, spec))
    process.kill()
    process.wait(10)
    await lab.publish(SOURCE.format(seed=4))
    ended, still_open = await expected_bars(lab, spec)
    assert {bars.decode(value).status for value in ended.values()} == {"final", "revised"}
    assert len(still_open) > 1

    process = lab.start(spec, instance="a")

    async def all_there() -> bool:
        found, provisional = await live_bars(lab, spec)
        return len(found) >= len(ended) and still_open <= provisional

    await lab.until(all_there)
    assert (await live_bars(lab, spec))[0] == ended
    assert stop(process) == 0

    found = await parity.verify(lab.kafka, spec, models=None)  # nothing was scored

    assert found.is_equal, found.as_dict()
    assert (found.bars.compared, found.bars.unchecked.total()) == (len(ended), 0)
    changed = json.loads(next(iter(ended.values()))) | {"volume": 0.125}
    await send(lab, bars.name(spec.feature_set), json.dumps(changed).encode())
    found = await parity.verify(lab.kafka, spec, models=None)
    assert (found.bars.conflicting, found.rows.is_equal, found.is_equal) == (1, True, False)


async def test_after_a_kill_and_a_change_of_rules_no_name_has_two_values_and_none_is_missing(
    lab,
) -> None:
    rules = {"by": ["time:1s", "ticks:50"]}
    spec = lab.pipeline("changed", bars=rules)
    await lab.publish(SOURCE.format(seed=3))
    process = lab.start(spec, instance="a", checkpoint_s="60")  # all that is out is a tail
    await lab.until(lambda: _some(lab, spec))
    process.kill()
    process.wait(10)
    await lab.publish(SOURCE.format(seed=4))
    before = await live_bars(lab, spec)  # now what the killed worker had sent has reached the topic
    parts = {"features": {"use": ["return:1s"]}, "source": {"topic": lab.topic, "lateness": "1s"}}
    changed = lab.pipeline("changed", bars=rules, **parts)

    process = lab.start(changed, instance="a")
    expected = await lab.expected_rows(changed)
    found = await lab.until_rows(changed, len(expected))  # which have one value each
    assert stop(process) == 0

    assert found.keys() == expected.keys()
    ended, _ = await live_bars(lab, changed)
    assert before[0].items() <= ended.items()
    fresh = [bars.decode(value).revision for name, value in ended.items() if name not in before[0]]
    assert min(fresh) >= 1


async def _some(lab, spec) -> bool:
    return bool((await live_bars(lab, spec))[0])
