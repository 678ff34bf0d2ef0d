"""State of the symbols of one partition: two arrays that grow, dumped as blocks of 64 symbols."""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np

from ml_core.data_processor import blocks
from ml_core.data_processor.bar_kernel import BASE, INTS_AT, KIND_INTS, REVISION, SLOT_INTS, SLOTS, USED
from ml_core.data_processor.bar_plan import BAR_KERNEL_VERSION, BarPlan
from ml_core.data_processor.kernel_tables import Memory, Scratch
from ml_core.data_processor.kernels import IMPULSES, KERNEL_VERSION
from ml_core.data_processor.plan import FeaturePlan
from ml_core.errors import SchemaMismatchError
from ml_core.types import Bool, Float64, Int64, SymbolTable


class Plan(Protocol):
    """What a state has to know of its plan."""

    @property
    def hash(self) -> str:
        """State of another hash does not fit."""

    @property
    def symbols(self) -> frozenset[str] | None:
        """The only symbols that count; None: all."""

    @property
    def floats(self) -> int:
        """Floats of state a symbol."""

    @property
    def ints(self) -> int:
        """Integers of state a symbol."""


class SymbolState:
    """Arrays of state with a row for each symbol, zeros for one that has seen no ticks; one task owns it."""

    _magic: ClassVar[bytes]  # these two say in a block whose it is
    _version: ClassVar[int]

    def __init__(self, plan: Plan, symbols: SymbolTable) -> None:
        """Start empty; ``symbols`` is the partition's table, which decoders grow and which may be shared."""
        self._plan, self.symbols = plan, symbols
        self._known = 0  # names of the table that have a place here
        self._float_SK: Float64 = np.zeros((0, plan.floats))
        self._int_SJ: Int64 = np.zeros((0, plan.ints), dtype=np.int64)
        self._wanted_S: Bool = np.zeros(0, dtype=np.bool_)
        self._dirty_B: Bool = np.zeros(0, dtype=np.bool_)

    def memory(self) -> Memory:
        """Return the arrays, with a place for every symbol of the table; valid until the table grows."""
        self._grow()
        return Memory(self._float_SK, self._int_SJ, self._wanted_S, self._dirty_B)

    @property
    def nbytes(self) -> int:
        """Bytes of a copy."""
        row = self._float_SK.itemsize * self._plan.floats + self._int_SJ.itemsize * self._plan.ints
        return self._known * row

    def dump(self, *, dirty_only: bool = True) -> list[tuple[int, bytes]]:
        """Return (number, bytes) of each block, or only of those that changed since `mark_clean`."""
        self._grow()
        return [
            (block, blocks.pack(self._magic, self._version, self._plan.hash, block, *self._part(block)))
            for block in blocks.chosen(self._dirty_B, self._known, dirty_only=dirty_only)
        ]

    def mark_clean(self) -> None:
        """Take all blocks for written."""
        self._dirty_B[:] = False

    def load(self, block: int, data: bytes) -> None:
        """Take over what `dump` returned; blocks come in ascending order, into a state that has seen no ticks.

        A block that is loaded is not dirty, unless the table has more symbols of it.

        Raises:
            SchemaMismatchError: The block is of another plan or kernel, is cut, or names its symbols otherwise than
                the table does. State has to be rebuilt from ticks.
        """
        like = (self._float_SK, self._int_SJ)
        names, (float_SK, int_SJ) = blocks.unpack(data, self._magic, self._version, self._plan.hash, block, like)
        first = block * blocks.BLOCK
        take_names(self.symbols, first, names)
        self._grow()
        self._float_SK[first : first + len(names)] = float_SK
        self._int_SJ[first : first + len(names)] = int_SJ
        blocks.mark_loaded(self._dirty_B, block, len(names), self._known)

    def _part(self, block: int) -> tuple[list[str], tuple[Float64, Int64]]:
        span = slice(block * blocks.BLOCK, min((block + 1) * blocks.BLOCK, self._known))
        return self.symbols.names[span], (self._float_SK[span], self._int_SJ[span])

    def _grow(self) -> None:
        count, known = len(self.symbols), self._known
        if count == known:
            return
        self._float_SK = blocks.grown(self._float_SK, count)
        self._int_SJ = blocks.grown(self._int_SJ, count)
        self._wanted_S = blocks.grown(self._wanted_S, count)
        self._dirty_B = blocks.grown(self._dirty_B, -(-count // blocks.BLOCK))
        wanted = self._plan.symbols
        self._wanted_S[known:count] = [wanted is None or name in wanted for name in self.symbols.names[known:]]
        blocks.mark_new_names(self._dirty_B, known, count)
        self._known = count


class FeatureState(SymbolState):
    """State of one feature set."""

    _magic, _version = b"TWFS", KERNEL_VERSION

    def __init__(self, plan: FeaturePlan, symbols: SymbolTable) -> None:
        """See ``SymbolState``."""
        super().__init__(plan, symbols)
        self.plan = plan
        self.scratch = Scratch(np.empty(len(plan.compiled.program.rate_D)), np.empty(IMPULSES))

    def copy(self, plan: FeaturePlan) -> "FeatureState":
        """Return a state that goes on by itself, with a symbol table of its own; it has nothing dirty.

        ``plan`` is an equal one; where it has own features, whatever they keep to themselves is not shared either.
        """
        self._grow()
        known, other = self._known, FeatureState(plan, SymbolTable(self.symbols.names, limit=self.symbols.limit))
        other._float_SK, other._int_SJ = self._float_SK[:known].copy(), self._int_SJ[:known].copy()
        other._wanted_S, other._dirty_B = self._wanted_S[:known].copy(), np.zeros_like(self._dirty_B)
        other._known = known
        return other


class BarState(SymbolState):
    """Open bars of one feature set, and those that late ticks may still revise."""

    _magic, _version = b"TWBS", BAR_KERNEL_VERSION

    def __init__(self, plan: BarPlan, symbols: SymbolTable, base: int = 0) -> None:
        """See ``SymbolState``; bars of each symbol begin with revision ``base``, whenever it is first seen."""
        super().__init__(plan, symbols)
        self.plan, self.base = plan, base

    def renumber(self) -> None:
        """Have open bars go on from the revision that bars begin with, as the next ones do."""
        self._grow()
        self._begin(slice(self._known))
        at_Q, slots_Q = (self.plan.rules.rule_RQ[row].tolist() for row in (INTS_AT, SLOTS))
        for at, slots in zip(at_Q, slots_Q, strict=True):
            begin = at + KIND_INTS
            self._int_SJ[: self._known, begin + REVISION : begin + slots * SLOT_INTS : SLOT_INTS] = self.base
        self._dirty_B[:] = True

    def _begin(self, rows: slice) -> None:
        for at in self.plan.rules.rule_RQ[INTS_AT].tolist():
            self._int_SJ[rows, [at + BASE, at + USED]] = self.base

    def _grow(self) -> None:
        known = self._known
        super()._grow()
        if self._known > known:
            self._begin(slice(known, self._known))


def take_names(symbols: SymbolTable, first: int, names: Sequence[str]) -> None:
    """Put ``names`` into the table from place ``first`` on, where they may be already.

    Raises:
        SchemaMismatchError: Another name stands there, or a place before them is empty.
    """
    for place, name in enumerate(names, start=first):
        if place > len(symbols) or symbols.add(name) != place:
            there = symbols.names[place] if place < len(symbols) else "nothing"
            raise SchemaMismatchError(f"state says that symbol {place} is {name!r}, the table has {there!r}")
