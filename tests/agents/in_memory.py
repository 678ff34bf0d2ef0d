"""Fetched bytes and outputs without a broker."""

from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import RecordBatch, seal

TOPIC = "market.ticks.v1"


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

    def of(self, topic: str) -> list[tuple]:
        return [record for name, record in self.sent if name == topic]


def fetch_of(values: Sequence[bytes | None], *, first_offset: int = 0) -> RawFetch:
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
        builder.append(delta, 0, b"ACME", value, [("trace", b"\x00\xff")])
    raw = bytearray(builder.build())
    raw[0:8] = first_offset.to_bytes(8, "big")
    return RawFetch(bytes(raw), first_offset, [])


def quote(ts_ns: int, symbol: str = "ACME", bid: float = 10.0) -> bytes:
    body = f'"symbol":"{symbol}","ts":{ts_ns},"bid":{bid},"ask":{bid + 0.5},"bid_size":1.0,"ask_size":2.0'
    return f'{{"type":"quote",{body}}}'.encode()


def quotes(count: int, *, start_s: int = 1_700_000_000) -> list[bytes]:
    return [quote((start_s + i) * 10**9, bid=10.0 + i % 7 / 10) for i in range(count)]
