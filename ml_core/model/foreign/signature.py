"""The signature of a model trained elsewhere: what its columns are and what its answers mean, as its maker says it."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from ml_core.errors import SpecError, nearest
from ml_core.sections import DurationNs, Section
from ml_core.types import CLASS_LABELS

CLASSES = ("down", "flat", "up")
UNITS = {"log_return": 1.0, "percent": 1e-2, "bps": 1e-4}
MAX_BYTES = 2**20


class Scaling(Section):
    """How the model's maker scaled its columns: ``(x - center) / scale``, one number a feature."""

    center: tuple[float, ...]
    scale: tuple[Annotated[float, Field(gt=0)], ...]


class Signature(Section):
    """What a file does not say about the model in it."""

    features: tuple[str, ...] = Field(
        min_length=1, description="of the pipeline, in the order of the model's columns; a window: oldest row first"
    )
    window: int = Field(default=1, ge=1)
    label: Literal["direction", "return", "triple_barrier", "volatility"]
    horizons: tuple[DurationNs, ...] = Field(min_length=1)
    outputs: Literal["value", "probabilities", "logits"] = Field(description="one value a horizon, or one a class")
    classes: tuple[str, ...] = Field(
        default=CLASSES, description="in the order of the columns of a horizon; without flat: the last may stand alone"
    )
    unit: Literal["log_return", "percent", "bps", "log"] | None = Field(
        default=None, description="of a value; log: the logarithm of a volatility"
    )
    dead_zone: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="a horizon, as a log return: half width of flat, or the least volatility"
    )
    inputs: Literal["raw", "scaled"] = Field(description="raw: as the pipeline's rows are")
    scaling: Scaling | None = None
    limit: float = Field(default=1e6, gt=0, le=1e30, description="inputs, once scaled, are clipped to +-limit")
    missing: Literal["nan", "zero"] = Field(description="what the model is given, after scaling, for a missing value")
    trained_to: AwareDatetime = Field(description="no row or label that it was trained on is later")
    output: str | None = Field(default=None, description="name of the output of an ONNX graph that has several")

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        twice = sorted({name for name in self.features if self.features.count(name) > 1})
        if twice:
            raise ValueError(f"features: {', '.join(twice)}: named twice")
        if (self.inputs == "scaled") != (self.scaling is not None):
            raise ValueError("inputs: 'scaled' needs a table scaling with center and scale, and 'raw' has none")
        if self.scaling and {len(self.scaling.center), len(self.scaling.scale)} != {len(self.features)}:
            raise ValueError(f"scaling: center and scale need {len(self.features)} numbers each, one a feature")
        return self

    @model_validator(mode="after")
    def _answers_its_label(self) -> Self:
        if self.is_classes != (self.outputs != "value"):
            fitting = "'probabilities' or 'logits'" if self.is_classes else "'value'"
            raise ValueError(f"outputs: {self.outputs!r}, and a model of label {self.label!r} tells {fitting}")
        if self.is_classes and tuple(sorted(self.classes)) not in (CLASSES, ("down", "up")):
            raise ValueError(f"classes: {list(self.classes)} are not down, flat and up in any order, nor down and up")
        if self.is_classes != (self.unit is None):
            raise ValueError("unit: a value needs one, and a class has none")
        if self.unit == "log" and self.label != "volatility":
            raise ValueError("unit: 'log' is of a volatility")
        needed = len(self.horizons) if self.label in ("direction", "volatility") else 0
        if len(self.dead_zone) != needed:
            raise ValueError(f"dead_zone: {len(self.dead_zone)} numbers, and label {self.label!r} needs {needed}")
        if self.label == "volatility" and not all(self.dead_zone):
            raise ValueError("dead_zone: the least volatility must be above 0")
        return self

    @property
    def is_classes(self) -> bool:
        """Whether it tells classes rather than numbers."""
        return self.label in CLASS_LABELS


def read_signature(path: Path) -> Signature:
    """Return the signature in the TOML or JSON file ``path``.

    Raises:
        SpecError: The file is missing, is neither, or says something unknown or out of range; the message names the
            place and the nearest valid name. A retry will not help.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"the signature {path} has more than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
        data: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # decoding errors are ValueErrors
        raise SpecError(f"cannot read the signature {path}: {error}") from error
    try:
        return Signature.model_validate(data)
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(detail)}" for detail in error.errors(include_url=False))
        raise SpecError(f"{path}:\n{lines}") from error


def _explain(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = Scaling.model_fields if len(detail["loc"]) > 1 else Signature.model_fields
        return f"{place}: unknown name{nearest(str(detail['loc'][-1]), known)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
