"""The pipeline file: one TOML file a user writes, typed, validated and hashed."""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from ml_core.errors import PipelineNotFoundError, SpecError, nearest
from ml_core.types import MAX_DURATION_NS, Name

UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}

BAR_KINDS = ("time", "ticks", "volume", "value")
MAX_BARS_BACK = 8  # of time bars: so many closed ones are kept for late ticks


def parse_duration(text: object) -> int:
    """Return nanoseconds of a duration such as ``"20ms"``, ``"1.5s"``, ``"6h"`` or ``"3d"``.

    >>> parse_duration("20ms")
    20000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)", text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and one of {', '.join(UNITS_NS)}, such as '10s'")
    value = float(match[1]) * UNITS_NS[match[2]]
    if value > MAX_DURATION_NS:
        raise ValueError(f"{text!r} is longer than {format_duration(MAX_DURATION_NS)}")
    return round(value)


def format_duration(value_ns: int) -> str:
    """Return the shortest exact text of a duration in nanoseconds.

    >>> format_duration(90_000_000_000), format_duration(20_000_000)
    ('90s', '20ms')
    """
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if value_ns and value_ns % UNITS_NS[unit] == 0 and (unit != "m" or value_ns % UNITS_NS["h"] == 0):
            return f"{value_ns // UNITS_NS[unit]}{unit}"
    return f"{value_ns}ns"


def parse_percent(text: object) -> object:
    """Return the fraction of a text such as ``"1%"``; a number passes unchanged."""
    return float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else text


def parse_spreads(text: object) -> object:
    """Return the number of spreads of a text such as ``"0.5 spread"``; a number passes unchanged."""
    return float(text.removesuffix("spread")) if isinstance(text, str) else text


_AsText = (BeforeValidator(parse_duration), PlainSerializer(format_duration))
DurationNs = Annotated[int, *_AsText, Field(gt=0)]


def _time_path(text: str) -> str:
    if re.fullmatch(r"\$[^:]*(:(ns|us|ms|s))?", text) is None:
        raise ValueError(f"{text!r} is not a JSON path with a unit of ns, us, ms or s, such as '$.T:ms'")
    return text


def _trigger(text: str) -> str:
    if text in ("drift", "decay"):
        raise ValueError(f"not yet supported: {text!r}; 'every <duration>' and 'rows <count>' are")
    if re.fullmatch(r"every \S+|rows [1-9]\d*", text) is None:
        hint = nearest(text.partition(" ")[0], ("every", "rows"))
        raise ValueError(f"{text!r} is not 'every <duration>' or 'rows <count>'{hint}")
    if text.startswith("every "):
        parse_duration(text.removeprefix("every "))
    return text


def parse_bars(text: str) -> tuple[str, float]:
    """Return what ends a bar and after how much of it: ns, ticks, base units or quote currency.

    >>> parse_bars("time:10s"), parse_bars("value:1e6")
    (('time', 10000000000), ('value', 1000000.0))
    """
    kind, _, size = (part.strip() for part in text.partition(":"))
    if kind not in BAR_KINDS:
        raise ValueError(
            f"{text!r} is not 'time:<duration>' or 'ticks', 'volume', 'value' and a number{nearest(kind, BAR_KINDS)}"
        )
    if kind == "time":
        span_ns = parse_duration(size)
        if not 10**6 <= span_ns <= 7 * UNITS_NS["d"]:
            raise ValueError(f"{text!r}: {size} is not within 1ms and 7d")
        return kind, span_ns
    pattern = r"[1-9]\d{0,8}" if kind == "ticks" else r"\d+(\.\d+)?(e\d{1,2})?"
    if re.fullmatch(pattern, size) is None or float(size) == 0:
        number = "a whole number below 1e9" if kind == "ticks" else "a number above 0, such as 50 or 1e6"
        raise ValueError(f"{text!r}: {size!r} is not {number}")
    return kind, float(size)


def _bars(text: str) -> str:
    parse_bars(text)
    return text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldMap(_Part):
    """Where a user's own records keep the fields of a tick: JSON paths, ``ts`` with a unit (``$.T:ms``).

    ``type``, where it is missing, follows from the fields present: bid and ask make a quote, price and size a trade.
    """

    ts: Annotated[str, AfterValidator(_time_path)]
    symbol: str = Field(pattern=r"^\$")
    type: str | None = None
    price: str | None = None
    size: str | None = None
    side: str | None = None
    bid: str | None = None
    ask: str | None = None
    bid_size: str | None = None
    ask_size: str | None = None
    seq: str | None = None

    @model_validator(mode="after")
    def _one_kind_at_least(self) -> Self:
        if not ((self.price and self.size) or (self.bid and self.ask)):
            raise ValueError("map needs price and size (trades) or bid and ask (quotes)")
        return self


class Source(_Part):
    """Where ticks come from."""

    topic: str = Field(default="market.ticks.v1", pattern=r"^[a-zA-Z0-9._-]{1,200}$")
    map: FieldMap | None = None
    symbols: tuple[str, ...] | None = None
    lateness: DurationNs = Field(default=5 * 10**9, description="how far behind its symbol's clock a tick still counts")
    calendar: str = Field(
        default="24x7", max_length=32, description="24x7, or a name of exchange-calendars: XNYS, XLON"
    )
    history: str | None = Field(default=None, description="what `tickwise train` reads; a worker has no use for it")


class Features(_Part):
    """What a row is made of."""

    set: Name | None = Field(default=None, description="name of the feature set; default: the pipeline's name")
    rows_on: tuple[Literal["quote", "trade"], ...] = ("quote", "trade")
    use: tuple[str, ...] = ()
    window: int = Field(default=1, ge=1, le=1024)
    max_age: DurationNs = 5 * 10**9
    gap: DurationNs = 60 * 10**9


class Label(_Part):
    """What a model learns to tell."""

    kind: Literal["direction", "return"] = "direction"
    price: Literal["mid", "trade"] = "mid"
    horizons: tuple[DurationNs, ...] = Field(default=(10 * 10**9,), min_length=1, max_length=8)
    delay: Annotated[int, *_AsText, Field(ge=0)] = 0
    dead_zone: Annotated[
        float,
        BeforeValidator(parse_spreads),
        Field(ge=0, le=100, description="half width of `flat`, in spreads; a return has none"),
    ] = 0.5


class Model(_Part):
    """Which model, and with which parameters."""

    kind: str = "mlp"
    params: dict[str, Any] = Field(default_factory=dict)


class Train(_Part):
    """How a model is trained."""

    span: DurationNs = Field(
        default=3 * 86400 * 10**9, description="of event time, back from the newest tick; of a file all is taken"
    )
    weights: Literal["none", "uniqueness"] = "uniqueness"
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    holdout: float = Field(default=0.15, gt=0, lt=0.5)
    epochs: int = Field(default=20, ge=1, le=10_000)
    patience: int = Field(default=3, ge=1)
    batch_size: int = Field(default=1024, ge=1, le=1_000_000)
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, lt=1)
    min_rows: int = Field(default=2000, ge=10)


class Retrain(_Part):
    """When a job is started by itself: ``every <duration>``, ``rows <count>``, one of each at most."""

    when: tuple[Annotated[str, AfterValidator(_trigger)], ...] = ()
    kind: Literal["batch", "incremental"] = "batch"
    cooldown: DurationNs = 60 * 10**9

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        kinds = [text.partition(" ")[0] for text in self.when]
        twice = [text for text, kind in zip(self.when, kinds, strict=True) if kinds.count(kind) > 1]
        if twice:
            raise ValueError(f"not yet supported: {' and '.join(map(repr, twice))} together; keep one of them")
        return self

    @property
    def every_ns(self) -> int | None:
        """The period of the schedule, ns; None where there is none."""
        return next((parse_duration(w.split()[1]) for w in self.when if w.startswith("every ")), None)

    @property
    def rows(self) -> int | None:
        """How many new labelled rows start a job; None where they do not."""
        return next((int(w.split()[1]) for w in self.when if w.startswith("rows ")), None)


class Gate(_Part):
    """What a later model must show before it takes over: a lower loss than the champion's on rows neither saw."""

    loss: Literal["log_loss", "squared_error"] | None = Field(
        default=None, description="absent: the one of label.kind; no other is supported"
    )
    margin: Annotated[float, BeforeValidator(parse_percent), Field(ge=0, lt=1)] = 0.0
    alpha: float = Field(default=0.05, gt=0, lt=1)
    approve: Literal["auto", "manual"] = "auto"


class Predictions(_Part):
    """How predictions are written to their topic: a JSON record each, or Arrow streams of up to 4096 rows a record."""

    format: Literal["json", "arrow"] = "json"


class Bars(_Part):
    """Which bars are made of the ticks: ``time:10s``, ``ticks:100``, ``volume:50`` and ``value:1e6`` in any number."""

    by: tuple[Annotated[str, AfterValidator(_bars)], ...] = Field(min_length=1, max_length=8)
    price: Literal["trade", "mid"] = "trade"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        rules = [parse_bars(text) for text in self.by]
        twice = [text for text, rule in zip(self.by, rules, strict=True) if rules.count(rule) > 1]
        if twice:
            raise ValueError(f"{' and '.join(twice)} are the same bars")
        for text, (kind, _) in zip(self.by, rules, strict=True):
            if self.price == "mid" and kind in ("volume", "value"):
                raise ValueError(f"{text!r} needs trades, and price = 'mid' makes bars of quotes, which have no volume")
        return self


class Costs(_Part):
    """What trading on a score costs."""

    fee_bps: float = Field(default=0.0, ge=0, le=1000)


class PipelineSpec(_Part):
    """A pipeline: from one topic of ticks to one topic of predictions."""

    name: Name
    source: Source = Source()
    features: Features = Features()
    label: Label = Label()
    model: Model = Model()
    train: Train = Train()
    retrain: Retrain = Retrain()
    gate: Gate = Gate()
    costs: Costs = Costs()
    predictions: Predictions = Predictions()
    bars: Bars | None = Field(default=None, description="absent: no bars")
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _judged_by_what_it_learns(self) -> Self:
        loss = "log_loss" if self.label.kind == "direction" else "squared_error"
        if self.gate.loss not in (None, loss):
            raise ValueError(
                f"gate.loss: not yet supported: {self.gate.loss!r} for label.kind = {self.label.kind!r}, "
                f"which is judged by {loss}"
            )
        return self

    @model_validator(mode="after")
    def _late_ticks_find_their_bar(self) -> Self:
        for text in self.bars.by if self.bars else ():
            kind, width_ns = parse_bars(text)
            if kind == "time" and self.source.lateness > MAX_BARS_BACK * width_ns:
                raise ValueError(
                    f"bars.by: {text!r}: source.lateness of {format_duration(self.source.lateness)} reaches back "
                    f"further than {MAX_BARS_BACK} bars; make it shorter or the bars wider"
                )
        return self

    @property
    def folder(self) -> Path | None:
        """The folder of the pipeline file, where own parts (``module:Class``) are looked for first."""
        return self._folder

    @property
    def feature_set(self) -> str:
        """Name of the feature set that this pipeline reads."""
        return self.features.set or self.name

    @property
    def hash(self) -> str:
        """Hash of everything the file says; two equal pipelines have equal hashes."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def load(path: Path) -> PipelineSpec:
    """Return the pipeline of the TOML file ``path``.

    Raises:
        SpecError: The file is missing, is no TOML, or says something unknown or out of range; the message names
            the place and the nearest valid name. A retry will not help.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the pipeline file {path}: {error}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from error
    return parse(data, folder=path.resolve().parent, name=str(path))


def files_of(path: Path) -> list[Path]:
    """Return the pipeline files that ``path`` stands for: itself, or every ``*.toml`` of a folder, sorted.

    Raises:
        SpecError: The folder has none. A retry will not help.
    """
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not files:
        raise SpecError(f"no pipeline file (*.toml) in the folder {path}")
    return files


def load_all(path: Path) -> dict[str, PipelineSpec]:
    """Return the pipelines of ``path`` by name: one TOML file, or every ``*.toml`` of a folder.

    Raises:
        SpecError: As ``load``; also when there is no file, or two files give one name.
    """
    found: dict[str, PipelineSpec] = {}
    places: dict[str, Path] = {}
    for file in files_of(path):
        spec = load(file)
        if spec.name in found:
            raise SpecError(f"{file} and {places[spec.name]} are both named {spec.name!r}; names must differ")
        found[spec.name], places[spec.name] = spec, file
    return found


def find(pipelines: Mapping[str, PipelineSpec], name: str) -> PipelineSpec:
    """Return the pipeline ``name``.

    Raises:
        PipelineNotFoundError: With the nearest name. A retry will not help.
    """
    if name not in pipelines:
        raise PipelineNotFoundError(f"no pipeline {name!r}{nearest(name, pipelines)}")
    return pipelines[name]


def parse(data: dict[str, Any], *, folder: Path | None = None, name: str = "pipeline") -> PipelineSpec:
    """Return the pipeline described by ``data``: parsed TOML, or the result of ``model_dump(mode="json")``.

    Raises:
        SpecError: As ``load``.
    """
    try:
        spec = PipelineSpec.model_validate(data)
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(detail)}" for detail in error.errors(include_url=False))
        raise SpecError(f"{name}:\n{lines}") from error
    spec._folder = folder  # noqa: SLF001 - set once, right after construction, by the only constructor
    return spec


def _explain(detail: ErrorDetails) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown name{nearest(str(detail['loc'][-1]), _known_names(detail['loc'][:-1]))}"
    if detail["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return f"{place}: {detail['input']!r} is not known{nearest(str(detail['input']), expected)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _known_names(loc: tuple[int | str, ...]) -> list[str]:
    part: type[BaseModel] = PipelineSpec
    for step in loc:
        annotation = part.model_fields[str(step)].annotation
        choices = get_args(annotation) or (annotation,)  # an optional part is a choice between itself and None
        part = next(choice for choice in choices if choice is not None)
    return list(part.model_fields)
