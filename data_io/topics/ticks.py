"""The topic of ticks: a JSON object or an Arrow batch a record, or a user's own topic through a field map."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from data_io.topics import record_batch, tick_arrow, tick_kernel
from data_io.topics.admin import TopicSpec, log_topic
from data_io.topics.field_map import MappedReader
from data_io.topics.raw_records import FoundRecords, RawFetch, find
from data_io.topics.records import Records, Reject, no_records
from data_io.topics.symbol_index import SymbolIndex
from data_io.topics.tick_columns import TickColumns
from data_io.topics.tick_json import judge_native, read_native
from data_io.topics.tick_kernel import Parsed, Plan, parse
from data_io.topics.tick_plan import native_plan
from data_io.topics.tick_rules import BadTickError, Tick, check
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable, TickBatch, TickKind

NAME = "market.ticks.v1"
MAX_REJECTS_A_RECORD = 8
MORE_ROWS = "more_rows"  # the reason of the one that stands for all others

_Reader = Callable[[bytes | None, bytes | None], Tick]


def topic_spec(name: str, partitions: int) -> TopicSpec:
    """Return how a topic of ticks is created: stamped by the broker, because event time lives in the value."""
    return log_topic(name, partitions)


class Decoded(NamedTuple):
    """What one fetch holds."""

    ticks: TickBatch
    rejects: list[Reject]  # their positions count in `reject_records`
    reject_records: Records  # the records the rejects are about, and possibly others
    found: FoundRecords  # all records, where they lie

    @property
    def next_offset(self) -> int:
        """Where the next fetch begins."""
        return self.found.next_offset

    def records_at(self, offsets: list[int]) -> Records:
        """Return the records at ``offsets``, which are among those found."""
        return self.found.take(np.searchsorted(self.found.places.offset_N, offsets))


class TickDecoder:
    """Turns records into ticks, in one thread at a time; what is wrong with a record touches no other record."""

    def __init__(self, field_map: FieldMap | None = None) -> None:
        """Read the native format, or the user's own through ``field_map``.

        Raises:
            SpecError: A path of the map is not understood.
        """
        self._read: _Reader = _read_native
        self._judge: _Reader = _judge_native  # the same, for records that are probably bad
        self._plan: Plan | None = native_plan()
        if field_map:
            self._read = self._judge = reader = MappedReader(field_map)
            self._plan = reader.plan
        self._layouts = tick_kernel.no_layouts()
        self._indices: WeakKeyDictionary[SymbolTable, SymbolIndex] = WeakKeyDictionary()

    def decode_fetch(self, fetch: RawFetch, symbols: SymbolTable) -> Decoded:
        """Return what ``decode`` would for the records of ``fetch``; plain native JSON is parsed where it lies.

        Raises:
            CorruptRecordError, SetupError: As ``raw_records.unpack``.
        """
        found = find(fetch)
        if self._plan is None or found.places.typed_N.all():  # the kernel takes no record that names its type
            records = found.take(range(len(found.places.offset_N)))
            return Decoded(*self.decode(records, symbols), records, found)
        index = self._indices.get(symbols)
        if index is None:
            index = self._indices[symbols] = SymbolIndex()
        parsed = parse(found.data, found.places, self._plan, index.follow(symbols), self._layouts)
        taken = _taken(parsed, symbols)
        left = int(parsed.left_1[0])
        if not left:
            return Decoded(taken, [], no_records(), found)
        records = found.take(np.flatnonzero(~parsed.taken_N))
        exact, rejects = self.decode(records, symbols)
        return Decoded(_joined(taken, exact), rejects, records, found)

    def decode(self, records: Records, symbols: SymbolTable) -> tuple[TickBatch, list[Reject]]:
        """Return the ticks of ``records`` in order, and what was refused; new symbols are added to ``symbols``."""
        ticks = TickColumns(symbols)
        rejects: list[Reject] = []
        read = self._read
        for position, (offset, key, value, headers) in enumerate(zip(*records, strict=True)):
            try:
                if headers and tick_arrow.is_arrow(headers):
                    bad = _add_arrow(ticks, offset, tick_arrow.read(value))
                    rejects += _bounded([Reject(position, row, error.reason, error.detail) for row, error in bad])
                else:
                    ticks.add(offset, 0, read(key, value))
                    read = self._read
            except BadTickError as error:
                rejects.append(Reject(position, 0, error.reason, error.detail))
                read = self._judge  # bad records seldom come alone
        return ticks.batch(), rejects


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
    [batch] = record_batch.pack([(None, b'{"type":"trade","symbol":"A","ts":1,"price":1,"size":1}', ())])
    record_batch.seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
    # with a record: where there is none, nothing is parsed
    TickDecoder().decode_fetch(RawFetch(batch.data.tobytes(), 0, []), SymbolTable(["A"]))
    tick_arrow.warm_up()


def _read_native(_key: bytes | None, value: bytes | None) -> Tick:
    return read_native(value)


def _judge_native(_key: bytes | None, value: bytes | None) -> Tick:
    return judge_native(value)


def _add_arrow(
    ticks: TickColumns, offset: int, batches: list[tick_arrow.ArrowTicks | tick_arrow.Rows]
) -> list[tuple[int, BadTickError]]:
    """Add what the batches of one record hold; return the rows that are refused, in order."""
    first, bad = 0, []
    for batch in batches:
        if isinstance(batch, tick_arrow.ArrowTicks):
            bad += ticks.add_columns(offset, first, batch)
            first += len(batch.is_valid_N)
            continue
        for row, fields in enumerate(batch, first):
            try:
                ticks.add(offset, row, check(fields))
            except BadTickError as error:
                bad.append((row, error))
        first += len(batch)
    return bad


def _bounded(bad: list[Reject]) -> list[Reject]:
    """Return the rejects of one record, those past a bound as one: each makes a dead letter with the whole record."""
    kept, more = bad[:MAX_REJECTS_A_RECORD], bad[MAX_REJECTS_A_RECORD:]
    if not more:
        return kept
    return [*kept, more[0]._replace(reason=MORE_ROWS, detail=f"{len(more)} more rows of this record are refused")]


def _taken(parsed: Parsed, symbols: SymbolTable) -> TickBatch:
    """Return what the kernel has read."""
    rows = len(parsed.taken_N) - int(parsed.left_1[0])
    number_FN = parsed.bits_FN.view(np.float64)[:, :rows]
    return TickBatch(
        offset_N=parsed.offset_N[:rows],
        index_N=np.zeros(rows, np.int32),
        kind_N=parsed.kind_N[:rows],
        symbol_N=parsed.symbol_N[:rows],
        ts_ns_N=parsed.ts_ns_N[:rows],
        price_N=number_FN[tick_kernel.PRICE],
        size_N=number_FN[tick_kernel.SIZE],
        side_N=parsed.side_N[:rows],
        bid_N=number_FN[tick_kernel.BID],
        ask_N=number_FN[tick_kernel.ASK],
        bid_size_N=number_FN[tick_kernel.BID_SIZE],
        ask_size_N=number_FN[tick_kernel.ASK_SIZE],
        seq_N=parsed.seq_N[:rows],
        symbols=symbols.names,
    )


def _joined(taken: TickBatch, exact: TickBatch) -> TickBatch:
    """Return the ticks of the kernel and those of the exact decoder in the order of the log."""
    if not len(taken) or not len(exact):
        return exact if len(exact) else taken
    *taken_columns, symbols = taken
    *exact_columns, _ = exact
    pairs: Any = zip(taken_columns, exact_columns, strict=True)
    columns: list[Any] = [np.concatenate(pair) for pair in pairs]
    order = np.argsort(columns[0], kind="stable")  # ticks of one record have one offset and stay in its order
    columns = [column[order] for column in columns]
    columns.append(symbols)
    return TickBatch(*columns)
