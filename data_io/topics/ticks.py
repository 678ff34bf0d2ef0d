"""The topic of ticks: a JSON object or an Arrow batch a record, or a user's own topic through a field map."""

import json
from collections.abc import Callable

import numpy as np

from data_io.topics import tick_arrow
from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.field_map import MappedReader
from data_io.topics.records import Records, Reject
from data_io.topics.tick_json import read_native
from data_io.topics.tick_rules import BadTickError, Tick, check, check_symbol
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable, TickBatch, TickKind

NAME = "market.ticks.v1"


def topic_spec(name: str, partitions: int) -> TopicSpec:
    """Return how a topic of ticks is created: stamped by the broker, because event time lives in the value."""
    return log_topic(name, partitions)


class TickDecoder:
    """Turns records into ticks; what is wrong with a record touches no other record."""

    def __init__(self, field_map: FieldMap | None = None) -> None:
        """Read the native format, or the user's own through ``field_map``.

        Raises:
            SpecError: A path of the map is not understood.
        """
        self._read: Callable[[bytes | None, bytes | None], Tick] = (
            _read_native if field_map is None else MappedReader(field_map)
        )

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
            for index, fields in enumerate(found):
                try:
                    tick = check(fields)
                    rows.append((offset, index, _index(tick.symbol, symbols), tick))
                except BadTickError as error:
                    rejects.append(Reject(position, index, error.reason, error.detail))
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


def _read_native(_key: bytes | None, value: bytes | None) -> Tick:
    return read_native(value)


def _index(symbol: str, symbols: SymbolTable) -> int:
    known = symbols.index.get(symbol)
    if known is not None:
        return known
    check_symbol(symbol)
    added = symbols.add(symbol)
    if added < 0:
        raise BadTickError("symbols_full", f"{symbol!r} would be symbol {symbols.limit + 1} of this partition")
    return added


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
