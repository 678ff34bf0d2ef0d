"""What stands in a topic beside what it should be, bit for bit.

Shapes: N rows, F features.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ml_core.types import RowBatch

MAX_COMPARED = 2_000_000  # rows, or bars, in memory at once

Name = tuple[int, int]  # offset and index of the tick
Difference = tuple[str, Any, Any]  # feature or field, what was found, what was expected

_HEAD = np.dtype([("ts_ns", np.int64), ("mid", np.float64), ("spread", np.float64), ("flags", np.uint8)])


@dataclass
class Compared:
    """How what stands in one topic compares with what its ticks give."""

    compared: int = 0
    different: int = 0  # of those compared
    mismatches: Counter[str] = field(default_factory=Counter)  # by feature or field
    missing: int = 0  # recomputed, and not in the topic
    unexpected: int = 0  # in the topic, and not recomputed
    repeated: int = 0  # names that stand in the topic more than once, with equal values
    conflicting: int = 0  # and with other values
    renumbered: int = 0  # bars compared that are out with another revision, because state was rebuilt
    misplaced: int = 0  # bars that neither follow the one before them nor begin a tail that repeats
    shed: int = 0  # not there because the worker skipped the tick
    unchecked: Counter[str] = field(default_factory=Counter)  # and why
    unproven: Counter[str] = field(default_factory=Counter)  # of those unchecked: what should have been compared
    first: dict[str, Any] | None = None  # the first difference

    @property
    def is_equal(self) -> bool:
        """True where nothing differs, is missing or too much."""
        return not (self.mismatches or self.missing or self.unexpected or self.conflicting or self.misplaced)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        counts = ("mismatches", "unchecked", "unproven")
        return {**vars(self), **{name: dict(getattr(self, name)) for name in counts}}

    def differs(self, partition: int, name: Name, differences: Sequence[Difference], *, of: str | None = None) -> None:
        """Count one that differs, in at least one thing."""
        self.different += 1
        self.mismatches.update(what for what, _, _ in differences)
        self.note(partition, name, *differences, of=of)

    def note(self, partition: int, name: Name, *differences: Difference, of: str | None = None) -> None:
        """Remember the differences of one row, prediction or bar where it is the first; ``of``: the name of the bar."""
        if self.first is None:
            what, found, expected = differences[0]
            place = {"partition": partition, "offset": name[0], "index": name[1]}
            values = {what: [found, expected] for what, found, expected in differences}
            self.first = {"what": what, **place, "found": found, "expected": expected, "values": values}
            if of is not None:
                self.first["of"] = of


class Row(NamedTuple):
    """A row as bytes, so that equal means equal bits."""

    symbol: str
    values: bytes  # time, mid, spread, flags and features, as they are


def names_of(made: RowBatch) -> list[Name]:
    """Return the name of each row."""
    return list(zip(made.offset_N.tolist(), made.index_N.tolist(), strict=True))


def named(made: RowBatch) -> list[tuple[Name, Row]]:
    """Return each row under its name."""
    head_N = np.empty(len(made), _HEAD)
    for name, column in zip(_HEAD.names or (), (made.ts_ns_N, made.mid_N, made.spread_N, made.flags_N), strict=True):
        head_N[name] = column
    head, x = head_N.tobytes(), np.ascontiguousarray(made.x_NF).tobytes()
    wide, features_wide = _HEAD.itemsize, made.x_NF.shape[1] * 4
    return [
        (
            name,
            Row(made.symbols[symbol], head[n * wide : (n + 1) * wide] + x[n * features_wide : (n + 1) * features_wide]),
        )
        for n, (name, symbol) in enumerate(zip(names_of(made), made.symbol_N.tolist(), strict=True))
    ]


def differences(found: Row, expected: Row, names: Sequence[str]) -> list[Difference]:
    """Return what of two rows of the features ``names`` has other bits."""
    different = [] if found.symbol == expected.symbol else [("symbol", found.symbol, expected.symbol)]
    heads = [np.frombuffer(row.values[: _HEAD.itemsize], _HEAD)[0] for row in (found, expected)]
    xs = [np.frombuffer(row.values[_HEAD.itemsize :], np.float32) for row in (found, expected)]
    pairs = [(name, *(head[name] for head in heads)) for name in _HEAD.names or ()]
    pairs += [(name, *(x[f] for x in xs)) for f, name in enumerate(names)]
    different += [(name, a.item(), b.item()) for name, a, b in pairs if a.tobytes() != b.tobytes()]
    return different
