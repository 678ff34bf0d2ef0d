"""A model trained elsewhere between our rows and our outputs: what it takes is made of rows, what it tells made ours.

Shapes: B rows of a batch, T rows of a window, F features of the pipeline, X columns of the model, K of its answers, H
horizons, C answers a horizon, O outputs.
"""

import math
from collections.abc import Sequence

import numpy as np

from ml_core.contract import Scaler
from ml_core.errors import ModelRefusedError, SpecError, nearest
from ml_core.model.foreign.port import Answers, Foreign
from ml_core.model.foreign.signature import CLASSES, UNITS, Signature
from ml_core.types import Float32, Float64, Int64

LEAST = 1e-6  # probability: a model that calls a class impossible would lose without bound once it happens


class Wrapping:
    """How a model fits in, and what it then says, by way of its own engine; ``wrapped_onnx`` makes the graph of it."""

    def __init__(self, foreign: Foreign, signature: Signature, features: Sequence[str]) -> None:
        """Fit ``foreign`` between rows of ``features`` and what ``signature`` says of it.

        Raises:
            SpecError: The signature names a feature that rows do not have.
            ModelRefusedError: ``signature``: the file says something else. A retry will not help for both.
        """
        self.foreign, self.signature, self.features = foreign, signature, tuple(features)
        for name in signature.features:
            if name not in features:
                raise SpecError(f"features: the pipeline has no {name!r}{nearest(name, features)}")
        self._check_columns()
        self.tells = self._check_answers()
        count = len(features)
        place_X = [features.index(name) for name in signature.features]
        self.column_X: Int64 = np.array([row * count + place for row in range(signature.window) for place in place_X])

    def _check_columns(self) -> None:
        given, shape = self.signature, self.foreign.shape
        count = len(given.features)
        if shape not in ((given.window * count,), (given.window, count)):
            raise ModelRefusedError(
                f"signature: the file takes rows of shape {shape}, and the signature says a window of {given.window} "
                f"with {count} features"
            )
        names = self.foreign.names
        if given.window == 1 and sorted(names) == sorted(given.features) and names != given.features:
            raise ModelRefusedError(f"signature: the columns of the file stand in another order: {', '.join(names)}")

    def _check_answers(self) -> Answers:
        given, foreign = self.signature, self.foreign
        if foreign.tells is not None and (foreign.tells == "value") != (given.outputs == "value"):
            raise ModelRefusedError(
                f"signature: the file tells {foreign.tells}, and the signature says {given.outputs}"
            )
        horizons = len(given.horizons)
        fitting = [horizons * (len(given.classes) if given.is_classes else 1)]
        if given.is_classes and len(given.classes) == 2:
            fitting.append(horizons)  # of the second class alone
        if foreign.answers not in fitting:
            raise ModelRefusedError(
                f"signature: the file answers {foreign.answers} numbers a row, and {horizons} horizons of "
                f"{given.label} take {' or '.join(map(str, fitting))}"
            )
        return foreign.tells or given.outputs

    @property
    def scaler(self) -> Scaler:
        """What makes rows of the pipeline the model's columns; features that it does not take are left as they are."""
        scaling, names = self.signature.scaling, self.signature.features
        center = dict(zip(names, scaling.center if scaling else (), strict=False))
        scale = dict(zip(names, scaling.scale if scaling else (), strict=False))
        return Scaler(
            median=tuple(center.get(name, 0.0) for name in self.features),
            iqr=tuple(scale.get(name, 1.0) for name in self.features),
            limit=self.signature.limit,
        )

    @property
    def takes_rows(self) -> bool:
        """Whether rows go in as they are: trees know what to do with missing and with infinite values."""
        return bool(self.foreign.voices) and self.signature.inputs == "raw" and self.signature.missing == "nan"

    def columns(self, x_BTF: Float32) -> Float32:
        """Return what the model is given (B, X) of raw rows."""
        scaler, limit = self.scaler, np.float32(self.signature.limit)
        z_BTF = x_BTF
        if not self.takes_rows:
            ratio_BTF = (x_BTF - np.array(scaler.median, np.float32)) / np.array(scaler.iqr, np.float32)
            z_BTF = np.asarray(np.clip(ratio_BTF, -limit, limit), np.float32)
        if self.signature.missing == "zero":
            z_BTF = np.where(np.isnan(z_BTF), np.float32(0), z_BTF)
        return np.ascontiguousarray(z_BTF.reshape(len(x_BTF), -1)[:, self.column_X])

    def expected(self, x_BTF: Float32) -> Float32:
        """Return the outputs (B, O) of raw rows, by way of the model's own engine."""
        y_BK = self.foreign.expected(self.columns(x_BTF))
        y_BHC = y_BK.reshape(len(y_BK), len(self.signature.horizons), -1)
        return self._outputs(y_BHC).reshape(len(y_BK), -1).astype(np.float32)

    def _outputs(self, y_BHC: Float64) -> Float64:
        given = self.signature
        if self.tells == "value":
            value_BHC: Float64 = y_BHC * UNITS.get(str(given.unit), 1.0)
            if given.label == "volatility" and given.unit != "log":
                value_BHC = np.log(np.maximum(value_BHC, np.array(given.dead_zone)[:, None]))
            return value_BHC
        if y_BHC.shape[2] == 1:
            first = 1 - y_BHC if self.tells == "probabilities" else np.zeros_like(y_BHC)
            y_BHC = np.concatenate([first, y_BHC], axis=2)
        if self.tells == "probabilities":
            y_BHC = np.log(np.maximum(y_BHC, LEAST))
        parts = {name: y_BHC[:, :, place] for place, name in enumerate(given.classes)}
        if "flat" not in parts:
            parts["flat"] = np.maximum(parts["down"], parts["up"]) + math.log(LEAST)
        return np.stack([parts[name] for name in CLASSES], axis=2)
