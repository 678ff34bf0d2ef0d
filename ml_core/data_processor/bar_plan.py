"""A bar plan: which bars are made of a partition's ticks, as the kernel's tables and a hash."""

from dataclasses import dataclass, field

import numpy as np

from ml_core.contract import schema_hash
from ml_core.data_processor import bar_kernel as k
from ml_core.spec import BAR_KINDS, Bars, PipelineSpec, parse_bars

BAR_KERNEL_VERSION = 5  # grows with every change that can change a bar


@dataclass(frozen=True)
class BarPlan:
    """Which bars are made; two plans with equal hashes make equal bars of the symbols both want."""

    kinds: tuple[str, ...]  # Q words such as "time:10s", in the order of the file
    hash: str  # of kinds, kernel version and every setting that changes a bar
    symbols: frozenset[str] | None  # the only ones that make bars; None: all
    rules: k.Rules = field(repr=False, compare=False)
    floats: int  # of state a symbol
    ints: int

    @classmethod
    def from_spec(cls, spec: PipelineSpec) -> "BarPlan | None":
        """Return the plan of a pipeline; None where it makes no bars."""
        return None if spec.bars is None else cls.of(spec, spec.bars)

    @classmethod
    def of(cls, spec: PipelineSpec, bars: Bars) -> "BarPlan":
        """Return the plan of ``bars`` made of what ``spec`` reads."""
        lateness_ns, floats, ints = spec.source.lateness, k.SYMBOL_FLOATS, k.SYMBOL_INTS
        rule_RQ, limit_Q = np.zeros((k.RULE_INTS, len(bars.by)), np.int64), np.zeros(len(bars.by))
        for q, (kind, limit) in enumerate(map(parse_bars, bars.by)):
            # A tick within the lateness falls into the open bar or one of so many before it.
            slots = 1 + -(-lateness_ns // int(limit)) if kind == "time" else 1
            rule_RQ[:, q] = BAR_KINDS.index(kind), int(limit) if kind in ("time", "ticks") else 0, slots, floats, ints
            limit_Q[q] = limit
            floats += slots * k.SLOT_FLOATS
            ints += k.KIND_INTS + slots * k.SLOT_INTS
        return cls(
            kinds=bars.by,
            hash=schema_hash(
                bars.by,
                BAR_KERNEL_VERSION,
                price=bars.price,
                lateness=lateness_ns,
                gap=spec.features.gap,
            ),
            symbols=None if spec.source.symbols is None else frozenset(spec.source.symbols),
            rules=k.Rules(rule_RQ, limit_Q, bars.price == "mid", spec.features.gap, lateness_ns),
            floats=floats,
            ints=ints,
        )
