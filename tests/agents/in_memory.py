"""Fetched bytes and outputs without a broker."""

import json
from collections.abc import Sequence

import pyarrow as pa
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import RecordBatch, join, seal
from data_io.topics.tick_arrow import CONTENT_TYPE

TOPIC = "market.ticks.v1"
TRACE = ("trace", b"\x00\xff")
ARROW = ("content-type", CONTENT_TYPE.encode())


class Recorded:
    """Outputs that are kept, topic by topic, in the order they were sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple]] = []

    def begin(self) -> None:
        pass

    def send(self, topic: str, batches: Sequence[RecordBatch]) -> None:
        for batch in batches:
            seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
            records, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
            self.sent += [
                (topic, record) for record in zip(records.key, records.value, map(list, records.headers), strict=True)
            ]

    def hold(self, topic: str, contents: Sequence[bytes]) -> None:
        self.send(topic, join(contents))

    def of(self, topic: str) -> list[tuple]:
        return [record for name, record in self.sent if name == topic]


def fetch_of(
    values: Sequence[bytes | None], *, first_offset: int = 0, headers: Sequence[tuple[str, bytes]] = (TRACE,)
) -> RawFetch:
    """One uncompressed record batch, as a broker would have sent it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for delta, value in enumerate(values):
        builder.append(delta, 0, b"ACME", value, list(headers))
    raw = bytearray(builder.build())
    raw[0:8] = first_offset.to_bytes(8, "big")
    return RawFetch(bytes(raw), first_offset, [])


def quote(ts_ns: int, symbol: str = "ACME", bid: float = 10.0) -> bytes:
    body = f'"symbol":"{symbol}","ts":{ts_ns},"bid":{bid},"ask":{bid + 0.5},"bid_size":1.0,"ask_size":2.0'
    return f'{{"type":"quote",{body}}}'.encode()


def arrow(*values: bytes) -> bytes:
    """The ticks of JSON records as one Arrow stream."""
    batch = pa.RecordBatch.from_pylist([json.loads(value) for value in values])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def quotes(count: int, *, start_s: int = 1_700_000_000) -> list[bytes]:
    return [quote((start_s + i) * 10**9, bid=10.0 + i % 7 / 10) for i in range(count)]
