"""What a model promises: the contract that travels inside its file and is checked before it may score.

Shapes of `Places`: N numbers, M features that may be missing, C codes of G categories.
"""

import hashlib
from collections.abc import Sequence
from importlib import metadata
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ml_core.errors import SchemaMismatchError
from ml_core.types import CLASS_LABELS, OffsetRange

FOREIGN_KINDS = ("onnx", "lightgbm", "xgboost")  # of models trained elsewhere: the formats of their files
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
    "encoding",
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


class Places(NamedTuple):
    """Where in a raw row a model's inputs come from, in their order: numbers, missing, codes, others."""

    number_N: tuple[int, ...]  # scaled
    missing_M: tuple[int, ...]  # 1 where NaN
    source_C: tuple[int, ...]
    code_C: tuple[int, ...]  # 1 where the source is this code
    group_C: tuple[int, ...]  # the category of each code
    coded_G: tuple[int, ...]  # 1 where the source is a number, and none of the codes of its category

    @property
    def width(self) -> int:
        """How many inputs there are."""
        return len(self.number_N) + len(self.missing_M) + len(self.code_C) + len(self.coded_G)


class Encoding(BaseModel):
    """What a model sees of raw rows besides scaled numbers: frozen, fitted on training rows alone, made in the graph.

    A feature of ``missing`` has a further input that is 1 where the feature is NaN. A feature of ``codes`` is no
    number: it has an input for each of its codes and one for all others; where it is NaN all of them are 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: tuple[str, ...] = ()
    codes: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """True where there are scaled numbers and nothing else."""
        return not (self.missing or self.codes)

    def places(self, features: Sequence[str]) -> Places:
        """Return where the inputs stand in rows of ``features``.

        Raises:
            ValueError: A name is none of ``features``.

        >>> Encoding(missing=("b",), codes={"a": (0, 2)}).places(("a", "b"))
        Places(number_N=(1,), missing_M=(1,), source_C=(0, 0), code_C=(0, 2), group_C=(0, 0), coded_G=(0,))
        """
        place = {name: number for number, name in enumerate(features)}
        unknown = sorted({*self.missing, *self.codes} - place.keys())
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is no feature")
        each = [(group, name, code) for group, (name, codes) in enumerate(self.codes.items()) for code in codes]
        return Places(
            number_N=tuple(place[name] for name in features if name not in self.codes),
            missing_M=tuple(place[name] for name in self.missing),
            source_C=tuple(place[name] for _, name, _ in each),
            code_C=tuple(code for *_, code in each),
            group_C=tuple(group for group, *_ in each),
            coded_G=tuple(place[name] for name in self.codes),
        )


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
    encoding: Encoding = Encoding()
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
    gap_ranges: tuple[OffsetRange, ...] = Field(
        default=(), description="offsets of the topic of gap marks; no sample reaches across one of these marks"
    )
    dataset_hash: str | None = Field(
        default=None,
        description="form and SHA-256 of the samples in canonical order: windows, targets, returns, costs, cut",
    )
    source_hash: str | None = Field(
        default=None, description="hash of the history file, or of the data set's content, where ticks came from one"
    )
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
    def places(self) -> Places:
        """Where the inputs of the model behind scaling and encoding come from."""
        return self.encoding.places(self.features)

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


def code_version() -> str:
    """Return the version of tickwise that makes models here."""
    try:
        return metadata.version("tickwise")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
