"""One record in a hundred cannot be read: each becomes one dead letter, and the ticks beside it notice nothing.

What poison costs is measured in CPU seconds of a worker that drains blocks of ticks with and without it, in turn, for
a machine changes its speed from one second to the next. It does so by more than one bad record in a hundred costs, so
the blocks hold five times as many, and a fifth of what they cost is told. Wall time is told beside.
"""

import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from data_io import log_reader
from data_io.data_fetcher.sources import open_source
from data_io.topics import dead_letters, predictions, record_batch, rows, ticks
from ml_core.types import TickBatch
from tests.benchmarks.raw_producer import RawProducer
from tests.faults.bench import Bench, Result
from tests.faults.scene import Scene
from tests.faults.waiting import FellShortError, until

EVERY = 100  # good ticks to a bad record
DENSE = 20  # the same where their cost is measured
MOST_LOST = 0.05  # of the throughput of good ticks
BLOCK, BLOCKS = 200_000, 41  # good ticks
DRAINED_S = 180.0
WARM, EDGE = 4, 0.1  # blocks that are not counted at the beginning, and what is not at the ends of each
_CHOOSE = DefaultPartitioner()

_TRADE = '{"type":"trade","symbol":"SYMBOL","ts":TIME,"price":101.25,"size":3.5,"side":"buy"}'
_QUOTE = '{"type":"quote","symbol":"SYMBOL","ts":TIME,"bid":101.25,"ask":101.5,"bid_size":3.5,"ask_size":2.0}'
# A text and what is to be said of it; SYMBOL and TIME are those of the tick before it.
KINDS: tuple[tuple[str, str], ...] = (
    ("\x00\xff\xfe TIME", "bad_utf8"),
    ("", "empty_value"),
    (_TRADE[:40], "bad_json"),
    ("[TIME]", "not_an_object"),
    ('{"type":"trade","ts":TIME}', "missing:symbol"),
    (_TRADE.replace("trade", "swap"), "unknown_type"),
    (_TRADE.replace('"price":101.25,', ""), "missing:price"),
    (_TRADE.replace("101.25", '"ten"'), "bad_type:price"),
    (_TRADE.replace("TIME", '"soon"'), "bad_type:ts"),
    (_TRADE.replace("101.25", "NaN"), "bad_json"),
    (_TRADE.replace("101.25", "Infinity"), "bad_json"),
    (_TRADE.replace("101.25", "-Infinity"), "bad_json"),
    (_TRADE.replace("101.25", "1e309"), "not_finite:price"),
    (_TRADE.replace("101.25", "-101.25"), "not_positive:price"),
    (_TRADE.replace("3.5", "0"), "not_positive:size"),
    (_TRADE.replace("3.5", "-3.5"), "not_positive:size"),
    (_QUOTE.replace("101.5", "101.0"), "crossed_quote"),
    (_TRADE.replace("SYMBOL", "SYM\\u0007BOL"), "bad_symbol"),
    (_TRADE.replace("SYMBOL", "SYM\x07BOL"), "bad_json"),
)
# The largest prices there are make ticks like any other, of a symbol of their own.
HUGE = (_QUOTE.replace("101.25", "1e308").replace("101.5", "1e308"), _TRADE.replace("101.25", "1e308"))
MEGABYTE = b"x" * 1_000_000

Record = tuple[bytes, bytes]


async def poison(bench: Bench) -> Result:
    """Each bad record lands once in the dead letters, its neighbours make their rows, and it costs little."""
    found = await _kept_apart(bench)
    return found if bench.is_short else {**found, **await _cost(bench)}  # seconds of CPU are measured, not blinks


async def _kept_apart(bench: Bench) -> Result:
    async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=1) as scene:
        log, bad = _log(10_000 if bench.is_short else 100_000, bench.random)
        scene.start("a")
        _write(scene, log)
        await scene.caught_up()
        await scene.terminate("a")
        letters = [dead_letters.decode(each.key, each.value, each.headers) for each in await scene.lab.dead_letters()]
        found = [((each.key, each.value), each.source[2], each.reason) for each in letters]
        if found != [(log[offset], offset, reason) for offset, reason in bad.items()]:
            raise FellShortError(f"{len(found)} dead letters of {len(bad)} bad records, or others")
        await _must_be_finite(scene)
        return {**await scene.judged(repeats=False, rowless={0: list(bad)}), "dead_letters": len(found)}


async def _must_be_finite(scene: Scene) -> None:
    """Raise where a feature is infinite, or a prediction holds what JSON does not know."""

    def refuse(word: str) -> float:
        raise FellShortError(f"a prediction holds {word}")

    async for record in scene.lab.records(rows.name(scene.spec.feature_set), 0):
        if np.isinf(rows.decode(record.value).rows.x_NF).any():  # NaN: not known yet
            raise FellShortError(f"a feature in the record at {record.offset} is infinite")
    async for record in scene.lab.records(predictions.name(scene.spec.name), 0):
        json.loads(record.value, parse_constant=refuse)


async def _cost(bench: Bench) -> Result:
    """Let a worker drain blocks of good ticks, every other one with bad records, and compare it with its neighbours."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=1) as scene:
        bad = 0
        source = open_source(f"synthetic:symbols=6,ticks={BLOCKS * BLOCK},rate=50,seed=5")
        for number, batch in enumerate(source.stream(BLOCK)):
            found = list(_poisoned(batch, bench.random, DENSE))
            if number % 2:
                bad += sum(reason is not None for _, reason in found)
                _write(scene, [record for record, _ in found])
            else:
                _write(scene, [record for record, reason in found if reason is None])
        samples = await _drained(scene)
        written = len(await scene.lab.dead_letters())
    if written != bad:
        raise FellShortError(f"{written} dead letters of {bad} bad records")
    blocks = [_of_block(samples, number) for number in range(BLOCKS)]
    triples = [blocks[number - 1 : number + 2] for number in range(WARM | 1, BLOCKS - 1, 2)]
    cpu, wall = (
        [2 * DENSE / EVERY * (mixed[k] / (before[k] + behind[k]) - 0.5) for before, mixed, behind in triples]
        for k in (0, 1)
    )  # what it adds to the time of a good tick, as a share
    clean_us = statistics.median(block[0] for block in blocks[WARM::2])
    quarters = statistics.quantiles(cpu, n=4)
    cost = {
        "good_ticks": BLOCKS * BLOCK,
        "blocks": len(triples),
        "cpu_us": [clean_us, clean_us * (1 + quarters[1])],
        "throughput_lost": 1 - 1 / (1 + quarters[1]),
        "middle_half": [1 - 1 / (1 + quarters[0]), 1 - 1 / (1 + quarters[2])],
        "by_wall": 1 - 1 / (1 + statistics.median(wall)),
        "us_a_bad_record": quarters[1] * clean_us * EVERY,
    }
    if cost["throughput_lost"] > MOST_LOST:
        raise FellShortError(f"{cost['throughput_lost']:.1%} of the throughput of good ticks is lost: {cost}")
    return cost


class _Sample(NamedTuple):
    """How far a worker has come, and what it has used."""

    done: int  # good ticks
    cpu_s: float
    at_s: float


async def _drained(scene: Scene) -> list[_Sample]:
    """Return what a fresh worker does, which nobody asks anything meanwhile."""
    tp = TopicPartition(predictions.name(scene.spec.name), 0)
    scene.start("a", parity_s="0", checkpoint_s="60")
    await until(lambda: "worker started" in scene.log_of("a"), DRAINED_S, "a worker did not start")
    samples: list[_Sample] = []
    async with log_reader.consumer(scene.lab.kafka, committed=False) as consumer:

        async def is_drained() -> bool:
            done = (await consumer.end_offsets([tp]))[tp]
            samples.append(_Sample(done, _cpu_s(scene), time.monotonic()))
            return done >= BLOCKS * BLOCK

        await until(is_drained, DRAINED_S, "a backlog was not drained", pause_s=0.005)
    await scene.terminate("a")
    return samples


def _of_block(samples: Sequence[_Sample], number: int) -> tuple[float, float]:
    """Return the CPU and wall time, us, that a good tick of a block takes; its edges are not counted."""
    inside = [sample for sample in samples if EDGE <= sample.done / BLOCK - number <= 1 - EDGE]
    if len(inside) < 2 or inside[-1].done - inside[0].done < BLOCK / 4:
        raise FellShortError(f"block {number} was seen too seldom to be measured")
    done, cpu_s, wall_s = (after - before for before, after in zip(inside[0], inside[-1], strict=True))
    return cpu_s / done * 1e6, wall_s / done * 1e6


def _cpu_s(scene: Scene) -> float:
    tasks = Path(f"/proc/{scene.workers['a'].pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def _log(count: int, rng: random.Random) -> tuple[list[Record], dict[int, str]]:
    """Return the records of one partition, and of the bad ones the reason by offset."""
    log: list[Record] = []
    bad: dict[int, str] = {}
    batch = next(open_source(f"synthetic:symbols=6,ticks={count},rate=50").stream(count))
    for n, (record, reason) in enumerate(_poisoned(batch, rng, EVERY)):
        if n == count // 2:
            bad[len(log)] = "too_large"
            log.append((b"S0", MEGABYTE))
        if reason is not None:
            bad[len(log)] = reason
        log.append(record)
        if n % 1_000 == 0:
            log += [(b"HUGE", filled(text, "HUGE", int(batch.ts_ns_N[0]) + n)) for text in HUGE]
    return log, bad


def _poisoned(batch: TickBatch, rng: random.Random, every: int) -> Iterator[tuple[Record, str | None]]:
    """Yield the records of ``batch``, and behind one in ``every`` another that is bad; all kinds in turn."""
    kinds: list[tuple[str, str]] = []
    place = rng.randrange(every)
    for n, record in enumerate(ticks.encode(batch)):
        yield record, None
        if n % every == place:
            kinds = kinds or rng.sample(KINDS, len(KINDS))
            text, reason = kinds.pop()
            symbol = batch.symbols[batch.symbol_N[n]]
            yield (record[0], filled(text, symbol, int(batch.ts_ns_N[n]))), reason


def filled(text: str, symbol: str, ts_ns: int) -> bytes:
    """Return the record of one of KINDS."""
    return text.replace("SYMBOL", symbol).replace("TIME", str(ts_ns)).encode("latin-1")


def _write(scene: Scene, records: Sequence[Record]) -> None:
    """Append ``records`` to the topic of ``scene``, each to the partition of its key."""
    numbers = list(range(scene.lab.partitions))
    partition_of = {key: _CHOOSE(key, numbers, numbers) for key in {key for key, _ in records}}
    with RawProducer(scene.lab.kafka, scene.lab.topic) as producer:
        for number in numbers:
            of_it = [(key, value, ()) for key, value in records if partition_of[key] == number]
            for batch in record_batch.pack(of_it):
                record_batch.seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
                producer.send([(number, memoryview(batch.data))], window=4)
        producer.settle()
