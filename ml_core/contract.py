"""What a model promises: the contract that travels inside its file and is checked before it may score."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_core.errors import SchemaMismatchError
from ml_core.types import CLASS_LABELS, OffsetRange

_LASTING = (
    "features",
    "feature_hash",
    "window",
    "label_kind",
    "label_price",
    "delay_ns",
    "horizons_ns",
    "barriers",
    "quantiles",
    "model_kind",
)  # of a model that goes on


def schema_hash(names: Sequence[str], version: int, **settings: int | str) -> str:
    """Return the hash of a feature schema: ordered names, kernel version, and the settings that change values."""
    text = "\n".join([*names, f"kernel={version}", *(f"{key}={settings[key]}" for key in sorted(settings))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Scaler(BaseModel):
    """Frozen robust scaling, fitted on training rows alone: clip((x - median) / iqr, -limit, limit), NaN -> 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    median: tuple[float, ...]
    iqr: tuple[float, ...]
    limit: float = 8.0


class ModelContract(BaseModel):
    """Everything a scorer needs to know about a model besides its graph.

    The graph takes ``x`` float32 (B, T, F), raw feature rows, and returns ``y`` float32 (B, outputs); scaling is in it.
    Classes: 3 logits (down, flat, up) a horizon, horizon after horizon. Numbers (``return``, and ``volatility`` as its
    logarithm): one a horizon, or with ``quantiles`` those of the number, never falling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    spec_hash: str
    model_kind: str
    model_params: dict[str, object] = Field(default_factory=dict)
    features: tuple[str, ...]
    feature_hash: str
    window: int
    label_kind: Literal["direction", "return", "triple_barrier", "volatility"]
    label_price: Literal["mid", "trade"]
    horizons_ns: tuple[int, ...]
    delay_ns: int
    quantiles: tuple[float, ...] = Field(default=(), description="that a model of numbers tells; the median is one")
    dead_zone: tuple[float, ...] = Field(
        description="a horizon, as a log return; direction: half width of `flat`, volatility: the least one"
    )
    barriers: tuple[float, float, int] | None = Field(
        default=None, description="up and down in standard deviations, and the ns before a row that these are of"
    )
    prior: tuple[tuple[float, ...], ...] = Field(
        description="of the training rows, a horizon: class shares, or mean and variance of numbers"
    )
    scaler: Scaler
    runtime: Literal["onnxruntime"] = Field(default="onnxruntime", description="what scores; its bits are the model's")
    runtime_version: str | None = Field(default=None, description="of the runtime that passed the probe at export")
    block: int | None = Field(
        default=None, description="rows a call when scores depend on the batch size; None: they do not"
    )
    trained_from_ns: int
    trained_to_ns: int = Field(
        description="no label of a training or validation row, its parents' included, ends after this event time"
    )
    ranges: tuple[OffsetRange, ...] = ()
    topic: str | None = None
    dataset_hash: str | None = Field(
        default=None,
        description="form and SHA-256 of the samples in canonical order: windows, targets, returns, costs, cut",
    )
    source_hash: str | None = Field(default=None, description="hash of the history file, where ticks came from one")
    seed: int
    code_version: str
    parent: str | None = Field(default=None, description="name/version an incremental model went on from")
    metrics: dict[str, float] = Field(default_factory=dict)

    def must_lead_to(self, made: "ModelContract", *also: str) -> None:
        """Raise where weights of this model cannot go on as those of ``made``; ``also`` names fields of one learner.

        Raises:
            SchemaMismatchError: With the first field that differs. A retry will not help.
        """
        self.must_have(**{name: getattr(made, name) for name in (*_LASTING, *also)})

    def must_have(self, **ours: object) -> None:
        """Raise where a model that goes on has other values in fields than a pipeline says.

        Raises:
            SchemaMismatchError: With the first field that differs. A retry will not help.
        """
        for name, value in ours.items():
            theirs = getattr(self, name)
            if theirs != value:
                raise SchemaMismatchError(
                    f"cannot go on: {name} of the model is {theirs!r}, the pipeline says {value!r}"
                )

    @property
    def outputs(self) -> int:
        """Width of the graph's output."""
        return len(self.horizons_ns) * outputs_of(self.label_kind, self.quantiles)


def outputs_of(label_kind: str, quantiles: Sequence[float]) -> int:
    """Return how many outputs a horizon has.

    >>> outputs_of("direction", ()), outputs_of("return", ()), outputs_of("return", (0.1, 0.5, 0.9))
    (3, 1, 3)
    """
    return 3 if label_kind in CLASS_LABELS else len(quantiles) or 1
