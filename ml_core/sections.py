"""The sections of a pipeline file: which keys each has, what they may say, and what they say by default."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from ml_core.errors import nearest
from ml_core.quantities import (
    format_duration,
    parse_bars,
    parse_duration,
    parse_percent,
    parse_spreads,
)
from ml_core.types import Name

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


def _bars(text: str) -> str:
    parse_bars(text)
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


class Label(Section):
    """What a model learns to tell."""

    kind: Literal["direction", "return"] = "direction"
    price: Literal["mid", "trade"] = "mid"
    horizons: tuple[DurationNs, ...] = Field(default=(10 * 10**9,), min_length=1, max_length=8)
    delay: Annotated[int, *AsText, Field(ge=0)] = 0
    dead_zone: Annotated[
        float,
        BeforeValidator(parse_spreads),
        Field(ge=0, le=100, description="half width of `flat`, in spreads; a return has none"),
    ] = 0.5


class Model(Section):
    """Which model, and with which parameters."""

    kind: str = "mlp"
    params: dict[str, Any] = Field(default_factory=dict)
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), max_length=16, description="of a number: these instead of its mean; the median is the score"
    )

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
    epochs: int = Field(default=20, ge=1, le=10_000)
    patience: int = Field(default=3, ge=1)
    batch_size: int = Field(default=1024, ge=1, le=1_000_000)
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, lt=1)
    min_rows: int = Field(default=2000, ge=10)


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
