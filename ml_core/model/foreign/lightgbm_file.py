"""Reads the text that LightGBM saves a model as."""

import re
from typing import Any

import numpy as np

from ml_core.errors import ModelRefusedError, UnknownPartError
from ml_core.model.foreign.lightgbm_text import checked
from ml_core.model.foreign.port import Answers, Foreign, of_trees
from ml_core.model.trees import lightgbm_trees
from ml_core.model.trees_onnx import Voice
from ml_core.types import Float32, Float64

_VALUES = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")


def read_lightgbm(text: str) -> Foreign:
    """Return the model that ``Booster.save_model`` wrote.

    Raises:
        ModelRefusedError: ``unreadable``, ``too_large``, ``trees`` or ``objective``: it has a part that cannot be
            served. A retry will not help.
        UnknownPartError: LightGBM is not installed. A retry will not help.
    """
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise UnknownPartError(
            "a model of LightGBM needs lightgbm, which is not installed: pip install 'tickwise[train]'"
        ) from error
    if not text.startswith("tree\n"):  # what else it may hold is not LightGBM's to find out
        raise ModelRefusedError("unreadable: this is no text of a LightGBM model, which begins with a line 'tree'")
    text = checked(text)
    try:
        booster = lightgbm.Booster(model_str=text)
        dump: dict[str, Any] = booster.dump_model()
    except Exception as error:  # it raises whatever a damaged file leads to
        raise ModelRefusedError(f"unreadable: LightGBM cannot read the model: {error}") from error
    width, columns = int(dump["num_tree_per_iteration"]), int(dump["max_feature_idx"]) + 1
    scale, tells = _objective(str(dump.get("objective", "")))
    voices = [Voice(number % width, scale, tree) for number, tree in enumerate(lightgbm_trees(dump))]
    names = tuple(str(name) for name in dump["feature_names"])

    def expected(x_BX: Float32) -> Float64:
        raw = np.asarray(booster.predict(x_BX, raw_score=True), np.float64)
        return scale * raw.reshape(len(x_BX), width)

    return of_trees(
        "lightgbm",
        voices,
        [0.0] * width,
        columns=columns,
        tells=tells,
        names=names if not re.fullmatch(r"Column_\d+", names[0]) else (),
        engine="LightGBM",
        expected=expected,
    )


def _objective(text: str) -> tuple[float, Answers | None]:
    """Return by what the sum of trees is multiplied, and what it is then."""
    name, _, options = text.partition(" ")
    if text in _VALUES:
        return 1.0, "value"
    if name == "multiclass":
        return 1.0, "logits"
    if name == "binary":
        slope = re.search(r"sigmoid:(\S+)", options)
        return float(slope[1]) if slope else 1.0, "logits"
    if name in ("", "none", "custom"):
        return 1.0, None
    raise ModelRefusedError(
        f"objective: {text!r} is not supported; {', '.join((*_VALUES, 'binary', 'multiclass'))} are"
    )
