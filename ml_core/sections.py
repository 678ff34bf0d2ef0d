"""The sections of a pipeline file: which keys each has, what they may say, and what they say by default."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from ml_core.errors import nearest
from ml_core.quantities import (
    format_duration,
    parse_augment,
    parse_bars,
    parse_duration,
    parse_percent,
    parse_range,
    parse_spreads,
)
from ml_core.types import CLASS_LABELS, Name

AsText = (BeforeValidator(parse_duration), PlainSerializer(format_duration))
DurationNs = Annotated[int, *AsText, Field(gt=0)]


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


def _augment(text: str) -> str:
    parse_augment(text)
    return text


def _bars(text: str) -> str:
    parse_bars(text)
    return text


CLASS_LOSSES = ("cross_entropy", "focal")
NUMBER_LOSSES = ("squared_error", "huber")
LOSS_PARAMS = {"focal": {"gamma": (1.0, 10.0)}, "huber": {"delta": (0.01, 100.0)}}  # name -> least, most


def _loss(text: str) -> str:
    if ":" not in text and text not in (*CLASS_LOSSES, *NUMBER_LOSSES):
        hint = nearest(text, (*CLASS_LOSSES, *NUMBER_LOSSES))
        raise ValueError(f"{text!r} is not known{hint}; an own loss is written module:Class")
    return text


class Section(BaseModel):
    """A part of the file: a name that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldMap(Section):
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


class Source(Section):
    """Where ticks come from."""

    topic: str = Field(default="market.ticks.v1", pattern=r"^[a-zA-Z0-9._-]{1,200}$")
    map: FieldMap | None = None
    gaps: str = Field(
        default="market.gaps.v1",
        pattern=r"^[a-zA-Z0-9._-]{0,200}$",
        description="topic on which feeds mark what is missing of the ticks; empty: there is none",
    )
    symbols: tuple[str, ...] | None = None
    lateness: DurationNs = Field(default=5 * 10**9, description="how far behind its symbol's clock a tick still counts")
    calendar: str = Field(
        default="24x7", max_length=32, description="24x7, or a name of exchange-calendars: XNYS, XLON"
    )
    history: str | None = Field(default=None, description="what `tickwise train` reads; a worker has no use for it")


class Features(Section):
    """What a row is made of."""

    set: Name | None = Field(default=None, description="name of the feature set; default: the pipeline's name")
    rows_on: tuple[Literal["quote", "trade"], ...] = ("quote", "trade")
    use: tuple[str, ...] = ()
    window: int = Field(default=1, ge=1, le=1024)
    max_age: DurationNs = 5 * 10**9
    gap: DurationNs = 60 * 10**9
    max_missing: float = Field(
        default=1.0, gt=0, le=1, description="a feature undefined in a larger share of the samples is refused"
    )
    missing: Literal["neutral", "indicator"] = Field(
        default="neutral",
        description="what a model sees of an undefined value: the median; indicator: and that it is undefined",
    )
    categories: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        description="features that are codes of a kind, no numbers: an input a code",
    )


class BarrierWidths(Section):
    """How far the barriers of a triple barrier stand from the price one acts at: standard deviations over a horizon."""

    up: float = Field(default=1.0, gt=0, le=100)
    down: float = Field(default=1.0, gt=0, le=100)


class Label(Section):
    """What a model learns to tell."""

    kind: Literal["direction", "return", "triple_barrier", "volatility"] = "direction"
    price: Literal["mid", "trade"] = "mid"
    horizons: tuple[DurationNs, ...] = Field(default=(10 * 10**9,), min_length=1, max_length=8)
    delay: Annotated[int, *AsText, Field(ge=0)] = 0
    dead_zone: Annotated[
        float,
        BeforeValidator(parse_spreads),
        Field(ge=0, le=100, description="direction: half width of `flat`; volatility: the least one; in spreads"),
    ] = 0.5
    barriers: BarrierWidths | None = Field(default=None, description="of a triple barrier; absent: 1 up and 1 down")
    volatility_span: DurationNs = Field(
        default=300 * 10**9, description="barriers are measured by the volatility of so long before the row"
    )
    costs: bool = Field(
        default=False, description="a move counts only beyond a round trip's costs: `flat` is wider, no barrier nearer"
    )

    @model_validator(mode="after")
    def _fit_the_kind(self) -> Self:
        twice = {format_duration(each) for each in self.horizons if self.horizons.count(each) > 1}
        if twice:
            raise ValueError(f"horizons: {', '.join(sorted(twice))} stands there more than once")
        if self.barriers is not None and self.kind != "triple_barrier":
            raise ValueError(f"barriers are of kind 'triple_barrier', not {self.kind!r}")
        if self.costs and self.kind not in CLASS_LABELS:
            raise ValueError(f"costs: a {self.kind} is a number, which no cost makes smaller; they belong to classes")
        if self.kind == "volatility" and not self.dead_zone:
            raise ValueError("dead_zone: a volatility needs one above 0, or that of a price at rest is minus infinity")
        return self

    @property
    def barrier_widths(self) -> BarrierWidths | None:
        """Where the barriers stand; None where the label has none."""
        return (self.barriers or BarrierWidths()) if self.kind == "triple_barrier" else None


class Load(Section):
    """Where the rows of a training are held; it changes no result."""

    mapped: Literal["auto", "always", "never"] = Field(
        default="auto", description="on disk, read as they are needed; auto: where they take more than 1 GiB"
    )


class Model(Section):
    """Which model, and with which parameters."""

    kind: str = "mlp"
    params: dict[str, Any] = Field(default_factory=dict)
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), max_length=16, description="of a number: these instead of its mean; the median is the score"
    )

    per_symbol: bool = False

    @field_validator("per_symbol")
    @classmethod
    def _of_all_symbols(cls, per_symbol: bool) -> bool:
        if per_symbol:
            raise ValueError(
                "a model is of all symbols of its pipeline; for one of its own give a symbol a pipeline of its own, "
                "with source.symbols = ['...']"
            )
        return per_symbol

    @model_validator(mode="after")
    def _rise_around_the_median(self) -> Self:
        if self.quantiles and (list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 not in self.quantiles):
            raise ValueError("quantiles must rise, and 0.5 be one of them: the median is the score")
        return self


class Train(Section):
    """How a model is trained."""

    span: DurationNs = Field(
        default=3 * 86400 * 10**9, description="of event time, back from the newest tick; of a file all is taken"
    )
    weights: Literal["none", "uniqueness"] = "uniqueness"
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    holdout: float = Field(default=0.15, gt=0, lt=0.5)
    embargo: Annotated[
        int, *AsText, Field(ge=0, description="event time after each cut from which no part takes samples")
    ] = 0
    epochs: int = Field(default=20, ge=1, le=10_000)
    patience: int = Field(default=3, ge=1)
    batch_size: int = Field(default=1024, ge=1, le=1_000_000)
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, lt=1)
    min_rows: int = Field(default=2000, ge=10)
    augment: tuple[Annotated[str, AfterValidator(_augment)], ...] = Field(
        default=(), description="random changes of training batches, such as 'jitter 0.05'; validation stays as it is"
    )
    loss: Annotated[str, AfterValidator(_loss)] | None = Field(
        default=None, description="or an own module:Class; default: cross_entropy of classes, squared_error of numbers"
    )
    loss_params: dict[str, float] = Field(
        default_factory=dict, description="focal: gamma; huber: delta, in standard deviations; an own loss: its own"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: each class has an equal say; probabilities then lean to rare classes"
    )
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = Field(
        default="constant", description="of the learning rate; plateau halves it after an epoch that is no better"
    )
    warm_up_steps: int = Field(default=0, ge=0, le=1_000_000, description="in which the learning rate grows from 0")
    gradient_limit: float = Field(default=1.0, gt=0, description="longest gradient; longer ones are scaled to it")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is one")
    checkpoint_steps: int = Field(default=1000, ge=1, description="steps from one checkpoint of a job to the next")

    @model_validator(mode="after")
    def _loss_has_its_params(self) -> Self:
        if self.loss is not None and ":" in self.loss:
            if self.class_weights != "none":
                raise ValueError(f"class_weights: {self.loss!r} weighs classes itself")
            return self
        known = LOSS_PARAMS.get(self.loss or "", {})
        for name, value in self.loss_params.items():
            if name not in known:
                hint = nearest(name, known) if known else f"; {self.loss or 'the default loss'} takes none"
                raise ValueError(f"loss_params.{name}: unknown parameter{hint}")
            least, most = known[name]
            if not least <= value <= most:
                raise ValueError(f"loss_params.{name}: {value:g} is not within {least:g} and {most:g}")
        return self

    def check_loss(self, *, classes: bool) -> None:
        """Raise ValueError where the loss is none of labels that are ``classes``, or numbers."""
        fitting = CLASS_LOSSES if classes else NUMBER_LOSSES
        word = "classes" if classes else "numbers"
        if self.loss is not None and ":" not in self.loss and self.loss not in fitting:
            raise ValueError(f"train.loss: {self.loss!r} is no loss of {word}; known: {', '.join(fitting)}")
        if self.class_weights != "none" and not classes:
            raise ValueError(f"train.class_weights: {self.class_weights!r}, and the label is {word}")


class Incremental(Section):
    """How a job of kind ``incremental`` goes on from the champion."""

    reservoir: int = Field(
        default=10_000, ge=0, le=10_000_000, description="rows the champion was trained on, mixed into the new ones"
    )
    anchor: float = Field(default=0.1, ge=0, le=1000, description="strength of the pull to the champion's weights")
    step_rows: int = Field(
        default=8192, ge=1, le=100_000_000, description="rows of a step, which is taken back where it harms"
    )
    harm_bound: Annotated[float, BeforeValidator(parse_percent), Field(gt=0, le=1)] = Field(
        default=0.01, description="by which share a step may lift the loss on a fixed part of the validation rows"
    )


# The split, the weights of rows and the loss are no part of a space: losses of trials would not compare.
TUNED = (
    "batch_size",
    "epochs",
    "gradient_limit",
    "learning_rate",
    "momentum",
    "optimizer",
    "patience",
    "schedule",
    "warm_up_steps",
    "weight_decay",
)


def _space(space: dict[str, str]) -> dict[str, str]:
    known = ["model.kind", *(f"train.{name}" for name in TUNED)]
    for name, text in space.items():
        if name not in known and not re.fullmatch(r"model\.params\.\w+", name):
            raise ValueError(f"{name!r} cannot be searched{nearest(name, [*known, 'model.params.'])}")
        parse_range(text)
    return space


class Tune(Section):
    """What a study searches."""

    space: Annotated[dict[str, str], AfterValidator(_space)] = Field(
        default_factory=dict, description="key of the pipeline file: int 8..128 log, float 0..0.5, choice adamw | sgd"
    )
    trials: int = Field(default=20, ge=1, le=10_000)
    prune: bool = Field(default=True, description="end trials that do worse than most did after as many epochs")
    seed: int = Field(default=0, ge=0, lt=2**31)


class Retrain(Section):
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


class Gate(Section):
    """What a later model must show before it takes over: a lower loss than the champion's on rows neither saw."""

    loss: Literal["log_loss", "squared_error"] | None = Field(
        default=None, description="absent: the one of label.kind; no other is supported"
    )
    margin: Annotated[float, BeforeValidator(parse_percent), Field(ge=0, lt=1)] = 0.0
    alpha: float = Field(default=0.05, gt=0, lt=1)
    approve: Literal["auto", "manual"] = "auto"


class Predictions(Section):
    """How predictions are written to their topic: a JSON record each, or Arrow streams of up to 4096 rows a record."""

    format: Literal["json", "arrow"] = "json"


class Bars(Section):
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


class Costs(Section):
    """What trading on a score costs."""

    fee_bps: float = Field(default=0.0, ge=0, le=1000)
    half_spread: Literal["rows"] | Annotated[float, Field(ge=0, le=1000)] = Field(
        default=0.0, description="bps of the price; 'rows': half the spread of each row"
    )
