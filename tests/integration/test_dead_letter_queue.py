"""Dead letters on a real Kafka: listed, shown, sent again once, and deleted."""

import asyncio
import io
import json

import pyarrow as pa
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from api.cli import dlq
from data_io import dead_letter_queue as queue
from data_io.topics import admin, dead_letters
from data_io.topics.records import Records, Reject
from data_io.topics.tick_arrow import CONTENT_TYPE
from ml_core.errors import NotFoundError
from tests.integration.worker_lab import PARTITIONS, stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def tick(ts: int, price: float, symbol: str = "ACME") -> bytes:
    return json.dumps({"type": "trade", "symbol": symbol, "ts": ts, "price": price, "size": 1.0}).encode()


class Letters:
    """The dead letters of the lab's topic, written as a worker writes them."""

    def __init__(self, lab) -> None:
        self.lab = lab

    async def add(self, *letters, reason="bad_json", partition=0, index=0) -> None:
        await admin.ensure_topics(self.lab.kafka, [dead_letters.topic_spec(self.lab.topic, PARTITIONS)])
        for offset, (key, value, headers) in enumerate(letters):
            records = Records([offset], [key], [value], [tuple(headers)])
            reject = Reject(0, index, reason, "why not")
            await self._write(*dead_letters.encode(reject, records, self.lab.topic, partition), partition)

    async def _write(self, key, value, headers, partition) -> None:
        topic, self.lab.topic = self.lab.topic, dead_letters.name(self.lab.topic)
        try:
            await self.lab.send((key, value), partition=partition, headers=headers)
        finally:
            self.lab.topic = topic

    async def replayed(self, partition=0):
        return [
            (r.key, r.value, [h for h in r.headers if h[0] != dead_letters.REPLAY_OF])
            async for r in self.lab.records(self.lab.topic, partition, committed=True)
        ]


@pytest.fixture
def letters(lab) -> Letters:
    return Letters(lab)


async def test_replayed_records_are_the_refused_ones_byte_for_byte_in_order_and_only_once(lab, letters) -> None:
    first = [(b"A", b"\x00\xff", [("trace", b"1")]), (None, b"two", []), (b"C", None, [])]
    await letters.add(*first)
    await letters.add((b"D", b"elsewhere", []), partition=1)

    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 4
    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 0
    assert await letters.replayed() == first
    assert await letters.replayed(1) == [(b"D", b"elsewhere", [])]


async def test_a_limit_counts_the_letters_of_all_partitions(lab, letters) -> None:
    for partition in range(PARTITIONS):
        await letters.add((b"A", b"1", []), (b"B", b"2", []), partition=partition)

    for _ in range(2 * PARTITIONS):
        assert (await queue.replay(lab.kafka, lab.topic, limit=1)).sent.total() == 1
    assert (await queue.replay(lab.kafka, lab.topic, limit=1)).sent.total() == 0


async def test_headers_that_a_record_came_with_are_no_marks_of_a_replay(lab, letters) -> None:
    forged = [("tickwise.replayed", b"999999999/bad_json"), ("tickwise.left", b"x"), ("tickwise.sent", b"")]
    await letters.add((b"A", b"1", forged), (b"B", b"2", []))
    await letters._write(b"C", b"of somebody else", [("tickwise.replayed", b"\xff"), ("tickwise.left", b"")], 0)

    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 2
    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 0


async def test_a_letter_that_was_written_twice_is_not_sent_again_when_the_first_copy_is_gone(lab, letters) -> None:
    await letters.add((b"A", b"1", []))
    await letters.add((b"A", b"1", []))
    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 1

    client = AIOKafkaAdminClient(bootstrap_servers=lab.kafka)
    await client.start()
    await client.delete_records({TopicPartition(dead_letters.name(lab.topic), 0): RecordsToDelete(before_offset=1)})
    await client.close()
    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 0


async def test_a_letter_that_names_another_topic_is_left(lab, letters) -> None:
    await letters.add((b"A", b"1", []))
    other = dead_letters.encode(Reject(0, 0, "bad_json", ""), Records([0], [b"A"], [b"2"], [()]), "jobs.requests.v1", 0)
    await letters._write(*other, 0)

    report = await queue.replay(lab.kafka, lab.topic)
    assert (report.sent.total(), report.left) == (1, {"it names another topic": 1})


async def test_each_reason_is_replayed_by_itself_and_those_that_came_later_too(lab, letters) -> None:
    await letters.add((b"A", b"1", []), reason="bad_json")
    await letters.add((b"A", b"2", []), reason="missing:price")
    await letters.add((b"A", b"3", []), reason="bad_json")

    assert (await queue.replay(lab.kafka, lab.topic, "missing:price")).sent == {"missing:price": 1}
    assert (await queue.replay(lab.kafka, lab.topic, limit=1)).sent == {"bad_json": 1}
    await letters.add((b"A", b"4", []), reason="missing:price")
    assert (await queue.replay(lab.kafka, lab.topic)).sent == {"bad_json": 1, "missing:price": 1}
    assert [value for _, value, _ in await letters.replayed()] == [b"2", b"1", b"3", b"4"]


async def test_of_a_record_of_many_ticks_only_the_refused_row_is_sent(lab, letters) -> None:
    batch = pa.RecordBatch.from_pylist([{"symbol": "A", "ts": k} for k in range(5)])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch.slice(0, 3))
        writer.write_batch(batch.slice(3))
    arrow = [("content-type", CONTENT_TYPE.encode())]
    await letters.add((None, sink.getvalue(), arrow), reason="missing:price", index=3)
    await letters.add((None, sink.getvalue(), arrow), reason="more_rows", index=4)
    await letters.add((None, b"no arrow", arrow), reason="bad_arrow")

    report = await queue.replay(lab.kafka, lab.topic)

    assert report.left == {"it stands for many rows of its record": 1}
    (_, row, headers), (_, whole, _) = await letters.replayed()
    assert pa.ipc.open_stream(row).read_all().to_pylist() == [{"symbol": "A", "ts": 3}]
    assert headers == arrow
    assert whole == b"no arrow"


async def test_what_had_to_be_left_is_tried_again_by_every_later_replay(lab, letters) -> None:
    big, partition_gone = b"x" * 20_000, Reject(0, 0, "bad_json", "")
    await letters.add((b"A", big, []), (b"B", b"small", []), (b"C", b"small too", []))
    of_another = dead_letters.encode(partition_gone, Records([9], [b"D"], [b"gone"], [()]), lab.topic, 7)
    await letters._write(*of_another, 0)
    await _limit_bytes(lab, 5_000)
    too_large, no_partition = "it is larger than the topic takes", "the topic has no partition 7 any more"

    one = await queue.replay(lab.kafka, lab.topic, limit=1)
    assert (one.sent.total(), one.left) == (1, {too_large: 1})
    rest = await queue.replay(lab.kafka, lab.topic)
    assert (rest.sent.total(), rest.left) == (1, {too_large: 1, no_partition: 1})
    await _limit_bytes(lab, 1_000_000)
    assert (await queue.replay(lab.kafka, lab.topic, "missing:price")).sent.total() == 0
    mended = await queue.replay(lab.kafka, lab.topic)
    assert (mended.sent.total(), mended.left) == (1, {no_partition: 1})
    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == 0
    assert [value for _, value, _ in await letters.replayed()] == [b"small", b"small too", big]


async def _limit_bytes(lab, count: int) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=lab.kafka)
    await client.start()
    try:
        topic = ConfigResource(ConfigResourceType.TOPIC, lab.topic, {"max.message.bytes": str(count)})
        await client.alter_configs([topic])
    finally:
        await client.close()


async def test_after_the_map_is_mended_a_replay_gives_the_rows_of_a_run_that_never_failed(lab) -> None:
    fields = {"ts": "$.t", "symbol": "$.s", "price": "$.p", "size": "$.q"}
    values = [
        json.dumps({"t": 1_700_000_000_000_000_000 + k * 10**8, "s": f"S{k % 3}", "p": 100 + k % 7, "q": 1}).encode()
        for k in range(200)
    ]
    await lab.send(*((None, value) for value in values))
    wrong = lab.pipeline("wrong", source={"topic": lab.topic, "map": {**fields, "price": "$.px"}})
    process = lab.start(wrong)
    await lab.until(lambda: _all_refused(lab, len(values)))
    assert stop(process) == 0

    right = lab.pipeline("wrong", source={"topic": lab.topic, "map": fields})
    clean = await lab.expected_rows(right)
    process = lab.start(right)
    assert (await queue.replay(lab.kafka, lab.topic)).sent.total() == len(values)
    live = await lab.until_rows(right, len(values))

    assert [live[name] for name in sorted(live)] == [clean[name] for name in sorted(clean)]
    assert stop(process) == 0


async def _all_refused(lab, count) -> bool:
    return len(await lab.dead_letters()) >= count


async def test_the_commands_list_show_and_purge(lab, letters) -> None:
    with pytest.raises(NotFoundError, match="no dead letters"):
        await queue.replay(lab.kafka, lab.topic)
    await letters.add((b"A", b"\x00 not a tick", [("trace", b"1")]), (b"B", b"{", []))

    def invoked(*words):
        result = CliRunner().invoke(dlq.app, [*words, "--topic", lab.topic, "--kafka", lab.kafka])
        assert result.exit_code == 0, result.output
        return result

    def run(*words):
        return json.loads(invoked(*words, "--json").stdout)

    for command in ("list", "replay"):
        misspelt = await asyncio.to_thread(invoked, command, "--reason", "bad_jsn")
        assert "no dead letter has the reason 'bad_jsn'; did you mean 'bad_json'?" in misspelt.stderr

    listed = await asyncio.to_thread(run, "list", "--newest", "1")
    assert listed["reasons"] == {"bad_json": 2}
    assert [(each["partition"], each["offset"], each["detail"]) for each in listed["newest"]] == [(0, 1, "why not")]
    shown = await asyncio.to_thread(run, "show", "0", "0")
    assert (shown["key"], shown["value"], shown["headers"]) == ("QQ==", "ACBub3QgYSB0aWNr", [["trace", "MQ=="]])
    assert shown["source"] == f"{lab.topic}/0/0/0"
    assert await asyncio.to_thread(run, "purge", "--older-than", "1h", "--yes") == {"deleted_offsets": 0}
    assert await asyncio.to_thread(run, "purge", "--yes") == {"deleted_offsets": 2}
    assert (await asyncio.to_thread(run, "list"))["reasons"] == {}
