"""The windowing agent on real bytes, real state and a real model; only the producer is kept in memory."""

import json
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from data_io.topics import bars, dead_letters, predictions, rows
from data_io.topics.ticks import TickDecoder
from ml_core import fit as learning
from ml_core.data_processor import calendars
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import CorruptRecordError, KafkaUnavailableError
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec, Predictions, parse
from model_ops_manager.champion import Serving
from streams import bar_outputs, metrics
from streams.agents import windowing
from streams.partition_state import PartitionState
from streams.transport.batch_channel import Batch, Round
from streams.transport.tails import Tails
from tests.agents.conftest import partition_of
from tests.agents.in_memory import ARROW, TOPIC, arrow, fetch_of, quote, quotes

LETTERS = dead_letters.name(TOPIC)


async def run(partition, fetch) -> tuple[int, int]:
    batch = Batch(partition, fetch)
    windowing.process([batch], TickDecoder())
    return await batch.ended


def offsets(partition, spec) -> list[int]:
    made = [rows.decode(value).rows for _, value, _ in partition.outputs.of(rows.name(spec.feature_set))]
    return [offset for each in made for offset in each.offset_N.tolist()]


async def test_every_tick_makes_one_row_named_after_it(partition, spec) -> None:
    assert await run(partition, fetch_of(quotes(50), first_offset=100)) == (150, 50)
    assert offsets(partition, spec) == list(range(100, 150))


async def test_rows_do_not_depend_on_how_ticks_are_batched(partition, spec) -> None:
    values = quotes(40)
    await run(partition, fetch_of(values))
    whole = [rows.decode(record[1]).rows for record in partition.outputs.of(rows.name(spec.feature_set))]
    other = SimpleNamespace(**{**vars(partition), "outputs": type(partition.outputs)(), "state": fresh(partition)})
    for start in range(0, 40, 7):
        await run(other, fetch_of(values[start : start + 7], first_offset=start))
    parts = [rows.decode(record[1]).rows for record in other.outputs.of(rows.name(spec.feature_set))]

    for column in ("x_NF", "mid_N", "flags_N", "ts_ns_N"):
        assert (
            np.concatenate([getattr(each, column) for each in whole]).tobytes()
            == np.concatenate([getattr(each, column) for each in parts]).tobytes()
        )


def fresh(partition):
    sets = {name: (state.plan, state.pipelines) for name, state in partition.state.sets.items()}
    return type(partition.state)(sets, {})


async def test_what_is_refused_becomes_dead_letters_in_order_and_byte_for_byte(partition, spec) -> None:
    good, bad = quotes(2), [b"{", None, quote(1, bid=-1.0)]

    await run(partition, fetch_of([good[0], bad[0], bad[1], good[1], bad[2]], first_offset=7))

    letters = partition.outputs.of(LETTERS)
    assert [value for _, value, _ in letters] == bad
    assert [dict(headers)["tickwise.dlq.offset"] for *_, headers in letters] == [b"8", b"9", b"11"]
    assert all(headers[0] == ("trace", b"\x00\xff") for *_, headers in letters)
    assert offsets(partition, spec) == [7, 10]


async def test_below_the_checkpoint_ticks_move_state_and_nothing_goes_out(partition, spec) -> None:
    partition.tails = Tails(5)

    await run(partition, fetch_of([*quotes(3), b"{", *quotes(4, start_s=1_700_000_100), b"{"]))

    assert offsets(partition, spec) == [5, 6, 7]
    assert [dict(headers)["tickwise.dlq.offset"] for *_, headers in partition.outputs.of(LETTERS)] == [b"8"]


async def test_predictions_are_counted_as_they_are_published(partition, spec) -> None:
    class Scores:
        contract = SimpleNamespace(horizons_ns=(10**9, 10**10))

        def scores(self, x_NTF):
            score_NH = np.ones((len(x_NTF), 2), np.float32)
            score_NH[-1, 1] = np.nan
            return score_NH

    partition.serving = {spec.name: Serving(SimpleNamespace(version=1), Scores())}
    counters = [metrics.PREDICTIONS.labels(spec.name, status) for status in ("ok", "abstained")]
    before = [counter._value.get() for counter in counters]

    await run(partition, fetch_of([*quotes(80), quote(1_700_000_075 * 10**9), *quotes(2, start_s=1_700_000_080)]))

    published = [json.loads(value) for _, value, _ in partition.outputs.of(predictions.name(spec.name))]
    assert {each["reason"] for each in published} >= {None, "late", "no_score"}
    counts = [sum(each["status"] == status for each in published) for status in ("ok", "abstained")]
    assert [counter._value.get() - count for counter, count in zip(counters, before, strict=True)] == counts


async def test_rows_whose_label_was_counted_before_a_rebuild_are_not_counted_again(partition, spec) -> None:
    partition.tails = Tails(30)
    partition.state.labelled[spec.name].matured = 29

    await run(partition, fetch_of(quotes(40)))
    await run(partition, fetch_of(quotes(1, start_s=1_700_000_040), first_offset=40))
    await run(partition, fetch_of(quotes(1, start_s=1_700_000_090), first_offset=41))

    assert partition.state.labelled[spec.name].matured == 29 + 11  # the last row waits for its label


async def test_a_batch_that_cannot_be_read_ends_as_failed_and_publishes_nothing(partition) -> None:
    fetch = fetch_of(quotes(3))
    damaged = fetch._replace(raw=fetch.raw[:-1] + bytes([fetch.raw[-1] ^ 1]))
    batch = Batch(partition, damaged)

    await feed(batch)

    with pytest.raises(CorruptRecordError):
        await batch.ended
    assert partition.outputs.sent == []


async def test_an_output_that_cannot_be_queued_ends_the_batch_as_failed(partition) -> None:
    def broken(*_) -> None:
        raise KafkaUnavailableError("an earlier output failed")

    partition.outputs.send = broken
    batch = Batch(partition, fetch_of(quotes(3)))

    await feed(batch)

    with pytest.raises(KafkaUnavailableError):
        await batch.ended


async def feed(batch: Batch) -> None:
    """Run the agent's own loop on a round of one batch."""
    agents = []
    app = SimpleNamespace(agent=lambda _channel, name: agents.append)  # takes what `attach` registers

    async def stream():
        yield Round([batch])

    windowing.attach(app, None, TickDecoder())
    await agents[0](stream())


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    spec = parse(
        {"name": "demo", "label": {"delay": "0ms", "horizons": ["1s"]}, "train": {"epochs": 1, "min_rows": 200}}
    )
    frame = open_source("synthetic:symbols=3,ticks=3000,rate=50,seed=1").fetch()
    return Scorer(learning.fit(frame, spec).model.onnx)


async def test_each_row_gets_one_prediction_and_those_not_to_be_trusted_abstain(partition, spec, scorer) -> None:
    partition.serving = {spec.name: Serving(SimpleNamespace(version=3), scorer)}

    await run(partition, fetch_of(quotes(400)))

    found = [json.loads(value) for _, value, _ in partition.outputs.of(predictions.name(spec.name))]
    assert [each["id"] for each in found] == [f"Topic-id-2-{offset}-0" for offset in range(400)]
    assert {each["version"] for each in found} == {3}
    assert {(each["status"], each["reason"]) for each in found} == {("ok", None), ("abstained", "warm_up")}
    assert all((each["score"] is None) == (each["status"] == "abstained") for each in found)


async def test_rows_in_closed_time_and_behind_all_known_sessions_go_out_and_are_not_scored(
    spec, scorer, monkeypatch
) -> None:
    # warm-up takes 30 s; open for 35 s, closed for 60 s, then a session of 10 s, the last one
    open_ns = [(1_700_000_000 + at_s) * 10**9 for at_s in (0, 35, 95, 105)]
    monkeypatch.setattr(calendars, "edges", lambda _name: np.array(open_ns))
    spec = spec.model_copy(update={"source": spec.source.model_copy(update={"calendar": "XNYS"})})
    partition, unknown = partition_of(spec), metrics.UNKNOWN_HOURS.labels("demo")
    partition.serving = {spec.name: Serving(SimpleNamespace(version=3), scorer)}
    before = unknown._value.get()

    await run(partition, fetch_of(quotes(150)))

    found = [json.loads(value) for _, value, _ in partition.outputs.of(predictions.name(spec.name))]
    stretches = [(reason, len(list(each))) for reason, each in groupby(found, key=lambda each: each["reason"])]
    assert stretches == [("warm_up", 30), (None, 5), ("closed", 60), ("warm_up", 10), ("no_calendar", 45)]
    assert len(offsets(partition, spec)) == 150
    assert unknown._value.get() - before == 45


async def test_a_pipeline_may_have_its_predictions_as_arrow(spec, scorer) -> None:
    spec = spec.model_copy(update={"predictions": Predictions(format="arrow")})
    partition = partition_of(spec)
    partition.serving = {spec.name: Serving(SimpleNamespace(version=3), scorer)}

    await run(partition, fetch_of(quotes(400)))

    [(key, value, headers)] = partition.outputs.of(predictions.name(spec.name))
    found = predictions.decode(value, headers)
    assert (key, [each["id"] for each in found]) == (None, [f"Topic-id-2-{offset}-0" for offset in range(400)])
    assert {(each["status"], each["reason"]) for each in found} == {("ok", None), ("abstained", "warm_up")}


def beside(partition, number: int):
    """Another partition of the same worker."""
    return SimpleNamespace(
        **{**vars(partition), "number": number, "outputs": type(partition.outputs)(), "state": fresh(partition)}
    )


async def test_partitions_scored_together_get_what_each_gets_alone(partition, spec, scorer) -> None:
    partition.serving = {spec.name: Serving(SimpleNamespace(version=3), scorer)}
    sizes = {0: 150, 1: 1, 2: 97, 3: 400}
    alone, together = ({n: beside(partition, n) for n in sizes} for _ in range(2))
    fetches = {n: fetch_of(quotes(size, start_s=1_700_000_000 + n)) for n, size in sizes.items()}
    for n, fetch in fetches.items():
        await run(alone[n], fetch)

    batches = [Batch(together[n], fetch) for n, fetch in fetches.items()]
    windowing.process(batches, TickDecoder())

    assert [await batch.ended for batch in batches] == [(size, size) for size in sizes.values()]
    for n, size in sizes.items():
        assert together[n].outputs.sent == alone[n].outputs.sent
        assert len(alone[n].outputs.of(predictions.name(spec.name))) == size


async def test_a_partition_that_fails_leaves_its_neighbours_alone(partition, spec, scorer) -> None:
    partition.serving = {spec.name: Serving(SimpleNamespace(version=3), scorer)}
    first, damaged, full, last = (beside(partition, n) for n in range(4))

    def no_room(topic, batches) -> None:
        if topic == predictions.name(spec.name):
            raise KafkaUnavailableError("an earlier output failed")

    full.outputs.send = no_room
    fetch = fetch_of(quotes(3))
    batches = [Batch(each, fetch) for each in (first, damaged, full, last)]
    batches[1].fetch = fetch._replace(raw=fetch.raw[:-1] + bytes([fetch.raw[-1] ^ 1]))

    windowing.process(batches, TickDecoder())

    assert await batches[0].ended == await batches[3].ended == (3, 3)
    with pytest.raises(CorruptRecordError):
        await batches[1].ended
    with pytest.raises(KafkaUnavailableError):
        await batches[2].ended
    assert first.outputs.of(predictions.name(spec.name))
    assert last.outputs.of(predictions.name(spec.name))


async def test_without_a_model_rows_go_out_and_predictions_do_not(partition, spec) -> None:
    await run(partition, fetch_of(quotes(5)))

    assert partition.outputs.of(predictions.name(spec.name)) == []
    assert len(offsets(partition, spec)) == 5


@pytest.fixture
def barred() -> PipelineSpec:
    return parse(
        {"name": "demo", "label": {"delay": "0ms", "horizons": ["1s"]}, "bars": {"by": ["time:10s"], "price": "mid"}}
    )


def bar_offsets(partition) -> list[int]:
    return [bars.decode(value).offset for _, value, _ in partition.outputs.of(bars.name("demo"))]


async def test_bars_end_with_a_tick_and_carry_its_name(barred) -> None:
    partition = partition_of(barred)

    await run(partition, fetch_of(quotes(35)))

    assert bar_offsets(partition) == [10, 20, 30]
    [first, *_] = partition.outputs.of(bars.name("demo"))
    assert bars.decode(first[1]).id == "Topic-id-2-ACME-time:10s-170000000-0"


async def test_a_wrong_stamp_ends_no_bar_and_is_counted(barred) -> None:
    partition, misdated = partition_of(barred), metrics.MISDATED.labels("demo")
    before = misdated._value.get()

    await run(partition, fetch_of([*quotes(15), *quotes(1, start_s=1_800_000_000), *quotes(35)[15:]]))

    assert bar_offsets(partition) == [10, 21, 31]
    assert misdated._value.get() - before == 1


async def test_bars_that_are_out_are_not_written_again_while_state_is_rebuilt(barred) -> None:
    partition = partition_of(barred)
    partition.tails = Tails(20)

    await run(partition, fetch_of(quotes(35)))

    assert bar_offsets(partition) == [20, 30]
    assert [bars.decode(value).ticks for _, value, _ in partition.outputs.of(bars.name("demo"))] == [10, 10]


async def test_ticks_that_are_in_no_bar_are_counted_once_though_state_is_rebuilt(barred) -> None:
    partition = partition_of(barred)
    counters = [counter.labels("demo") for counter in (metrics.MISDATED, metrics.TOO_LATE)]
    wrong = [*quotes(20), *quotes(1, start_s=1_800_000_000), *quotes(1), *quotes(21)[20:]]
    before = [counter._value.get() for counter in counters]

    partition.publish_from = len(wrong)
    await run(partition, fetch_of(wrong))
    assert [counter._value.get() for counter in counters] == before

    partition.position = len(wrong)
    await run(partition, fetch_of(wrong, first_offset=len(wrong)))
    assert [counter._value.get() - count for counter, count in zip(counters, before, strict=True)] == [1, 15 + 1]


@pytest.mark.parametrize(("new_from", "counts"), [(21, [1, 1]), (22, [1, 0]), (23, [0, 0])])
async def test_of_a_batch_that_ends_a_rebuild_the_new_ticks_are_counted(barred, new_from, counts) -> None:
    partition = partition_of(barred)
    counters = [counter.labels("demo") for counter in (metrics.MISDATED, metrics.TOO_LATE)]
    before = [counter._value.get() for counter in counters]
    # tick 21 is too late, 22 shows that 20 was misdated
    ticks = [*quotes(20), *quotes(1, start_s=1_800_000_000), *quotes(1), *quotes(31)[20:]]

    partition.publish_from = new_from
    await run(partition, fetch_of(ticks))

    assert [counter._value.get() - count for counter, count in zip(counters, before, strict=True)] == counts
    assert bar_offsets(partition) == [10, 22, 32]


async def test_each_topic_goes_on_behind_its_own_end_where_tails_stay(barred, scorer) -> None:
    barred = barred.model_copy(update={"predictions": Predictions(format="json")})
    partition = partition_of(barred)
    partition.serving = {"demo": Serving(SimpleNamespace(version=2), scorer)}
    ends = {rows.name("demo"): (12, 0), predictions.name("demo"): (20, 0), bars.name("demo"): (9, 0), LETTERS: (25, 0)}
    partition.tails = Tails(8, ends, stays=ends)
    values = quotes(35)
    values[25] = values[30] = b"{"

    for start in range(0, 35, 6):
        await run(partition, fetch_of(values[start : start + 6], first_offset=start))

    good = [offset for offset in range(35) if offset not in {25, 30}]
    ids = [json.loads(value)["id"] for _, value, _ in partition.outputs.of(predictions.name("demo"))]
    scored = [int(each.split("-")[-2]) for each in ids]
    assert offsets(partition, barred) == [offset for offset in good if offset > 12]
    assert scored == [offset for offset in good if offset > 20]
    assert bar_offsets(partition) == [10, 20, 31]
    assert [dict(headers)["tickwise.dlq.offset"] for *_, headers in partition.outputs.of(LETTERS)] == [b"30"]


async def test_a_record_of_many_ticks_goes_on_in_its_middle(partition, spec) -> None:
    partition.tails = Tails(1, {rows.name("demo"): (2, 1)}, stays=[rows.name("demo")])

    records = [arrow(*quotes(4, start_s=1_700_000_000 + 4 * n)) for n in range(4)]

    await run(partition, fetch_of(records, headers=[ARROW]))

    made = [rows.decode(value).rows for _, value, _ in partition.outputs.of(rows.name("demo"))]
    places = [place for each in made for place in zip(each.offset_N.tolist(), each.index_N.tolist(), strict=True)]
    assert places == [(2, 2), (2, 3), (3, 0), (3, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize("size", [35, 6])
async def test_bars_of_other_rules_take_no_name_that_is_out(barred, size) -> None:
    partition = partition_of(barred)
    partition.state = PartitionState({"demo": (FeaturePlan.from_spec(barred), [barred])}, {}, {"demo": 17})
    partition.tails = Tails(0, {bars.name("demo"): (20, 0)}, [bars.name("demo")], {"demo"})
    # the last one is late for [10, 20), of which revision 0 is out
    values = [*quotes(25), *quotes(1, start_s=1_700_000_019), *quotes(32)[25:]]

    for start in range(0, len(values), size):
        await run(partition, fetch_of(values[start : start + size], first_offset=start))

    made = [bars.decode(value) for _, value, _ in partition.outputs.of(bars.name("demo"))]
    assert [(bar.number - made[0].number, bar.revision, bar.status) for bar in made] == [
        (0, 17, "final"),
        (1, 17, "final"),
    ]


async def test_bars_of_one_tick_are_written_together(monkeypatch) -> None:
    monkeypatch.setattr("streams.bar_outputs.BARS_AT_ONCE", 4)
    partition = partition_of(parse({"name": "demo", "bars": {"by": ["time:1s", "time:2s", "time:5s"], "price": "mid"}}))
    sent: list[list[int]] = []
    monkeypatch.setattr(bar_outputs.record_batch, "pack", lambda records: records)
    partition.outputs.send = lambda _topic, records: sent.append([bars.decode(record[1]).offset for record in records])

    ticks = TickDecoder().decode_fetch(fetch_of(quotes(11)), partition.state.symbols).ticks
    bar_outputs.make(partition, "demo", ticks, partition.state.sets["demo"].bars)

    assert sent == [[1, 2, 2, 3], [4, 4, 5, 5], [6, 6, 7], [8, 8, 9], [10, 10, 10]]
