"""The topic of ticks: a JSON object or an Arrow batch a record, or a user's own topic through a field map."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from data_io.topics import tick_arrow, tick_kernel
from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.field_map import MappedReader
from data_io.topics.raw_records import FoundRecords, RawFetch, find
from data_io.topics.records import Records, Reject
from data_io.topics.symbol_index import SymbolIndex
from data_io.topics.tick_json import read_native
from data_io.topics.tick_kernel import Parsed, Plan, parse
from data_io.topics.tick_plan import native_plan
from data_io.topics.tick_rules import BadTickError, Tick, check, check_symbol
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable, TickBatch, TickKind

NAME = "market.ticks.v1"
MAX_REJECTS_A_RECORD = 8


def topic_spec(name: str, partitions: int) -> TopicSpec:
    """Return how a topic of ticks is created: stamped by the broker, because event time lives in the value."""
    return log_topic(name, partitions)


class Decoded(NamedTuple):
    """What one fetch holds."""

    ticks: TickBatch
    rejects: list[Reject]  # their positions count in `reject_records`
    reject_records: Records  # the records the rejects are about, and possibly others
    next_offset: int  # where the next fetch begins


class TickDecoder:
    """Turns records into ticks; what is wrong with a record touches no other record."""

    def __init__(self, field_map: FieldMap | None = None) -> None:
        """Read the native format, or the user's own through ``field_map``.

        Raises:
            SpecError: A path of the map is not understood.
        """
        self._read: Callable[[bytes | None, bytes | None], Tick] = _read_native
        self._plan: Plan | None = native_plan()
        if field_map:
            self._read = reader = MappedReader(field_map)
            self._plan = reader.plan
        self._indices: WeakKeyDictionary[SymbolTable, SymbolIndex] = WeakKeyDictionary()

    def decode_fetch(self, fetch: RawFetch, symbols: SymbolTable) -> Decoded:
        """Return what ``decode`` would for the records of ``fetch``; plain native JSON is parsed where it lies.

        Raises:
            CorruptRecordError: A record batch is damaged. Fetching again is safe.
        """
        found = find(fetch)
        if self._plan is None:
            records = found.take(range(len(found.places.offset_N)))
            return Decoded(*self.decode(records, symbols), records, found.next_offset)
        index = self._indices.setdefault(symbols, SymbolIndex())
        parsed = parse(found.data, found.places, self._plan, index.follow(symbols))
        records = found.take(np.flatnonzero(~parsed.taken_N))
        exact, rejects = self.decode(records, symbols)
        return Decoded(_joined(found, parsed, exact, symbols), rejects, records, found.next_offset)

    def decode(self, records: Records, symbols: SymbolTable) -> tuple[TickBatch, list[Reject]]:
        """Return the ticks of ``records`` in order, and what was refused; new symbols are added to ``symbols``."""
        rows: list[tuple[int, int, int, Tick]] = []
        rejects: list[Reject] = []
        for position, (offset, key, value, headers) in enumerate(zip(*records, strict=True)):
            try:
                if headers and tick_arrow.is_arrow(headers):
                    found = tick_arrow.read_rows(value)
                else:
                    tick = self._read(key, value)
                    rows.append((offset, 0, _index(tick.symbol, symbols), tick))
                    continue
            except BadTickError as error:
                rejects.append(Reject(position, 0, error.reason, error.detail))
                continue
            bad: list[Reject] = []
            for index, fields in enumerate(found):
                try:
                    tick = check(fields)
                    rows.append((offset, index, _index(tick.symbol, symbols), tick))
                except BadTickError as error:
                    bad.append(Reject(position, index, error.reason, error.detail))
            rejects += _bounded(bad)
        return _batch(rows, symbols), rejects


def encode(batch: TickBatch) -> list[tuple[bytes, bytes]]:
    """Return key and JSON value of one record a tick, in order; every float is written so that it reads back equal."""
    used = {i: batch.symbols[i] for i in np.unique(batch.symbol_N).tolist()}
    names = {i: json.dumps(symbol, ensure_ascii=False) for i, symbol in used.items()}
    keys = {i: symbol.encode() for i, symbol in used.items()}
    sides = {1: ',"side":"buy"', -1: ',"side":"sell"', 0: ""}
    columns = (
        batch.kind_N, batch.symbol_N, batch.ts_ns_N, batch.price_N, batch.size_N, batch.side_N,
        batch.bid_N, batch.ask_N, batch.bid_size_N, batch.ask_size_N, batch.seq_N,
    )  # fmt: skip
    records = []
    for kind, symbol, ts, price, size, side, bid, ask, bid_size, ask_size, seq in zip(
        *(c.tolist() for c in columns), strict=True
    ):
        if kind == TickKind.TRADE:
            body = f'{{"type":"trade","symbol":{names[symbol]},"ts":{ts},"price":{price!r},"size":{size!r}{sides[side]}'
        else:
            body = (
                f'{{"type":"quote","symbol":{names[symbol]},"ts":{ts},"bid":{bid!r},"ask":{ask!r}'
                f',"bid_size":{bid_size!r},"ask_size":{ask_size!r}'
            )
        records.append((keys[symbol], (f'{body},"seq":{seq}}}' if seq >= 0 else f"{body}}}").encode()))
    return records


def warm_up() -> None:
    """Compile what ``decode_fetch`` runs, or load it from numba's cache, so that the first batch does not wait."""
    TickDecoder().decode_fetch(RawFetch(b"", 0, []), SymbolTable(["A"]))


def _read_native(_key: bytes | None, value: bytes | None) -> Tick:
    return read_native(value)


def _bounded(bad: list[Reject]) -> list[Reject]:
    """Return the rejects of one record, those past a bound as one: each makes a dead letter with the whole record."""
    kept, more = bad[:MAX_REJECTS_A_RECORD], bad[MAX_REJECTS_A_RECORD:]
    if not more:
        return kept
    return [*kept, more[0]._replace(reason="more_rows", detail=f"{len(more)} more rows of this record are refused")]


def _index(symbol: str, symbols: SymbolTable) -> int:
    known = symbols.index.get(symbol)
    if known is not None:
        return known
    check_symbol(symbol)
    added = symbols.add(symbol)
    if added < 0:
        raise BadTickError("symbols_full", f"{symbol!r} would be symbol {symbols.limit + 1} of this partition")
    return added


def _joined(found: FoundRecords, parsed: Parsed, exact: TickBatch, symbols: SymbolTable) -> TickBatch:
    """Return the ticks of the kernel and those of the exact decoder in the order of the log."""
    number_FN = parsed.bits_FN.view(np.float64)
    fast = TickBatch(
        offset_N=found.places.offset_N,
        index_N=np.zeros(len(parsed.taken_N), np.int32),
        kind_N=parsed.kind_N,
        symbol_N=parsed.symbol_N,
        ts_ns_N=parsed.ts_ns_N,
        price_N=number_FN[tick_kernel.PRICE],
        size_N=number_FN[tick_kernel.SIZE],
        side_N=parsed.side_N,
        bid_N=number_FN[tick_kernel.BID],
        ask_N=number_FN[tick_kernel.ASK],
        bid_size_N=number_FN[tick_kernel.BID_SIZE],
        ask_size_N=number_FN[tick_kernel.ASK_SIZE],
        seq_N=parsed.seq_N,
        symbols=symbols.names,
    )
    if parsed.taken_N.all():
        return fast
    *fast_columns, _ = fast
    *exact_columns, _ = exact
    offset_N = np.concatenate([fast.offset_N[parsed.taken_N], exact.offset_N])
    order = np.argsort(offset_N, kind="stable")  # ticks of one record have one offset and stay in its order
    pairs: Any = zip(fast_columns, exact_columns, strict=True)
    columns: list[Any] = [np.concatenate([a[parsed.taken_N], b])[order] for a, b in pairs]
    columns.append(symbols.names)
    return TickBatch(*columns)


def _batch(rows: list[tuple[int, int, int, Tick]], symbols: SymbolTable) -> TickBatch:
    ticks = list(zip(*(row[3] for row in rows), strict=True)) or [()] * len(Tick._fields)
    kind, _, ts_ns, price, size, side, bid, ask, bid_size, ask_size, seq = ticks
    return TickBatch(
        offset_N=np.array([row[0] for row in rows], np.int64),
        index_N=np.array([row[1] for row in rows], np.int32),
        kind_N=np.array(kind, np.int8),
        symbol_N=np.array([row[2] for row in rows], np.int32),
        ts_ns_N=np.array(ts_ns, np.int64),
        price_N=np.array(price, np.float64),
        size_N=np.array(size, np.float64),
        side_N=np.array(side, np.int8),
        bid_N=np.array(bid, np.float64),
        ask_N=np.array(ask, np.float64),
        bid_size_N=np.array(bid_size, np.float64),
        ask_size_N=np.array(ask_size, np.float64),
        seq_N=np.array(seq, np.int64),
        symbols=symbols.names,
    )
