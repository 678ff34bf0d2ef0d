"""A partition that is too far behind skips to the latest: what that takes, and what it does not do. No broker."""

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from data_io.topics.raw_records import RawFetch
from model_ops_manager.shed import MAX_RANGES, Shed
from streams.transport import tick_source
from streams.transport.partition import Phase
from streams.transport.state_log import Manifest
from streams.transport.tick_fetcher import TickFetcher
from streams.transport.tick_source import TickSource
from tests.agents.in_memory import quotes
from tests.unit.streams.partition_lab import keep_commits, move, opened
from tests.unit.streams.test_partition import CHAMPION, SPEC, manifest, partition  # noqa: F401

LIMIT = 100


@pytest.fixture
async def late(partition):  # noqa: F811 - the fixture
    """A partition at work: 30 ticks are in its state and out."""
    partition.shared = dataclasses.replace(partition.shared, shed_lag=LIMIT)
    await move(opened(partition), quotes(30))
    return partition


def counted() -> float:
    labels = {"topic": "ticks", "partition": "0"}
    return REGISTRY.get_sample_value("tickwise_shed_ticks_total", labels) or 0.0


async def test_it_starts_empty_at_the_latest_once_a_checkpoint_says_so(late) -> None:
    kept, before = keep_commits(late), counted()
    keys = {key for key, _ in late.state.dump()}
    late.fetched.append(RawFetch(b"x", 30, []))

    late._skip_to(500)
    assert not late.takes_batches
    assert (late.position, list(late.fetched), kept) == (30, [], [])
    await late._task

    [(written, blocks)] = kept
    assert (written.position, written.shed) == (500, Shed(((30, 500),), 470))
    assert dict(blocks) == dict.fromkeys(keys)
    assert (late.position, late.phase, len(late.state.symbols)) == (500, Phase.OPEN, 0)
    assert counted() - before == 470
    assert late._snapshot({})[0].shed == written.shed, "the next checkpoint still says so"


async def test_a_skip_comes_before_the_checkpoint_that_is_due(late) -> None:
    kept = keep_commits(late)
    late.serving, late._next_checkpoint = {SPEC.name: CHAMPION}, 0.0

    assert late.look_around(31 + LIMIT)
    await late._task

    assert [written.position for written, _ in kept] == [31 + LIMIT]


async def test_nothing_is_skipped_where_the_checkpoint_fails(late) -> None:
    commits = []

    async def fails(written, _blocks) -> None:
        commits.append(written)
        raise ConnectionError("unknown")

    before, late._log.commit = counted(), fails
    late._skip_to(500)
    await asyncio.wait([late._task])

    with pytest.raises(ConnectionError):
        late.look_around()
    assert (late.position, late.takes_batches, counted()) == (30, False, before)
    late._task = asyncio.create_task(fails(None, None))
    await late.close(checkpoint=True)
    assert len(commits) == 2, "its memory is not trusted with a last checkpoint"


async def test_labelled_rows_go_on_counting(late) -> None:
    keep_commits(late)
    counter = late.state.labelled[SPEC.name]
    matured = counter.matured
    late._skip_to(500)
    await late._task

    await move(late, quotes(1, start_s=1_800_000_000), 500)
    assert counter.matured == matured, "its symbol warms up: nobody knows whether that is the time"
    await move(late, quotes(20, start_s=1_800_000_030), 501)
    await move(late, quotes(1, start_s=1_800_000_060), 521)

    assert late.state.labelled[SPEC.name].matured == 51 > matured  # the one that came last waits for its label


@pytest.mark.parametrize(
    ("changes", "readable", "expected"),
    [
        ({}, 30 + LIMIT, False),
        ({}, 31 + LIMIT, True),
        ({"_published_to": 40}, 10**6, False),  # a tail that is out is repeated first
        ({"publish_from": 40}, 10**6, False),  # state is rebuilt
    ],
)
async def test_it_is_too_late_only_behind_all_that_is_out(late, changes, readable, expected) -> None:
    for name, value in changes.items():
        setattr(late, name, value)
    assert late._is_too_late(readable) is expected
    late.shared = dataclasses.replace(late.shared, shed_lag=None)
    assert not late._is_too_late(10**6)
    late._task = None


async def test_who_takes_over_skips_the_same_and_adds_to_it(late) -> None:
    kept = keep_commits(late)
    text = manifest(position=500, shed=Shed(((30, 500),), 470)).model_dump_json()
    await late._restore(Manifest.model_validate_json(text), {}, first_offset=0)
    late._published_to = 29
    assert late.position == 500

    late._skip_to(900)
    await late._task

    assert kept[-1][0].shed == Shed(((30, 900),), 870), "nothing lies between them"


async def test_features_that_changed_are_computed_from_behind_what_was_skipped(late) -> None:
    changed = manifest(position=700, shed=Shed(((30, 500),), 470), kernels={SPEC.feature_set: "another"})
    await late._restore(changed, {}, first_offset=0)
    assert (late.position, late.publish_from) == (500, 700)


async def test_what_was_fetched_before_is_dropped_and_the_next_fetch_begins_at_the_latest(late) -> None:
    keep_commits(late)
    source = TickSource(SimpleNamespace(topic="ticks"), SimpleNamespace(), tick_source.Membership())
    source.fetcher = TickFetcher(SimpleNamespace())
    source.fetcher.seek(late.tp, 30)
    source.fetcher._arrived.append((late.tp, RawFetch(b"x", 30, [])))
    source.fetcher.readable[late.tp] = 500
    source.partitions[0] = late
    late.serving, late._next_checkpoint = {SPEC.name: CHAMPION}, float("inf")  # nothing else is due

    source._look_around()

    assert source.fetcher.position(late.tp) == 500
    assert await source.fetcher.arrived(0) == []
    await late._task
    assert late.position == 500


def test_old_ranges_are_forgotten_and_still_counted() -> None:
    shed = Shed()
    for k in range(MAX_RANGES + 3):
        shed = shed.add(10 * k, 10 * k + 5)
    assert (len(shed.ranges), shed.total) == (MAX_RANGES, 5 * (MAX_RANGES + 3))
    assert shed.known_from == 35
    assert Shed().add(3, 5).known_from == 0
