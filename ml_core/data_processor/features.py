"""From ticks to rows: a plan of named features, the state it needs, and one step over a batch.

Shapes: N ticks or rows, S symbols, K floats of state, F features.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.contract import schema_hash
from ml_core.data_processor import kernels
from ml_core.data_processor.catalogue import CATALOGUE, DEFAULT_USE, Feature
from ml_core.data_processor.kernels import KERNEL_VERSION
from ml_core.data_processor.own import OwnFeature, evaluate, find_own
from ml_core.data_processor.program import Column, Compiled, compile_program
from ml_core.data_processor.state import FeatureState
from ml_core.errors import SpecError, nearest
from ml_core.parts import is_part
from ml_core.spec import PipelineSpec, format_duration, parse_duration
from ml_core.types import RowBatch, SymbolTable, TickBatch, TickKind

__all__ = ["CATALOGUE", "DEFAULT_USE", "KERNEL_VERSION", "Feature", "FeaturePlan", "FeatureState", "step", "warm_up"]

SHORTEST_NS = 10**6  # a return over h needs buckets of h/16, and venues' clocks are no better than that
LONGEST_NS = 7 * 86_400 * 10**9


@dataclass(frozen=True)
class FeaturePlan:
    """What a row is made of; two plans with equal hashes give equal rows for the symbols both want."""

    names: tuple[str, ...]  # of the F columns, in order
    hash: str  # of names, kernel version, own features' code and every setting that changes a value or a flag
    needs: frozenset[str]  # kinds of tick ("trade", "quote") without which some feature stays undefined
    symbols: frozenset[str] | None  # the only ones that make rows; None: all
    look_back_ns: int  # of the longest feature: so long is warm-up
    compiled: Compiled = field(repr=False, compare=False)
    own: tuple[OwnFeature, ...] = field(repr=False, compare=False)

    @classmethod
    def from_spec(cls, spec: PipelineSpec) -> "FeaturePlan":
        """Return the plan of a pipeline.

        Raises:
            SpecError: A feature is unknown, named twice, or has wrong durations; the message names the nearest.
            UnknownPartError: An own feature (``module:Class``) cannot be found.
        """
        names: list[str] = []
        columns: list[Column | None] = []
        own: list[OwnFeature] = []
        for text in spec.features.use or DEFAULT_USE:
            if is_part(text) and text.partition(":")[0].strip() not in CATALOGUE and not _ends_in_durations(text):
                own.append(find_own(text, spec.folder, len(columns)))
                names.append(own[-1].name)
                columns.append(None)
                continue
            for column in _parse(text):
                names.append(_name_of(column))
                columns.append(column)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"features.use: {', '.join(twice)}: named twice")
        return cls._compile(spec, tuple(names), columns, tuple(own))

    @classmethod
    def _compile(
        cls, spec: PipelineSpec, names: tuple[str, ...], columns: list[Column | None], own: tuple[OwnFeature, ...]
    ) -> "FeaturePlan":
        rows_on, gap_ns, max_age_ns = spec.features.rows_on, spec.features.gap, spec.features.max_age
        compiled = compile_program(columns, rows_on=rows_on, gap_ns=gap_ns, max_age_ns=max_age_ns)
        code = {f"own.{feature.name}": feature.code_hash for feature in own}
        kinds = "+".join(sorted(set(rows_on)))
        return cls(
            names=names,
            hash=schema_hash(names, KERNEL_VERSION, gap=gap_ns, max_age=max_age_ns, rows_on=kinds, **code),
            needs=frozenset().union(*(CATALOGUE[c.feature].kinds for c in columns if c is not None)),
            symbols=None if spec.source.symbols is None else frozenset(spec.source.symbols),
            look_back_ns=compiled.program.look_back_ns,
            compiled=compiled,
            own=own,
        )

    @property
    def floats(self) -> int:
        """Floats of state a symbol: those of the kernel, then those of own features."""
        return self.compiled.floats + sum(feature.width for feature in self.own)

    @property
    def ints(self) -> int:
        """Integers of state a symbol."""
        return self.compiled.ints


def step(ticks: TickBatch, state: FeatureState) -> RowBatch:
    """Move ``state`` over ``ticks`` and return one row for each that counts, in the same order.

    No row: duplicates (a ``seq`` already seen of that symbol and kind), symbols the plan does not want, and kinds
    outside ``rows_on``, which move state all the same. Where batches are cut makes no difference.

    Raises:
        InputError: An own feature failed. A retry will not help.
    """
    plan: FeaturePlan = state.plan
    n = len(ticks)
    columns = kernels.Ticks(
        *(_column(getattr(ticks, name), dtype) for name, dtype in zip(kernels.Ticks._fields, _DTYPES, strict=True))
    )
    memory = state.memory()
    made = kernels.Rows(
        x_NF=np.empty((n, len(plan.names)), dtype=np.float32),
        mid_N=np.empty(n),
        spread_N=np.empty(n),
        flags_N=np.empty(n, dtype=np.uint8),
        tick_N=np.empty(n, dtype=np.int64),
        accepted_N=np.zeros(n, dtype=np.bool_),
    )
    count = int(kernels.run(columns, plan.compiled.program, memory, made))
    if plan.own:
        _add_own(ticks, plan, memory, made, count)
    tick_R = made.tick_N[:count]
    return RowBatch(
        offset_N=ticks.offset_N[tick_R],
        index_N=ticks.index_N[tick_R],
        symbol_N=columns.symbol_N[tick_R],
        ts_ns_N=columns.ts_ns_N[tick_R],
        mid_N=made.mid_N[:count],
        spread_N=made.spread_N[:count],
        x_NF=made.x_NF[:count],
        flags_N=made.flags_N[:count],
        symbols=ticks.symbols,
    )


def warm_up() -> None:
    """Compile the kernel, or read it from the cache, so that the first batch does not wait for it."""
    plan = FeaturePlan.from_spec(PipelineSpec(name="warm-up"))
    none = np.empty(0)
    columns: dict[str, Any] = dict.fromkeys(TickBatch._fields, none) | {"symbols": []}
    step(TickBatch(**columns), FeatureState(plan, SymbolTable(["none"])))


_DTYPES = (np.int8, np.int32, np.int64, np.float64, np.float64, np.int8, *[np.float64] * 4, np.int64)


def _column(values: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return ``values`` as the kernel was compiled for; read-only memory is copied, or it would compile once more."""
    return np.require(values, dtype, ["C", "W"])


def _add_own(ticks: TickBatch, plan: FeaturePlan, memory: kernels.Memory, made: kernels.Rows, count: int) -> None:
    accepted_N = made.accepted_N
    seen = TickBatch(*(column[accepted_N] for column in ticks[:-1]), symbols=ticks.symbols)
    place_N = np.cumsum(accepted_N) - 1  # of a tick among those accepted
    first = plan.compiled.floats
    for own in plan.own:
        value_A = evaluate(own, seen, memory.float_SK[:, first : first + own.width])
        made.x_NF[:count, own.column] = value_A[place_N[made.tick_N[:count]]]
        first += own.width


def _parse(text: str) -> list[Column]:
    name, colon, rest = (part.strip() for part in text.partition(":"))
    feature = CATALOGUE.get(name)
    if feature is None:
        raise SpecError(f"features.use: {name!r} is not known{nearest(name, CATALOGUE)}")
    if not feature.takes_durations:
        if colon:
            raise SpecError(f"features.use: {text!r}: {name} takes no duration")
        return [Column(name, 0)]
    columns = []
    for word in rest.split(",") if colon else feature.durations:
        try:
            span_ns = parse_duration(word)
        except ValueError as error:
            raise SpecError(f"features.use: {text!r}: {error}") from error
        if not SHORTEST_NS <= span_ns <= LONGEST_NS:
            raise SpecError(f"features.use: {text!r}: {word.strip()} is not within 1ms and 7d")
        columns.append(Column(name, span_ns))
    return columns


def _name_of(column: Column) -> str:
    return f"{column.feature}:{format_duration(column.duration_ns)}" if column.duration_ns else column.feature


def _ends_in_durations(text: str) -> bool:
    """Return True for a text such as ``retrun:1s``, which misspells a feature and names no class."""
    try:
        for word in text.partition(":")[2].split(","):
            parse_duration(word)
    except ValueError:
        return False
    return True
