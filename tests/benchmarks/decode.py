"""What it costs to turn fetched bytes into columns of ticks, each way in: ns a tick on one core.

usage: python -m tests.benchmarks.decode [--ticks N] [--runs N] [--only NAME]

Native JSON, a venue's JSON through a field map, and Arrow records of many rows. One fetch is about 1 MB, as a worker
takes it. Every way is checked against the exact decoder before it is timed. Prints one line of JSON with medians.
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from data_io.topics import ticks
from data_io.topics.raw_records import RawFetch, find, unpack
from data_io.topics.tick_arrow import CONTENT_TYPE
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable

SYMBOLS = [f"S{i:03d}-USDT" for i in range(100)]
VENUE = FieldMap(
    ts="$.data.T:ms",
    symbol="$.data.s",
    price="$.data.p",
    size="$.data.q",
    side="$.data.m:maker",
    seq="$.data.t",
    bid="$.data.b",
    ask="$.data.a",
    bid_size="$.data.B",
    ask_size="$.data.A",
)
HEADERS = [("content-type", CONTENT_TYPE.encode())]


class Way(NamedTuple):
    """One way in: how to read it, and one fetch of it."""

    field_map: FieldMap | None
    fetch: RawFetch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ticks", type=int, default=8000)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    ticks.warm_up()
    found = {
        name: measure(way, options.runs) for name, way in ways(options.ticks).items() if name.startswith(options.only)
    }
    machine = {"machine": platform.processor() or platform.machine(), "load": os.getloadavg()[0]}
    sys.stdout.write(json.dumps({"ns_per_tick": found, "ticks": options.ticks, "runs": options.runs, **machine}) + "\n")


def ways(count: int) -> dict[str, Way]:
    """Return every way in, each with ``count`` ticks of the same seeded market."""
    rng = np.random.default_rng(11)
    symbol = [SYMBOLS[i] for i in rng.integers(0, len(SYMBOLS), count)]
    price = np.round(61000 + np.cumsum(rng.normal(size=count)), 2).tolist()
    size = np.round(rng.random(count) + 1e-5, 5).tolist()
    side = [("buy", "sell")[i] for i in rng.integers(0, 2, count)]
    ts = (1_723_075_200_000_000_000 + np.cumsum(rng.integers(1, 10**6, count))).tolist()
    rows = list(zip(symbol, ts, price, size, side, strict=True))
    trade = [
        f'{{"type":"trade","symbol":"{s}","ts":{t},"price":{p!r},"size":{q!r},"side":"{b}"}}' for s, t, p, q, b in rows
    ]
    quote = [
        f'{{"type":"quote","symbol":"{s}","ts":{t},"bid":{p!r},"ask":{p + 0.5!r},"bid_size":{q!r},"ask_size":{q!r}}}'
        for s, t, p, q, _ in rows
    ]
    venue = [
        f'{{"stream":"{s.lower()}@trade","data":{{"e":"trade","E":{t // 10**6 + 1},"s":"{s}","t":{i},'
        f'"p":"{p:.8f}","q":"{q:.8f}","T":{t // 10**6},"m":{"true" if b == "sell" else "false"},"M":true}}}}'
        for i, (s, t, p, q, b) in enumerate(rows)
    ]
    book = [
        f'{{"stream":"{s.lower()}@bookTicker","data":{{"u":{i},"s":"{s}","T":{t // 10**6},'
        f'"b":"{p:.8f}","B":"{q:.8f}","a":"{p + 0.01:.8f}","A":"{q:.8f}"}}}}'
        for i, (s, t, p, q, _) in enumerate(rows)
    ]
    table = pa.table(
        {"type": ["trade"] * count, "symbol": symbol, "ts": ts, "price": price, "size": size, "side": side}
    )
    coded = table.set_column(1, "symbol", table["symbol"].dictionary_encode().combine_chunks())
    coded = coded.set_column(0, "type", table["type"].dictionary_encode().combine_chunks())
    return {
        "native trades": Way(None, fetch_of([(None, text.encode(), []) for text in trade])),
        "native quotes": Way(None, fetch_of([(None, text.encode(), []) for text in quote])),
        "native mixed": Way(
            None,
            fetch_of([(None, pair[i % 3 > 0].encode(), []) for i, pair in enumerate(zip(trade, quote, strict=True))]),
        ),
        "mapped trades": Way(VENUE, fetch_of([(None, text.encode(), []) for text in venue])),
        "mapped quotes": Way(VENUE, fetch_of([(None, text.encode(), []) for text in book])),
        "arrow of 1000 rows": Way(None, fetch_of([(None, text, HEADERS) for text in arrow(table, 1000)])),
        "arrow of 4000 rows": Way(None, fetch_of([(None, text, HEADERS) for text in arrow(table, 4000)])),
        "arrow of 4000 coded": Way(None, fetch_of([(None, text, HEADERS) for text in arrow(coded, 4000)])),
    }


def arrow(table: pa.Table, rows: int) -> list[bytes]:
    """Return ``table`` as the values of records that hold ``rows`` rows each."""
    found = []
    for at in range(0, len(table), rows):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(at, rows))
        found.append(sink.getvalue())
    return found


def fetch_of(parts: list[tuple[bytes | None, bytes, list[tuple[str, bytes]]]]) -> RawFetch:
    """Return the records as one batch, as a broker would send it."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 30,
    )  # fmt: skip
    for i, (key, value, headers) in enumerate(parts):
        builder.append(i, 1_723_075_200_000, key, value, headers)
    return RawFetch(bytes(builder.build()), 0, [])


def measure(way: Way, runs: int) -> dict[str, float]:
    """Return the median cost of all of it, and of finding the records alone, after checking what comes out."""
    decoder, symbols = ticks.TickDecoder(way.field_map), SymbolTable()
    exact, rejects = decoder.decode(unpack(way.fetch)[0], symbols)
    decoded = decoder.decode_fetch(way.fetch, symbols)
    if rejects or decoded.rejects:
        raise SystemExit(f"a good tick was refused: {(rejects + decoded.rejects)[0]}")
    for a, b in zip(decoded.ticks[:-1], exact[:-1], strict=True):
        if a.tobytes() != b.tobytes():
            raise SystemExit("the two decoders disagree")
    count = len(exact)
    return {
        "all": timed(lambda: decoder.decode_fetch(way.fetch, symbols), runs, count),
        "find": timed(lambda: find(way.fetch), runs, count),
        "bytes": round(len(way.fetch.raw) / count, 1),
    }


def timed(call: Callable[[], object], runs: int, count: int) -> float:
    """Return the median over ``runs`` of the best of three calls, in ns of CPU time a tick."""
    found = []
    for _ in range(runs):
        best = float("inf")
        for _ in range(3):
            start = time.process_time_ns()
            call()
            best = min(best, time.process_time_ns() - start)
        found.append(best / count)
    return round(statistics.median(found), 1)


if __name__ == "__main__":
    main()
