"""A live feed onto topics: its ticks as the publisher writes them, its gaps beside them."""

from collections.abc import Callable
from contextlib import aclosing

from data_io.feeds import gaps
from data_io.feeds.live import LiveBatch, LiveFeed
from data_io.publisher import TIMEOUT_S, Outbox, Records
from data_io.topics import admin, ticks


async def publish(
    feed: LiveFeed,
    *,
    bootstrap: str,
    topic: str,
    gaps_topic: str = gaps.NAME,
    progress: Callable[[int], None] = lambda _ticks: None,
    limit: int | None = None,
) -> int:
    """Publish what ``feed`` gives to two existing topics until it is stopped; return the number of ticks.

    All of it is acknowledged at the end. A gap goes out after the ticks before it and may overtake those behind it.

    Args:
        feed: Not read before.
        bootstrap: Kafka's bootstrap servers.
        topic: Of ticks; a record also has what `encode` adds.
        gaps_topic: Of gaps, see `data_io.feeds.gaps`.
        progress: Called with the number of ticks, after each batch.
        limit: The feed is stopped after so many ticks, or a few more.

    Raises:
        InputError: The venue refuses the subscription.
        SourceUnavailableError: Its trade ids went back. A retry is safe.
        NotFoundError: There is no such topic.
        KafkaUnavailableError: Kafka did not take a batch in time; what was acknowledged is a prefix of each partition.
        SetupError: Kafka refuses the ticks. A retry will not help.
    """
    boxes = [
        Outbox(bootstrap, name, (await admin.describe(bootstrap, name, TIMEOUT_S)).partitions)
        for name in (topic, gaps_topic)
    ]
    total = 0
    started: list[Outbox] = []
    try:
        for box in boxes:
            await box.start()
            started.append(box)
        async with aclosing(feed.batches()) as found:
            async for batch in found:
                for box, records in zip(boxes, (encode(batch), [*map(gaps.encode, batch.gaps)]), strict=True):
                    await box.add(records)
                    await box.send_open()
                total += len(batch.ticks)
                progress(total)
                if limit is not None and total >= limit:
                    feed.stop()
        for box in boxes:
            await box.settle()
    finally:
        for box in started:
            await box.stop()
    return total


def encode(batch: LiveBatch) -> Records:
    """Return the records of the ticks: those of `data_io.topics.ticks`, with ``exchange_ts`` where it is known.

    Trades that were asked for afterwards have ``"backfilled":true``. Decoders of ticks pass over both.
    """
    records = []
    for (key, value), exchange_ns, is_backfilled in zip(
        ticks.encode(batch.ticks), batch.exchange_ns_N.tolist(), batch.is_backfilled_N.tolist(), strict=True
    ):
        more = b',"exchange_ts":%d' % exchange_ns if exchange_ns >= 0 else b""
        more += b',"backfilled":true' if is_backfilled else b""
        records.append((key, value[:-1] + more + b"}" if more else value))
    return records
