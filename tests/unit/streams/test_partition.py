"""What a partition makes of a checkpoint, before and after Kafka is asked: no broker is needed for it."""

import asyncio
import dataclasses
import sys
from types import SimpleNamespace

import pytest

from ml_core.data_processor import bars
from ml_core.data_processor.bars import BarPlan
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import ModelRefusedError, SetupError
from ml_core.spec import parse
from model_ops_manager.shed import Shed
from streams.partition_state import PartitionState
from streams.transport.partition import Phase
from streams.transport.published import Out
from streams.transport.state_log import MANIFEST_VERSION, Manifest
from streams.transport.tails import WHOLE_RECORD, Tails
from tests.unit.ml_core.data_processor.market import batch, trade
from tests.unit.streams.partition_lab import built, keep_commits

SPEC = parse({"name": "demo"})
PLAN = FeaturePlan.from_spec(SPEC)
OLD, CHAMPION = (SimpleNamespace(version=SimpleNamespace(version=number)) for number in (1, 2))


class Models:
    """A store whose version 1 does not fit any more."""

    def current(self, _pipeline: str):
        return CHAMPION

    async def load(self, _pipeline: str, version: int):
        raise ModelRefusedError(f"schema: version {version} was trained on other features")


async def reported(_partition, _manifest) -> None:
    raise ConnectionError("the topic of label counts does not answer")


def manifest(**changes) -> Manifest:
    known = {
        "topic": "ticks",
        "topic_id": "id",
        "partitions": 1,
        "position": 500,
        "kernels": {SPEC.feature_set: PLAN.hash},
        "models": {},
    }
    return Manifest(**{**known, **changes})


ROWS, SCORES, BARS, LETTERS = "features.demo.v1", "predictions.demo.v1", "bars.demo.v1", "ticks.dlq"
# What stands at the end of each output topic that has names.
OUT = {ROWS: Out((524, 0), 90), SCORES: Out((519, 3), 80), BARS: Out((511, 0), 40)}
NOTHING = dict.fromkeys(OUT, Out(None, 1))


@pytest.fixture
async def partition(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "OUT", dict(OUT))

    async def published(_bootstrap, topics, *_) -> dict[str, Out]:
        return {topic: OUT[topic] for topic in topics}

    monkeypatch.setattr("streams.transport.takeover.published", published)
    partition = built(SPEC, Models(), on_checkpoint=reported)
    keep_commits(partition)
    yield partition
    partition.phase = Phase.CLOSED
    await partition.close(checkpoint=False)


BLOCKS = {f"{SPEC.feature_set}/features/{block}".encode(): b"of another kernel" for block in range(3)}


@pytest.mark.parametrize("changes", [{"topic_id": "older"}, {"kernels": {}}, {}])
async def test_blocks_of_a_state_that_was_given_up_are_deleted_before_anything_is_written(partition, changes) -> None:
    kept = keep_commits(partition)
    await partition._restore(manifest(**changes), BLOCKS, first_offset=0)
    await partition._commit(*partition._snapshot({}))

    assert dict(kept[0][1]) == dict.fromkeys(BLOCKS)
    assert kept[1][1] == []


async def test_while_state_is_rebuilt_no_checkpoint_is_written_and_what_is_out_is_not_written_again(partition) -> None:
    kept = keep_commits(partition)
    await partition._restore(manifest(kernels={SPEC.feature_set: "another"}), {}, first_offset=0)
    kept.clear()
    partition.phase = Phase.OPEN
    partition.advance(300, 300)
    partition.look_around()
    await partition.close(checkpoint=True)

    assert (partition.position, partition.publish_from) == (300, 525)
    assert [partition.tails.last(topic) for topic in (ROWS, SCORES)] == [(524, 0), (519, 3)]
    assert partition.tails.last(LETTERS)[0] == 499  # they have no names, and those that are out may be another group's
    assert kept == []


async def test_a_transaction_is_ended_in_time_while_state_is_rebuilt_and_the_next_owner_begins_anew(partition) -> None:
    """What is refused meanwhile is written into it, and Kafka aborts what is open for too long."""
    partition.shared = dataclasses.replace(partition.shared, exactly_once=True)
    kept = keep_commits(partition)
    await partition._restore(manifest(kernels={SPEC.feature_set: "another"}), {}, first_offset=0)
    partition.phase = Phase.OPEN
    for position in (100, 200):
        partition.advance(position, 100)
        partition._next_checkpoint = 0.0
        partition.look_around()
        assert not partition.takes_batches  # nothing can be written between one transaction and the next
        await partition._task

    assert [(written.position, blocks) for written, blocks in kept[1:]] == [(500, [])] * 2
    assert len({written.text for written, _ in kept}) == 1


def windowed(window: int):
    spec = parse({"name": "demo", "features": {"window": window}})
    return {"demo": (FeaturePlan.from_spec(spec), [spec])}


@pytest.mark.parametrize(("before", "now", "position"), [(8, 8, 500), (8, 1, 500), (3, 8, 0), (1, 8, 0)])
async def test_a_window_that_the_checkpoint_does_not_know_is_filled_from_the_ticks(
    partition, before, now, position
) -> None:
    """Behind a state that was restored its tail would begin empty, and the first windows of each symbol be short."""
    partition.shared = dataclasses.replace(partition.shared, sets=windowed(now))
    await partition._restore(manifest(kernels=PartitionState(windowed(before), {}).kernels), {}, first_offset=0)
    assert partition.position == position


async def test_a_tail_that_was_repeated_only_in_part_is_remembered_as_far_as_it_ever_was(partition) -> None:
    kept = keep_commits(partition)
    before = manifest(out={SCORES: (530, 0), ROWS: (510, 0)}, models={})
    await partition._restore(Manifest.model_validate_json(before.text), {}, first_offset=0)

    [(written, blocks)] = kept
    assert written == before.model_copy(update={"out": {SCORES: (530, 0), ROWS: (524, 0)}})
    assert blocks == []
    assert partition.tails.last(SCORES)[0] == 499  # it is repeated as a whole
    partition.position = 525
    assert partition._manifest({}).out == {SCORES: (530, 0)}
    assert partition._wanted() is None
    partition.position = 531
    assert partition._wanted() == {"demo": CHAMPION}


async def test_outputs_of_a_topic_that_is_no_more_are_not_taken_for_those_of_its_successor(partition) -> None:
    OUT.update({ROWS: Out(None, 90), SCORES: Out(None, 80)})
    await partition._restore(manifest(topic_id="older"), {}, first_offset=0)

    assert partition._manifest({}).begins == {ROWS: 90, SCORES: 80}
    assert (partition.position, partition.publish_from) == (0, 0)
    assert "begins" not in manifest().text


async def test_a_version_that_cannot_serve_any_more_gives_way_to_the_champion_behind_what_is_out(partition) -> None:
    await partition._restore(manifest(models={"demo": 1}), {}, first_offset=0)

    assert (partition.serving, partition.position, partition.publish_from) == ({"demo": CHAMPION}, 500, 520)
    assert partition.tails.last(SCORES) == (519, 3)
    assert partition.tails.last(ROWS)[0] == 499  # rows are what they were


@pytest.fixture
def heard(partition) -> list[tuple[int, int]]:
    """Position and labelled rows of every manifest that was reported."""
    found: list[tuple[int, int]] = []

    async def hear(_number, written) -> None:
        found.append((written.position, written.labelled["demo"]))

    async def connect(_topics) -> None:
        pass

    partition.shared = dataclasses.replace(partition.shared, on_checkpoint=hear)
    partition.outputs.start = connect
    return found


def claims(partition, found: Manifest | None) -> list:
    """Have ``found`` be the manifest of the last owner; what is claimed is kept."""
    lanes: list = []

    async def claim(asked):
        lanes.extend(asked)
        return found, {}

    partition._log.claim = claim
    return lanes


@pytest.mark.parametrize("exactly_once", [False, True])
async def test_who_takes_over_reports_the_labelled_rows_at_once(partition, heard, exactly_once) -> None:
    partition.shared = dataclasses.replace(partition.shared, exactly_once=exactly_once)
    lanes = claims(partition, manifest(labelled={"demo": 41}))

    await partition.open(0)
    await partition._task

    assert heard == [(500, 41)]
    assert {tp.topic for tp in lanes} == {ROWS, SCORES, LETTERS, "ticks.late"}
    assert {tp.partition for tp in lanes} == {0}


async def test_who_comes_first_writes_a_manifest_before_it_reads_a_tick(partition, heard) -> None:
    kept, partition.shared.models.current = keep_commits(partition), lambda _pipeline: None
    claims(partition, None)
    OUT.update(NOTHING)

    await partition.open(7)
    await partition._task

    assert [(written.position, written.kernels) for written, _ in kept] == [(7, {SPEC.feature_set: PLAN.hash})]
    assert heard == [(7, 0)]


async def test_a_checkpoint_stands_although_its_report_fails(partition) -> None:
    keep_commits(partition)
    partition.phase, partition.position = Phase.OPEN, 7
    partition.serving = {"demo": CHAMPION}
    partition.look_around()
    async with asyncio.timeout(5):
        await partition._task
    partition.look_around()

    assert partition._committed == 7


async def test_the_tail_that_is_out_is_scored_again_by_the_version_that_scored_it(partition) -> None:
    partition.serving, partition._scored_to = {"demo": OLD}, 519
    partition.position = partition.publish_from = 500
    assert partition._wanted() is None

    partition.position = 520

    assert partition._wanted() == {"demo": CHAMPION}


@pytest.mark.parametrize(
    ("phase", "waiting", "has_room", "linger_s", "wanted"),
    [
        (Phase.OPEN, 0, True, 0, True),
        (Phase.OPEN, 1, True, 0, True),  # what waits is about to be handed out
        (Phase.OPEN, 2, True, 0, False),
        (Phase.OPEN, 0, False, 0, True),
        (Phase.OPEN, 1, False, 0, False),
        (Phase.SWAPPING, 0, True, 0, True),
        (Phase.SWAPPING, 1, True, 0, False),
        (Phase.CLAIMING, 0, True, 0, False),
        (Phase.OPEN, 0, True, 60, False),
    ],
)
async def test_ticks_are_fetched_for_what_can_be_handed_out_soon(
    partition, phase, waiting, has_room, linger_s, wanted
) -> None:
    partition.phase = phase
    partition.fetched.extend([None] * waiting)
    partition.outputs._hand_out = 0 if has_room else 2
    if not has_room:
        partition.outputs._under_way.append((1, asyncio.get_running_loop().create_future(), 0.0))
    partition.shared = dataclasses.replace(partition.shared, linger_s=linger_s)
    partition.advance(1, 1)
    assert partition.wants_ticks is wanted


BARRED = parse({"name": "demo", "bars": {"by": ["time:1s"]}})
BARS_HASH = BarPlan.from_spec(BARRED).hash


@pytest.fixture
def barred(partition):
    partition.shared = dataclasses.replace(partition.shared, sets={SPEC.feature_set: (PLAN, [BARRED])})
    partition.state = PartitionState(partition.shared.sets, {})
    return partition


@pytest.mark.parametrize(
    ("bars_hash", "first_offset", "expected"),
    [(BARS_HASH, 0, {}), ("another lateness", 0, {"demo": 40}), (BARS_HASH, 7, {"demo": 40})],
)
async def test_bars_that_may_not_be_those_that_are_out_begin_behind_all_their_revisions(
    barred, bars_hash, first_offset, expected
) -> None:
    changed = manifest(kernels={SPEC.feature_set: "another", "demo/bars": bars_hash})

    await barred._restore(changed, {}, first_offset=first_offset)

    assert barred.state.bases == expected
    assert barred.tails.renumbers == set(expected)
    assert barred.tails.last(BARS) == (511, 0)


@pytest.mark.parametrize(("begin", "expected"), [(0, {}), (40, {"demo": 40})])
async def test_bars_that_retention_has_deleted_count_as_written(barred, begin, expected) -> None:
    OUT[BARS] = Out(None, 40, begin)
    await barred._restore(manifest(kernels={"demo/bars": "another lateness"}), {}, first_offset=0)

    assert barred.state.bases == expected


async def test_bars_that_were_numbered_anew_once_are_so_with_every_rebuild(barred) -> None:
    once = manifest(kernels={SPEC.feature_set: "another", "demo/bars": BARS_HASH}, bases={"demo": 20, "gone": 9})
    await barred._restore(Manifest.model_validate_json(once.text), {}, first_offset=0)
    barred.advance(600, 1)

    assert barred._manifest({}).bases == {"demo": 40, "gone": 9}


async def test_a_symbol_that_comes_after_the_checkpoint_begins_behind_all_revisions_too(barred) -> None:
    kept = keep_commits(barred)
    state = barred.state.sets[SPEC.feature_set].bars
    bars.step(batch([trade(0.1, 10)], state.symbols), state)
    found = manifest(kernels=barred.state.kernels, bases={"demo": 40})
    await barred._restore(Manifest.model_validate_json(found.text), dict(barred.state.dump()), first_offset=0)
    state, names = barred.state.sets[SPEC.feature_set].bars, barred.state.symbols
    names.add("NEW")

    made = bars.step(batch([trade(0.1, 10, symbol="NEW"), trade(2.1, 10, symbol="NEW")], names), state)

    assert made.revision_B.tolist() == [40]
    assert barred._manifest({}).bases == {"demo": 40}
    assert kept[-1][0].bases == {"demo": 40}


async def test_revisions_move_on_although_no_tick_follows_the_tail(barred) -> None:
    barred.state = PartitionState(barred.shared.sets, {}, {"demo": 40})
    state = barred.state.sets[SPEC.feature_set].bars
    bars.step(batch([trade(0.1, 10)], state.symbols), state)
    barred.tails = Tails(500, {BARS: (511, 0)}, [BARS], {"demo"})

    barred.advance(511, 1)
    assert bars.step(batch([trade(1.1, 10), trade(0.2, 10)], state.symbols), state).revision_B.tolist() == [40, 41]
    barred.advance(512, 1)

    assert bars.step(batch([trade(0.3, 10)], state.symbols), state).revision_B.tolist() == [40]


def commits_of(kept) -> Manifest:
    """What a restore has written, as the next owner reads it."""
    [(written, _)] = kept
    return Manifest.model_validate_json(written.text)


async def test_a_tail_that_stays_does_so_for_the_next_owner_though_nothing_was_out_and_its_model_loads(
    partition,
) -> None:
    OUT.update(NOTHING)
    kept = keep_commits(partition)
    await partition._restore(manifest(models={"demo": 1}), {}, first_offset=0)
    found = commits_of(kept)
    OUT[SCORES] = Out((519, 3), 80)  # of the champion, whose owner died before its checkpoint

    async def load(_pipeline, _version):
        return OLD

    partition.shared.models.load = load
    await partition._restore(found, {}, first_offset=0)

    assert (found.models, found.stays) == ({"demo": 1}, [SCORES])
    assert partition.serving == {"demo": OLD}
    assert partition.tails.last(SCORES) == (519, 3)
    assert partition._manifest({}).stays == []  # the next checkpoint says of what the tail is made


async def test_a_release_that_is_set_back_before_its_first_checkpoint_does_not_repeat_what_the_other_wrote(
    partition,
) -> None:
    kept = keep_commits(partition)
    await partition._restore(manifest(), BLOCKS, first_offset=0)  # the kernels of the checkpoint, blocks of others

    await partition._restore(commits_of(kept), {}, first_offset=0)

    assert (partition.position, partition.publish_from) == (0, 525)
    assert partition.tails.last(ROWS) == (524, 0)


@pytest.mark.parametrize(("first_offset", "position"), [(0, 519), (600, 600)])
async def test_a_new_group_goes_on_behind_what_an_earlier_one_has_written(partition, first_offset, position) -> None:
    kept = keep_commits(partition)
    await partition._restore(None, {}, first_offset)

    written = commits_of(kept)
    assert (written.position, written.kernels, written.models) == (position, {}, {})
    assert partition.position == first_offset
    assert partition.publish_from == max(525, first_offset)
    assert partition.tails.last(ROWS) == ((524, 0) if first_offset == 0 else (599, WHOLE_RECORD))
    assert partition.serving == {"demo": CHAMPION}  # from the first prediction that is not out


@pytest.fixture
def silent(partition, monkeypatch):
    """A partition whose symbol fell silent in a bar that is over, and what it writes."""
    sent: list[str] = []
    partition.shared = dataclasses.replace(partition.shared, sets={SPEC.feature_set: (PLAN, [BARRED])})
    partition.state = PartitionState(partition.shared.sets, {})
    state = partition.state.sets[SPEC.feature_set].bars
    bars.step(batch([trade(0.1, 10)], state.symbols), state)
    partition.outputs.send = lambda topic, _batches: sent.append(topic)
    monkeypatch.setattr("ml_core.data_processor.silent_bars.GRACE_NS", -1)
    monkeypatch.setattr("streams.transport.partition.SILENCE_S", 0.0)
    partition.phase, partition.position, partition.publish_from = Phase.OPEN, 500, 500
    partition._committed, partition.shared.models.current = 500, lambda _pipeline: None
    return partition, sent


async def test_a_silent_symbol_has_its_open_bar_shown_once(silent) -> None:
    partition, sent = silent
    assert "bars.demo.v1" in partition.shared.outputs

    for _ in range(3):
        partition.look_around()

    assert sent == ["bars.demo.v1"]
    assert partition._task is None  # no tick came, so there is nothing to keep


async def test_nothing_is_shown_while_state_is_rebuilt(silent) -> None:
    partition, sent = silent
    partition.publish_from = 501

    partition.look_around()

    assert sent == []


async def test_what_is_shown_exactly_once_is_committed_though_no_tick_came(silent) -> None:
    partition, sent = silent
    partition.shared = dataclasses.replace(partition.shared, exactly_once=True)
    kept = keep_commits(partition)

    for _ in range(3):
        partition.look_around()
        if partition._task is not None:
            await asyncio.wait([partition._task])

    assert sent == ["bars.demo.v1"]
    assert [written.position for written, _ in kept] == [500]


async def test_what_is_shown_exactly_once_is_committed_when_the_partition_is_given_up(silent) -> None:
    partition, sent = silent
    partition.shared = dataclasses.replace(partition.shared, exactly_once=True)
    partition._next_checkpoint = float("inf")
    kept = keep_commits(partition)
    partition.outputs.settle = partition.outputs.begin = lambda: asyncio.sleep(0)
    partition.look_around()
    assert (sent, kept) == (["bars.demo.v1"], [])

    await partition.close(checkpoint=True)

    assert [written.position for written, _ in kept] == [500]


async def test_nothing_is_committed_at_the_end_where_nothing_came_or_was_shown(silent) -> None:
    partition, _ = silent
    partition.shared = dataclasses.replace(partition.shared, exactly_once=True)
    kept = keep_commits(partition)

    await partition.close(checkpoint=True)

    assert kept == []


def test_a_checkpoint_of_a_later_version_is_refused() -> None:
    later = manifest().text.replace(f'"version":{MANIFEST_VERSION}', f'"version":{MANIFEST_VERSION + 1}')
    with pytest.raises(SetupError, match=r"by a later tickwise: its version is 2, and 1 is"):
        Manifest.model_validate_json(later)


def test_a_checkpoint_without_skipped_ticks_says_nothing_of_them_and_reads_as_one_from_before_there_were_any() -> None:
    plain, skipped = manifest(), manifest(shed=Shed().add(30, 500))

    assert "shed" not in plain.text
    assert Manifest.model_validate_json(plain.text) == plain
    assert Manifest.model_validate_json(plain.text).shed == Shed()
    assert Manifest.model_validate_json(skipped.text) == skipped


async def test_a_close_that_was_cut_off_leaves_the_next_one_to_go_on_without_a_checkpoint(partition) -> None:
    """A partition that has just failed is closed when a rebalance comes, which closes it once more."""
    kept = keep_commits(partition)
    partition.phase, partition.position = Phase.OPEN, 700
    partition._start(asyncio.Event().wait(), "checkpoint")
    first = asyncio.create_task(partition.close(checkpoint=False))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    partition.phase = Phase.CLOSING
    await partition.close(checkpoint=True)
    assert kept == []
