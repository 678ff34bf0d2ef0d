"""Features of a user's own: plain classes named ``module:Class`` in ``features.use``.

Such a class has ``width``, the floats of state it wants for each symbol (0 at a symbol's first tick), and

    update(ticks: TickBatch, state_SK: np.ndarray) -> np.ndarray  # (N,)

which moves ``state_SK[ticks.symbol_N]`` over the ticks in order and returns one value a tick. It sees every tick that
counts, of all kinds; batches may be cut anywhere, so whatever it must remember lies in its state.
"""

import hashlib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ml_core.errors import InputError, SpecError
from ml_core.parts import find_part
from ml_core.types import Float32, Float64, TickBatch

MAX_WIDTH = 128  # floats a symbol: 1 KB


class OwnFeature(NamedTuple):
    """A user's feature, ready to run."""

    name: str
    width: int
    part: Any  # the user's object
    column: int  # of a row
    code_hash: str  # of the class's source: other code gives other values, so it is part of the feature hash

    def anew(self) -> "OwnFeature":
        """Return the feature with an object of its own; raises SpecError as ``find_own`` does."""
        return self._replace(part=_built(type(self.part), self.name))


def find_own(text: str, folder: Path | None, column: int) -> OwnFeature:
    """Return the feature that ``text``, such as ``my_features:VwapGap``, names.

    Raises:
        UnknownPartError: There is no such class.
        SpecError: The class is not a feature.
    """
    cls = find_part(text, folder, key="features.use")
    part = _built(cls, text)
    width = getattr(part, "width", None)
    if not isinstance(width, int) or not 0 <= width <= MAX_WIDTH:
        raise SpecError(f"features.use: {text!r} needs an attribute width, an int from 0 to {MAX_WIDTH}")
    if not callable(getattr(part, "update", None)):
        raise SpecError(f"features.use: {text!r} needs a method update(ticks, state_SK) that returns one value a tick")
    name = getattr(part, "name", text)
    if not isinstance(name, str) or not name:
        raise SpecError(f"features.use: the name of {text!r} must be a text")
    return OwnFeature(name, width, part, column, _code_hash(cls))


def evaluate(own: OwnFeature, ticks: TickBatch, state_SK: Float64) -> Float32:
    """Return the values (N,) of an own feature, NaN where it gives no finite number.

    Raises:
        InputError: It raised, or returned something else than one number a tick. A retry will not help.
    """
    try:
        value_N = np.asarray(own.part.update(ticks, state_SK), dtype=np.float64)
    except Exception as error:
        raise InputError(f"own feature {own.name!r} failed: {type(error).__name__}: {error}") from error
    if value_N.shape != (len(ticks),):
        raise InputError(f"own feature {own.name!r} returned shape {value_N.shape} for {len(ticks)} ticks")
    is_number_N = np.abs(value_N) <= np.finfo(np.float32).max
    return np.where(is_number_N, value_N, np.nan).astype(np.float32)


def _built(cls: type, text: str) -> Any:
    try:
        return cls()
    except Exception as error:  # a user's own code may fail in any way
        raise SpecError(f"features.use: {text!r} cannot be built: {type(error).__name__}: {error}") from error


def _code_hash(cls: type) -> str:
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # a class without source, such as one typed into a shell
        source = f"{cls.__module__}:{cls.__qualname__}"
    return hashlib.sha256(source.encode()).hexdigest()[:16]
