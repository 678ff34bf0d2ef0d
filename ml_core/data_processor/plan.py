"""A plan: which features a row is made of, as the kernel's tables and a hash."""

from dataclasses import dataclass, field, replace

from ml_core.contract import schema_hash
from ml_core.data_processor import calendars
from ml_core.data_processor.catalogue import CATALOGUE, DEFAULT_USE
from ml_core.data_processor.kernels import KERNEL_VERSION
from ml_core.data_processor.own import OwnFeature, find_own
from ml_core.data_processor.program import Column, Compiled, compile_program
from ml_core.errors import SpecError, nearest
from ml_core.parts import is_part
from ml_core.spec import PipelineSpec, format_duration, parse_duration
from ml_core.types import Int64

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
            SpecError: A feature or the calendar is unknown, or a feature named twice, or its durations are wrong; the
                message names the nearest.
            UnknownPartError: An own feature (``module:Class``) cannot be found.
            SetupError: The calendar could not be computed.
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
        for name in spec.features.categories:
            if name not in names:
                raise SpecError(f"features.categories: {name!r} is none of features.use{nearest(name, names)}")
        return cls._compile(spec, tuple(names), columns, tuple(own))

    @classmethod
    def _compile(
        cls, spec: PipelineSpec, names: tuple[str, ...], columns: list[Column | None], own: tuple[OwnFeature, ...]
    ) -> "FeaturePlan":
        rows_on, gap_ns, max_age_ns = spec.features.rows_on, spec.features.gap, spec.features.max_age
        edge_E = calendars.edges(spec.source.calendar)
        compiled = compile_program(columns, rows_on=rows_on, gap_ns=gap_ns, max_age_ns=max_age_ns, edge_E=edge_E)
        code = {f"own.{feature.name}": feature.code_hash for feature in own}
        if len(edge_E):
            _check_look_back(compiled.program.look_back_ns, edge_E, spec.source.calendar)
            code["sessions"] = calendars.digest(edge_E)
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

    def anew(self) -> "FeaturePlan":
        """Return the plan with own features that were built again, and so have seen nothing.

        Raises:
            SpecError: One could not be built a second time.
        """
        return replace(self, own=tuple(feature.anew() for feature in self.own))

    @property
    def floats(self) -> int:
        """Floats of state a symbol: those of the kernel, then those of own features."""
        return self.compiled.floats + sum(feature.width for feature in self.own)

    @property
    def ints(self) -> int:
        """Integers of state a symbol."""
        return self.compiled.ints


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


def _check_look_back(look_back_ns: int, edge_E: Int64, calendar: str) -> None:
    """Raise where no row could ever be whole: each session begins its symbols anew."""
    longest_ns = int((edge_E[1::2] - edge_E[::2]).max())
    if look_back_ns >= longest_ns:
        raise SpecError(
            f"features.use: the longest feature looks back {format_duration(look_back_ns)}, "
            f"and no session of {calendar} is longer than {format_duration(longest_ns)}"
        )
