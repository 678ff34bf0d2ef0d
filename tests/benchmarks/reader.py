"""Reads predictions as they become readable and notes when; a fetch costs it microseconds, not a prediction.

usage: python -m tests.benchmarks.reader BOOTSTRAP TOPIC TOPIC_ID PARTITIONS COUNT ISOLATION TIMEOUT_S RESULT

Starts at the end of the topic and says ``ready``. After COUNT predictions, or TIMEOUT_S seconds without one, RESULT
(.npz) holds of each its partition, the offset of the tick it names, and the monotonic time at which it was read, ns.
"""

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from data_io.topics.raw_records import RawFetch, find
from ml_core.types import Int64
from streams.transport import connection
from streams.transport.tick_fetcher import TickFetcher

FETCH_BYTES, POLL_S = 8 << 20, 0.05


def tick_offsets(fetch: RawFetch, prefix: bytes) -> Int64:
    """Return the offsets of the ticks that the predictions of ``fetch`` name, -1 where one names none.

    ``prefix`` is what stands before the offset, the topic's id and the partition.
    """
    found = find(fetch)
    out = np.empty(len(found.places.offset_N), np.int64)
    buffer = np.frombuffer(found.data, np.uint8)
    _named(buffer, found.places.value_at_N, found.places.value_len_N, np.frombuffer(prefix, np.uint8), out)
    return out


async def read(
    bootstrap: str, topic: str, topic_id: str, partitions: int, count: int, isolation: str, timeout_s: float
) -> dict[str, Any]:
    """Return three columns: partition, offset of the tick, time."""
    connection.install()
    tps = {TopicPartition(topic, p): f'"{topic_id}-{p}-'.encode() for p in range(partitions)}
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level=isolation)
    await consumer.start()
    fetcher = TickFetcher(consumer._client, partition_bytes=FETCH_BYTES, committed=isolation == "read_committed")
    partition_parts, offset_parts, times = [], [], []
    try:
        for tp, end in (await consumer.end_offsets(list(tps))).items():
            fetcher.seek(tp, end)
        tick_offsets(RawFetch(b"", 0, []), b"x")
        gc.disable()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        seen, last_ns = 0, time.monotonic_ns()
        while seen < count:
            fetcher.ask(tps)
            found = await fetcher.arrived(POLL_S)
            now_ns = time.monotonic_ns()
            if not found and now_ns > last_ns + timeout_s * 1e9:
                break
            for tp, fetch in found:
                last_ns = now_ns
                offset_N = tick_offsets(fetch, tps[tp])
                seen += len(offset_N)
                partition_parts.append(np.full(len(offset_N), tp.partition, np.int32))
                offset_parts.append(offset_N)
                times.append(np.full(len(offset_N), now_ns, np.int64))
    finally:
        await fetcher.stop()
        await consumer.stop()
    empty = np.empty(0, np.int64)
    return {
        "partition_N": np.concatenate([*partition_parts, empty]).astype(np.int32),
        "offset_N": np.concatenate([*offset_parts, empty]),
        "read_ns_N": np.concatenate([*times, empty]),
    }


def main(
    bootstrap: str, topic: str, topic_id: str, partitions: str, count: str, isolation: str, timeout_s: str, result: str
) -> None:
    """Read what the command line asks for."""
    found = asyncio.run(read(bootstrap, topic, topic_id, int(partitions), int(count), isolation, float(timeout_s)))
    partial = Path(result).with_suffix(".part.npz")
    np.savez(partial, allow_pickle=False, **found)
    partial.replace(result)


@numba.njit(cache=True)
def _named(buffer: Any, at_N: Any, len_N: Any, prefix: Any, out: Any) -> None:
    for i in range(len(at_N)):
        out[i] = -1
        end = at_N[i] + len_N[i]
        for start in range(at_N[i], end - len(prefix)):
            same = True
            for k in range(len(prefix)):
                if buffer[start + k] != prefix[k]:
                    same = False
                    break
            if same:
                value, at = 0, start + len(prefix)
                while at < end and 48 <= buffer[at] <= 57:
                    value = value * 10 + buffer[at] - 48
                    at += 1
                out[i] = value
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
