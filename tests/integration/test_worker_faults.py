"""The worker when things go wrong around it: Kafka dies, features change while a model serves."""

import os
import signal
import time
from pathlib import Path

import pytest

from data_io.topics import admin, ticks
from streams.local_kafka import broker
from tests.integration.worker_lab import WorkerLab, stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SOURCE = "synthetic:symbols=6,ticks={ticks},rate=500,seed={seed}"
STOP_S = 12  # the worker's own bound is 9.5 s


def brokers() -> set[int]:
    """Process ids of the brokers that this process has started: children of its children."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            about, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(folder.name)] = int(about.rpartition(")")[2].split()[1]), command
    return {
        pid
        for pid, (parent, command) in parents.items()
        if b"kafka.Kafka" in command.split(b"\0") and parents.get(parent, (0, b""))[0] == os.getpid()
    }


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the broker's process")
async def test_a_worker_stops_in_time_although_kafka_is_gone(unique, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("TICKWISE_KAFKA", raising=False)
    others = brokers()
    with broker() as address:
        victims = brokers() - others
        if len(victims) != 1:
            pytest.skip("Kafka does not run from its jars here")
        lab = WorkerLab(address, unique, tmp_path)
        await lab.create_topic()
        spec = lab.pipeline("gone")
        process = lab.start(spec, checkpoint_s="60")  # there is something to write when it stops
        try:
            await lab.until(lambda: lab.log().count("partition taken over") == 2)
            await lab.until_rows(spec, await lab.publish(SOURCE.format(ticks=2_000, seed=3)))
            os.kill(victims.pop(), signal.SIGKILL)
            await lab.until(lambda: "Unable connect to node" in lab.log())
            began = time.monotonic()
            assert stop(process) == 0
            assert time.monotonic() - began < STOP_S
        finally:
            lab.stop_all()


async def test_a_worker_that_is_stopped_while_it_starts_ends_at_once(lab, compiled_kernels) -> None:
    process = lab.start(lab.pipeline("early"))
    await lab.until(lambda: "worker starts" in lab.log())

    assert stop(process) == 0

    assert "worker started" not in lab.log()


async def test_changed_features_are_rebuilt_from_the_ticks_and_rows_that_are_out_stay_as_they_are(lab) -> None:
    before = lab.pipeline("changed", features={"set": f"set-{lab.unique}", "use": ["return:1s", "spread_ratio"]})
    after = lab.pipeline("changed", features={"set": f"set-{lab.unique}", "use": ["return:10s", "spread_ratio"]})
    count = await lab.publish(SOURCE.format(ticks=4_000, seed=3))
    process = lab.start(before)
    old = await lab.until_rows(before, count)
    assert stop(process) == 0
    await lab.publish(SOURCE.format(ticks=4_000, seed=4))
    expected = await lab.expected_rows(after)

    process = lab.start(after)
    found = await lab.until_rows(after, len(expected))
    assert stop(process) == 0
    process = lab.start(after)  # blocks of the old features must not be in its way
    await lab.until(lambda: lab.log().count("partition taken over") == 2)
    assert stop(process) == 0

    assert {name: value for name, value in found.items() if name not in old} == {
        name: value for name, value in expected.items() if name not in old
    }
    assert "features changed" not in lab.log()


async def test_a_widened_topic_is_refused_by_the_group_that_knew_it_and_a_new_group_goes_on(lab) -> None:
    spec = lab.pipeline("widened")
    process = lab.start(spec)
    await lab.until_rows(spec, await lab.publish(SOURCE.format(ticks=1_000, seed=3)))
    assert stop(process) == 0
    lab.partitions *= 2
    await admin.ensure_topics(lab.kafka, [ticks.topic_spec(lab.topic, lab.partitions)], widen=True)
    await lab.publish(SOURCE.format(ticks=1_000, seed=4))
    expected = await lab.expected_rows(spec)

    process = lab.start(spec)
    assert await lab.until(process.poll) == 2
    assert f"had {lab.partitions // 2} partitions and has {lab.partitions}" in lab.log()

    process = lab.start(spec, group=f"{spec.name}-2")
    assert await lab.until_rows(spec, len(expected)) == expected
    assert stop(process) == 0
