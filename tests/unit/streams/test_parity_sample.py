"""A sample of what a partition publishes is computed again: real bytes, state, decoder and agent, and no broker."""

import asyncio
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import REGISTRY

from data_io import log_reader
from data_io.topics import predictions, rows
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import KafkaUnavailableError
from ml_core.spec import parse
from streams import parity_sample
from streams.agents import windowing
from streams.parity_sample import ParitySample
from streams.transport.partition import Phase
from tests.agents.in_memory import TOPIC, Recorded, quotes
from tests.unit.streams.partition_lab import built, keep_commits, move, opened

SPEC = parse({"name": "demo", "features": {"window": 3}, "label": {"horizons": ["1s"]}})
COUNT, TAKEN_AT, TICKS = 400, 100, 250


class Scorer:
    """A model whose score is a feature of the newest row."""

    contract = SimpleNamespace(horizons_ns=(10**9,))

    def scores(self, x_NTF):
        return np.ascontiguousarray(np.nan_to_num(x_NTF[:, -1, :1]))


SERVING = SimpleNamespace(version=SimpleNamespace(version=7), scorer=Scorer())


class Log:
    """The topics as a consumer shows them."""

    def __init__(self, ticks: list[bytes], outputs: Recorded) -> None:
        self._ticks, self._outputs, self._places = ticks, outputs, {}

    def records(self, tp) -> list:
        sent = [(None, value, ()) for value in self._ticks] if tp.topic == TOPIC else self._outputs.of(tp.topic)
        return [SimpleNamespace(offset=n, key=k, value=v, headers=h) for n, (k, v, h) in enumerate(sent)]

    async def beginning_offsets(self, tps):
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps):
        return {tp: len(self.records(tp)) for tp in tps}

    def assign(self, tps) -> None:
        self._places = dict.fromkeys(tps, 0)

    def seek(self, tp, offset) -> None:
        self._places[tp] = offset

    def pause(self, *_tps) -> None:
        pass

    async def position(self, tp) -> int:
        return self._places[tp]

    async def getmany(self, *tps, timeout_ms, max_records):
        found = {tp: self.records(tp)[self._places[tp] :][:max_records] for tp in tps}
        for tp, records in found.items():
            self._places[tp] += len(records)
        return found


@pytest.fixture(autouse=True)
def _sooner(monkeypatch):
    for name, value in {"MAX_TICKS": TICKS, "AT_ONCE": 20, "AGAIN_S": 0.01, "PAUSE_S": 0, "VISIBLE_S": 0.05}.items():
        monkeypatch.setattr(parity_sample, name, value)


@pytest.fixture
async def partition():
    models = SimpleNamespace(current=lambda _pipeline: None)
    partition = opened(built(SPEC, models, topic=TOPIC))
    keep_commits(partition)
    partition.serving = {SPEC.name: SERVING}
    yield partition
    await partition.close(checkpoint=False)


async def works(partition, ticks: list[bytes], start: int, end: int) -> None:
    """Let the agent work on ``[start, end)`` and checkpoint behind it."""
    for first in range(start, end, 37):
        await move(partition, ticks[first : min(first + 37, end)], first)
    partition._next_checkpoint = 0.0
    partition.look_around()
    await partition._task


async def sampled(partition, monkeypatch, ticks: list[bytes] | None = None, *, changed=lambda _sent: None) -> dict:
    """Publish, take a sample on the way, and return how often each result was counted, of rows and of predictions."""
    ticks, before = ticks or quotes(COUNT), counted()

    @asynccontextmanager
    async def consumer(*_, **__):
        yield Log(ticks, partition.outputs)

    monkeypatch.setattr(log_reader, "consumer", consumer)
    await works(partition, ticks, 0, TAKEN_AT // 2)
    sample = ParitySample("", lambda: [partition], every_s=60.0, checkpoint_s=0.5)
    monkeypatch.setattr(sample, "_patience_s", 5.0)
    partition._committed = -1  # it is at work
    looking = asyncio.create_task(sample.look())
    while partition._copying is None and not looking.done():  # noqa: ASYNC110 - nobody tells that a copy is wanted
        await asyncio.sleep(0)
    await works(partition, ticks, TAKEN_AT // 2, TAKEN_AT)
    await works(partition, ticks, TAKEN_AT, COUNT)
    changed(partition.outputs.sent)
    async with asyncio.timeout(20):
        await looking
    return {key: count - before[key] for key, count in counted().items() if count > before[key]}


def counted() -> dict[tuple[str, str], float]:
    return {
        (kind, result): REGISTRY.get_sample_value(f"tickwise_parity_{kind}_total", {"result": result}) or 0.0
        for kind in ("rows", "predictions")
        for result in ("equal", "different", "missing", "unchecked", "unread")
    }


async def test_rows_and_predictions_behind_a_checkpoint_are_computed_again_and_found_equal(partition, monkeypatch):
    assert await sampled(partition, monkeypatch) == {("rows", "equal"): TICKS, ("predictions", "equal"): TICKS}


async def test_a_step_that_gives_another_value_live_is_told_with_both_values(partition, monkeypatch, capsys):
    def wrong(ticks, state):
        moved = features.move(ticks, state)
        moved.rows.x_NF[moved.rows.offset_N == 210, 1] += np.float32(0.25)
        return moved

    monkeypatch.setattr(windowing, "features", SimpleNamespace(move=wrong))
    assert await sampled(partition, monkeypatch) == {
        ("rows", "equal"): TICKS - 1,
        ("rows", "different"): 1,
        ("predictions", "equal"): TICKS,  # the model does not look at that feature
    }
    told = capsys.readouterr().out
    assert told.count("not what its ticks give") == 1
    assert "210" in told
    assert FeaturePlan.from_spec(SPEC).names[1] in told


async def test_a_score_that_is_another_one_is_told(partition, monkeypatch):
    right = Scorer.scores
    calls = []

    def wrong(self, x_NTF):
        calls.append(len(x_NTF))
        return right(self, x_NTF) + np.float32(0.5 if len(calls) == 9 else 0.0)

    monkeypatch.setattr(Scorer, "scores", wrong)
    found = await sampled(partition, monkeypatch)
    assert found["predictions", "different"] == 37
    assert found["rows", "equal"] == TICKS


async def test_what_is_not_there_is_missing(partition, monkeypatch):
    def lose(sent) -> None:
        topic = predictions.name(SPEC.name)
        place = [n for n, each in enumerate(sent) if each[0] == topic][200]
        del sent[place]

    assert await sampled(partition, monkeypatch, changed=lose) == {
        ("rows", "equal"): TICKS,
        ("predictions", "equal"): TICKS - 1,
        ("predictions", "missing"): 1,
    }


async def test_what_cannot_be_computed_again_is_counted_as_unchecked(partition, monkeypatch):
    def swap(_sent) -> None:
        partition.serving = {}

    monkeypatch.setattr(partition, "_copy", lambda right=partition._copy: (swap(None), right()))
    assert await sampled(partition, monkeypatch) == {("rows", "equal"): TICKS, ("predictions", "unchecked"): TICKS}


async def test_outputs_are_decoded_beside_the_event_loop(partition, monkeypatch):
    loop, threads = threading.current_thread(), []
    for topic in (rows, predictions):

        def decode(*record, topic=topic, right=topic.decode):
            threads.append((topic, threading.current_thread()))
            return right(*record)

        monkeypatch.setattr(topic, "decode", decode)

    await sampled(partition, monkeypatch)

    assert {topic for topic, _ in threads} == {rows, predictions}
    assert loop not in {thread for _, thread in threads}


async def test_topics_that_cannot_be_read_are_unread_and_nothing_differs(partition, monkeypatch):
    @asynccontextmanager
    async def silent(*_, **__):
        raise KafkaUnavailableError("no answer")
        yield

    partition.position = 5
    monkeypatch.setattr(log_reader, "consumer", silent)
    before = counted()
    await ParitySample("", lambda: [partition], every_s=60.0, checkpoint_s=0.5).look()
    assert {key for key, count in counted().items() if count > before[key]} == {
        ("rows", "unread"),
        ("predictions", "unread"),
    }


async def test_a_partition_that_starts_anew_in_the_middle_of_a_sample_is_not_judged(partition, monkeypatch):
    def anew(_sent) -> None:
        partition.phase = Phase.CLOSED

    monkeypatch.setattr(parity_sample, "MAX_TICKS", 10 * COUNT)  # the sample waits for more
    assert await sampled(partition, monkeypatch, changed=anew) == {}


async def test_too_much_state_is_not_copied_and_said_once(partition, monkeypatch, capsys):
    monkeypatch.setattr(parity_sample, "MAX_COPY_BYTES", 100)
    sample = ParitySample("", lambda: [partition], every_s=60.0, checkpoint_s=0.5)
    await works(partition, quotes(3), 0, 3)
    partition.position = 5
    for _ in range(2):
        await sample.look()
    assert capsys.readouterr().out.count("too much state") == 1
    assert partition._copying is None


def test_a_copy_of_the_state_goes_on_by_itself(partition):
    state = partition.state.sets[SPEC.feature_set]
    decoder = TickDecoder()
    values = quotes(60)
    first, _ = decoder.decode(records_of(values[:30]), state.features.symbols)
    made = features.step(first, state.features)
    state.tails[3].windows(made)
    copy, tail = state.features.copy(FeaturePlan.from_spec(SPEC)), state.tails[3].copy()

    moved = []
    for memory, windows in ((state.features, state.tails[3]), (copy, tail)):
        ticks, _ = decoder.decode(records_of(values[30:]), memory.symbols)
        made = features.step(ticks, memory)
        moved.append((made.x_NF.tobytes(), windows.windows(made)[0].tobytes()))

    assert moved[0] == moved[1]


def records_of(values: list[bytes]):
    return log_reader.columns([SimpleNamespace(offset=n, key=None, value=v, headers=()) for n, v in enumerate(values)])
