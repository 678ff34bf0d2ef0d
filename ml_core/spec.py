"""The pipeline file: one TOML file a user writes, typed, validated and hashed."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ml_core.errors import PipelineNotFoundError, SpecError, nearest
from ml_core.quantities import BAR_KINDS, OF_WINDOWS, format_duration, parse_augment, parse_bars, parse_duration
from ml_core.sections import (
    Bars,
    Costs,
    Features,
    FieldMap,
    Gate,
    Incremental,
    Label,
    Load,
    Model,
    Predictions,
    Retrain,
    Section,
    Source,
    Train,
    Tune,
)
from ml_core.types import CLASS_LABELS, Name

__all__ = [
    "BAR_KINDS",
    "Bars",
    "FieldMap",
    "Gate",
    "PipelineSpec",
    "Predictions",
    "files_of",
    "find",
    "format_duration",
    "load",
    "load_all",
    "parse",
    "parse_bars",
    "parse_duration",
]

MAX_BARS_BACK = 8  # of time bars: so many closed ones are kept for late ticks


class PipelineSpec(Section):
    """A pipeline: from one topic of ticks to one topic of predictions."""

    name: Name
    source: Source = Source()
    features: Features = Features()
    label: Label = Label()
    load: Load = Load()
    model: Model = Model()
    train: Train = Train()
    incremental: Incremental = Incremental()
    tune: Tune = Tune()
    retrain: Retrain = Retrain()
    gate: Gate = Gate()
    costs: Costs = Costs()
    predictions: Predictions = Predictions()
    bars: Bars | None = Field(default=None, description="absent: no bars")
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _learns_by_a_loss_of_its_labels(self) -> Self:
        self.train.check_loss(classes=self.label.kind in CLASS_LABELS)
        return self

    @model_validator(mode="after")
    def _judged_by_what_it_learns(self) -> Self:
        loss = "log_loss" if self.label.kind in CLASS_LABELS else "squared_error"
        if self.gate.loss not in (None, loss):
            raise ValueError(
                f"gate.loss: not yet supported: {self.gate.loss!r} for label.kind = {self.label.kind!r}, "
                f"which is judged by {loss}"
            )
        return self

    @model_validator(mode="after")
    def _augments_what_it_has(self) -> Self:
        for text in self.train.augment:
            if self.features.window == 1 and parse_augment(text)[0] in OF_WINDOWS:
                raise ValueError(f"train.augment: {text!r} changes windows, and features.window is 1")
            is_sided = self.label.kind != "volatility" and not self.model.quantiles
            if parse_augment(text)[0] == "mirror" and not is_sided:
                raise ValueError(
                    f"train.augment: {text!r} turns rises into falls; a volatility or a quantile is neither"
                )
        return self

    @model_validator(mode="after")
    def _augments_no_codes(self) -> Self:
        if self.train.augment and self.features.categories:
            raise ValueError("train.augment: changes numbers, and features.categories are codes")
        return self

    @model_validator(mode="after")
    def _quantiles_are_of_numbers(self) -> Self:
        if self.model.quantiles and self.label.kind in CLASS_LABELS:
            raise ValueError(f"model.quantiles: label.kind = {self.label.kind!r} has classes; a number has quantiles")
        if self.model.quantiles and self.train.loss is not None:
            raise ValueError(f"train.loss: {self.train.loss!r}, and quantiles are learned by the pinball loss")
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
        """Hash of what the file says that is not said by default; two equal pipelines have equal hashes."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]


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
        # as JSON, in which a list may stand for a tuple while a text never stands for a number
        spec = PipelineSpec.model_validate_json(json.dumps(data, default=str), strict=True)
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
