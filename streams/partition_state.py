"""Everything one partition remembers: symbols, and features, bars and window tails of each feature set."""

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from data_io.topics.predictions import Encoder
from data_io.topics.rows import RowEncoder
from ml_core.data_processor.bars import BarPlan, BarState
from ml_core.data_processor.blocks import BLOCK
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.silent_bars import SilentBars
from ml_core.data_processor.windows import Tail
from ml_core.spec import PipelineSpec
from ml_core.types import RowBatch, SymbolTable
from model_ops_manager.triggers import UNSURE

# Pending (time, rows) marks a pipeline keeps while it waits for labels to mature; older ones are merged.
MAX_MARKS = 4096


class LabelledRows:
    """Counts rows whose label has matured: the partition's clock has passed their last horizon.

    The clock is the newest sure time of a batch. It may fall, so a symbol that stays wrong has rows counted too early,
    and stops no counting.
    """

    def __init__(self, look_ahead_ns: int, matured: int = 0) -> None:
        """Start from a count of ``matured`` rows; a label is known ``look_ahead_ns`` after its row."""
        self.look_ahead_ns, self.matured = look_ahead_ns, matured
        self._pending: deque[tuple[int, int]] = deque()  # times ascend
        self._unmarked = 0  # rows that wait for a clock
        self._known = 0  # symbols of batches before

    def observe(self, rows: RowBatch) -> None:
        """Add ``rows``, and move the clock to the newest event time that is sure; nothing confirms a symbol's first."""
        known, self._known = min(self._known, len(rows.symbols)), len(rows.symbols)
        self._unmarked += len(rows)
        is_sure_N = ((rows.flags_N & UNSURE) == 0) & (rows.symbol_N < known)
        if not is_sure_N.any():
            return
        clock_ns, count = int(rows.ts_ns_N[is_sure_N].max()), self._unmarked
        while self._pending and (self._pending[-1][0] >= clock_ns or len(self._pending) == MAX_MARKS):
            count += self._pending.pop()[1]
        self._pending.append((clock_ns, count))
        self._unmarked = 0
        while self._pending and self._pending[0][0] + self.look_ahead_ns <= clock_ns:
            self.matured += self._pending.popleft()[1]

    def forget_symbols(self) -> None:
        """Take every symbol for new again."""
        self._known = 0


class FeatureSetState:
    """State of one feature set: features, bars, and a tail of rows for each window length its pipelines use."""

    def __init__(
        self, plan: FeaturePlan, pipelines: Sequence[PipelineSpec], symbols: SymbolTable, base: int = 0
    ) -> None:
        """Start empty; ``symbols`` is shared by all sets of the partition, bars begin with revision ``base``."""
        self.plan, self.pipelines = plan, tuple(pipelines)
        self.features = FeatureState(plan, symbols)
        windows = sorted({spec.features.window for spec in pipelines if spec.features.window > 1})
        self.rows: RowEncoder | None = None  # the one of the topic of ticks
        self.encoders: dict[str, Encoder] = {}  # pipeline -> the one of the version that serves it
        bars = BarPlan.from_spec(pipelines[0])  # pipelines of one set agree
        self.bars = None if bars is None else BarState(bars, symbols, base)
        self.silent_bars = None if self.bars is None else SilentBars(self.bars)
        self.tails = {window: Tail(window, len(plan.names)) for window in windows}


class PartitionState:
    """State of one partition, dumped as keyed blocks and loaded from them, bit for bit."""

    def __init__(
        self,
        sets: Mapping[str, tuple[FeaturePlan, Sequence[PipelineSpec]]],
        labelled: Mapping[str, int],
        bases: Mapping[str, int] | None = None,
    ) -> None:
        """Start empty.

        Args:
            sets: Feature set -> its plan and pipelines.
            labelled: Pipeline -> its count of matured rows.
            bases: Feature set -> the revision that bars begin with, where it is not 0.
        """
        self.symbols, self.bases = SymbolTable(), dict(bases or {})
        self.sets = {
            name: FeatureSetState(plan, pipelines, self.symbols, self.bases.get(name, 0))
            for name, (plan, pipelines) in sets.items()
        }
        self.labelled = {
            spec.name: LabelledRows(spec.label.delay + max(spec.label.horizons), labelled.get(spec.name, 0))
            for _, pipelines in sets.values()
            for spec in pipelines
        }

    @property
    def kernels(self) -> dict[str, str]:
        """What a checkpoint must agree about with this state, or the state is computed from the ticks.

        Feature set -> hash of its feature schema and, where it takes only some symbols, of their names; so bars, and
        each window: its tail would begin empty behind rows of which the log has those before.
        """
        windows = {f"{n}/window-{w}": _digest(state.plan) for n, state in self.sets.items() for w in state.tails}
        bars = {f"{name}/bars": state.bars.plan.hash for name, state in self.sets.items() if state.bars is not None}
        return {name: _digest(state.plan) for name, state in self.sets.items()} | bars | windows

    def emptied(self) -> "PartitionState":
        """Return a state that has seen no ticks; it goes on counting labelled rows."""
        fresh = PartitionState(
            {name: (state.plan, state.pipelines) for name, state in self.sets.items()}, {}, self.bases
        )
        fresh.labelled = self.labelled
        for counter in fresh.labelled.values():
            counter.forget_symbols()
        return fresh

    def keys(self) -> set[bytes]:
        """Return the keys of all blocks, dumped or not."""
        parts = [
            f"{name}/{part}"
            for name, state in self.sets.items()
            for part in ("features", *(["bars"] if state.bars else []), *(f"window-{w}" for w in state.tails))
        ]
        return {f"{part}/{block}".encode() for part in parts for block in range(-(-len(self.symbols) // BLOCK))}

    def dump(self) -> list[tuple[bytes, bytes]]:
        """Return the blocks that changed since the last dump, and consider them written."""
        blocks: list[tuple[bytes, bytes]] = []
        for name, state in self.sets.items():
            blocks += [(f"{name}/features/{block}".encode(), data) for block, data in state.features.dump()]
            state.features.mark_clean()
            if state.bars is not None:
                blocks += [(f"{name}/bars/{block}".encode(), data) for block, data in state.bars.dump()]
                state.bars.mark_clean()
            for window, tail in state.tails.items():
                blocks += [(f"{name}/window-{window}/{block}".encode(), data) for block, data in tail.dump()]
                tail.mark_clean()
        return blocks

    def load(self, blocks: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
        """Take over the blocks of a checkpoint; return the keys of sets, bars and windows that are no longer used.

        Raises:
            SchemaMismatchError: A block is of another kernel or names its symbols otherwise; the state is half full.
        """
        unused: set[bytes] = set()
        for key, data in sorted(blocks, key=lambda block: _order(block[0])):
            name, part, block = key.decode().split("/")
            state = self.sets.get(name)
            if state is None:
                unused.add(key)
            elif part == "features":
                state.features.load(int(block), data)
            elif part == "bars":
                if state.bars is None:
                    unused.add(key)
                else:
                    state.bars.load(int(block), data)
            elif (tail := state.tails.get(int(part.removeprefix("window-")))) is not None:
                tail.load(int(block), data)
            else:
                unused.add(key)
        return unused


def _digest(plan: FeaturePlan) -> str:
    if plan.symbols is None:
        return plan.hash
    return f"{plan.hash}-{hashlib.sha256(repr(sorted(plan.symbols)).encode()).hexdigest()[:16]}"


def _order(key: bytes) -> tuple[str, int]:
    name, part, block = key.decode().split("/")
    return f"{name}/{part}", int(block)
