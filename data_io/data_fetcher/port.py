"""The port of tick sources, and what its adapters share."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import pandas as pd

from ml_core import frames
from ml_core.errors import InputError
from ml_core.types import SymbolTable, TickBatch

BATCH_SIZE = 4096
END_OF_TIME_NS = 2**63 - 1
BAR = "bar"
KINDS = (*frames.KINDS, BAR)
"""What a source may give; bars reach a model as trades at their ends, see `frames.as_ticks`."""

_EXAMPLES = 20
_END_OF_1970_NS = 365 * 86_400 * 10**9


@dataclass
class SourceReport:
    """What one pass over a source gave and what it left out."""

    ticks: Counter[str] = field(default_factory=Counter)  # by kind
    ignored: Counter[str] = field(default_factory=Counter)  # sound, but no tick: by what it is
    skipped: Counter[str] = field(default_factory=Counter)  # unusable: by reason
    examples: list[str] = field(default_factory=list)  # the first unusable places, with file, line and reason
    in_1970: int = 0  # ticks of that year: whole ms, us or s since 1970, read as ns, lie in its first days

    def skip(self, reason: str, place: str) -> None:
        """Count one unusable place; the first few are kept word for word."""
        self.skipped[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{place}: {reason}")

    def count(self, frame: pd.DataFrame) -> None:
        """Count the ticks of ``frame`` by kind, and those of 1970."""
        self.in_1970 += int((frame["ts_ns"] < _END_OF_1970_NS).sum())
        for kind, n in frame["type"].value_counts().items():
            if n:
                self.ticks[str(kind)] += int(n)


class TickStream(Protocol):
    """Ticks in arrival order, as they are published."""

    def stream(self, batch_size: int = BATCH_SIZE) -> Iterator[TickBatch]:
        """Yield all ticks in batches of at most ``batch_size``.

        One symbol table grows through all batches. What could be read before a failure is yielded before it is raised.
        """
        ...


class TickFetcher(TickStream, Protocol):
    """Source of past ticks; ``stream`` gives the same ticks in the same order as ``fetch()``.

    Adapters prove themselves in tests/conformance/tick_fetcher.py.
    """

    ts_source: str
    """The one clock of ``ts_ns``: ``"receive"``, ``"exchange"``, or what the user says it is."""

    @property
    def kinds(self) -> frozenset[str]:
        """What this source may give, of ``KINDS``; one of bars gives nothing else and is a `BarFetcher`."""
        ...

    report: SourceReport
    """What the last pass (a ``fetch``, or a ``stream`` as far as it was read) gave and left out."""

    def symbols(self) -> list[str]:
        """Return the symbols of the source, sorted; this may read all of it."""
        ...

    def fetch(self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS) -> pd.DataFrame:
        """Return the ticks of ``symbol`` (None: of all) in ``[start_ns, end_ns)`` of the clock ``ts_source``, UTC.

        Returns:
            A ticks frame (see `ml_core.frames`) in arrival order, its index 0..N-1. The column ``offset`` names a
            tick within the source, ascending, whatever is asked for. Nothing found: same columns, zero rows.

        Raises:
            InputError: The source cannot be read to its end. A retry will not help.
            SourceUnavailableError: The source gave no answer. A retry is safe.
        """
        ...

    def chunks(
        self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
    ) -> Iterator[pd.DataFrame]:
        """Yield what ``fetch`` returns, a chunk at a time, so that memory is bounded; raises as ``fetch``."""
        ...


class BarFetcher(TickFetcher, Protocol):
    """Source of past bars; its ticks are the bars' closes, see `frames.as_ticks`."""

    def bar_chunks(
        self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
    ) -> Iterator[pd.DataFrame]:
        """Yield the bars of ``symbol`` that end in ``[start_ns, end_ns)``, as bar frames; raises as ``fetch``.

        The column ``offset`` names a bar within the source, as in its ticks. Bars that are not over are left out.
        """
        ...


def contents(
    fetcher: TickFetcher, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
) -> Iterator[pd.DataFrame]:
    """Yield what ``fetcher`` gives as it is: bars where it is a source of bars, else ticks."""
    if fetcher.kinds == {BAR}:
        return cast("BarFetcher", fetcher).bar_chunks(symbol, start_ns=start_ns, end_ns=end_ns)
    return fetcher.chunks(symbol, start_ns=start_ns, end_ns=end_ns)


class Chunked(ABC):
    """What adapters share that read their source chunk by chunk."""

    report: SourceReport

    def symbols(self) -> list[str]:
        """Return the symbols of the source, sorted; reads all of it."""
        return sorted({str(name) for chunk in self._chunks() for name in chunk["symbol"].unique()})

    def chunks(
        self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
    ) -> Iterator[pd.DataFrame]:
        """Yield the ticks of ``symbol`` in ``[start_ns, end_ns)`` a chunk at a time; see `TickFetcher.chunks`."""
        return select(self._chunks(), symbol, start_ns, end_ns)

    def fetch(self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS) -> pd.DataFrame:
        """Return the ticks of ``symbol`` (None: of all) in ``[start_ns, end_ns)``; see `TickFetcher.fetch`."""
        return join(self.chunks(symbol, start_ns=start_ns, end_ns=end_ns))

    def stream(self, batch_size: int = BATCH_SIZE) -> Iterator[TickBatch]:
        """Yield all ticks in batches; see `TickFetcher.stream`."""
        return batches(self._chunks(), batch_size)

    @abstractmethod
    def _chunks(self) -> Iterator[pd.DataFrame]:
        """Begin a new report, and yield all ticks."""


class Barred(Chunked):
    """What adapters of bars share: their ticks are made of their bars."""

    def bar_chunks(
        self, symbol: str | None = None, *, start_ns: int = 0, end_ns: int = END_OF_TIME_NS
    ) -> Iterator[pd.DataFrame]:
        """Yield the bars of ``symbol`` that end in ``[start_ns, end_ns)``; see `BarFetcher.bar_chunks`."""
        return select(self._bars(), symbol, start_ns, end_ns)

    def _chunks(self) -> Iterator[pd.DataFrame]:
        for bars in self._bars():
            ticks = frames.as_ticks(bars)
            self.report.count(ticks)
            if len(ticks) < len(bars):
                self.report.ignored["bar without volume"] += len(bars) - len(ticks)
            yield ticks

    @abstractmethod
    def _bars(self) -> Iterator[pd.DataFrame]:
        """Begin a new report, and yield all bars."""


def select(chunks: Iterable[pd.DataFrame], symbol: str | None, start_ns: int, end_ns: int) -> Iterator[pd.DataFrame]:
    """Yield the part of each chunk that is of ``symbol`` (None: any) and within ``[start_ns, end_ns)``.

    Raises:
        InputError: The range ends before it starts.
    """
    if start_ns > end_ns:
        raise InputError(f"the range [{start_ns}, {end_ns}) ends before it starts")
    return (_select(chunk, symbol, start_ns, end_ns) for chunk in chunks)


def join(chunks: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return ``chunks`` of one source as one frame, its index 0..N-1."""
    kept = list(chunks)
    whole = [chunk for chunk in kept if len(chunk)] or kept[:1]
    if not whole:
        return frames.empty().assign(offset=np.empty(0, dtype=np.int64))
    if len(whole) == 1:
        return whole[0].reset_index(drop=True)
    columns = {}
    for name in whole[0].columns:
        parts = [chunk[name] for chunk in whole]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            columns[name] = pd.Series(pd.api.types.union_categoricals(parts))
        else:
            columns[name] = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(columns)


def batches(chunks: Iterable[pd.DataFrame], batch_size: int) -> Iterator[TickBatch]:
    """Yield the ticks of ``chunks`` in batches of at most ``batch_size``, over one growing symbol table."""
    if batch_size < 1:
        raise InputError(f"the batch size {batch_size} is not positive")
    table = SymbolTable()
    for chunk in chunks:
        batch = frames.to_batch(chunk, table)
        for start in range(0, len(batch), batch_size):
            yield cut(batch, start, start + batch_size)


def cut(batch: TickBatch, start: int, end: int) -> TickBatch:
    """Return the ticks ``[start, end)`` of ``batch``; the arrays are views."""
    columns = {name: getattr(batch, name)[start:end] for name in TickBatch._fields if name != "symbols"}
    return TickBatch(**columns, symbols=batch.symbols)


def _select(chunk: pd.DataFrame, symbol: str | None, start_ns: int, end_ns: int) -> pd.DataFrame:
    ts_ns_N = chunk["ts_ns"].to_numpy()
    keep_N = (ts_ns_N >= start_ns) & (ts_ns_N < end_ns)
    if symbol is not None:
        keep_N &= (chunk["symbol"] == symbol).to_numpy()
    return chunk if keep_N.all() else chunk[keep_N]
