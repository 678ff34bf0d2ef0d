"""What a row tells besides numbers: which features are missing, and codes that name a kind. Frozen in the contract.

Shapes: I training rows, N rows, F features, X inputs of a model; see `ml_core.contract.Places`.
"""

from collections.abc import Sequence

import numpy as np

from ml_core.contract import Encoding, Places, Scaler
from ml_core.data_processor.scaling import scale
from ml_core.errors import InputError
from ml_core.sections import Features
from ml_core.types import Float32

MOST_CODES = 64  # of a category: more are no kinds but numbers
FEWEST_ROWS = 10  # of a code; rarer ones stand with those never seen, so that a model learns what these are worth
_LARGEST = 2**24  # up to which float32 holds every whole number


def fit_encoding(x_IF: Float32, names: Sequence[str], asked: Features) -> Encoding:
    """Return what ``asked`` says, fitted on training rows: features missing in some, and the codes of each category.

    Raises:
        InputError: A category holds what is no code, or too many of them. A retry will not help.
    """
    column = {name: x_IF[:, place] for place, name in enumerate(names)}
    numbers = [name for name in names if name not in asked.categories]
    return Encoding(
        missing=tuple(n for n in numbers if np.isnan(column[n]).any()) if asked.missing == "indicator" else (),
        codes={name: _codes(name, column[name]) for name in names if name in asked.categories},
    )


def encode(x_NF: Float32, scaler: Scaler, places: Places) -> Float32:
    """Return what a model sees of raw rows, float32 (N, X), as its graph computes it.

    >>> book = Encoding(codes={"a": (0, 2)}).places(("a", "b"))
    >>> rows = np.array([[2, 3], [7, 3], [np.nan, 3]], np.float32)
    >>> encode(rows, Scaler(median=(0, 1), iqr=(1, 2)), book).tolist()
    [[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    """
    z_NF = scale(x_NF, scaler)
    if not places.missing_M + places.coded_G:
        return z_NF
    is_code_NC = x_NF[:, list(places.source_C)] == np.array(places.code_C, np.float32)
    is_other_NG = ~np.isnan(x_NF[:, list(places.coded_G)])
    for place, group in enumerate(places.group_C):
        is_other_NG[:, group] &= ~is_code_NC[:, place]
    parts = (z_NF[:, list(places.number_N)], np.isnan(x_NF[:, list(places.missing_M)]), is_code_NC, is_other_NG)
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


def _codes(name: str, x_I: Float32) -> tuple[int, ...]:
    code_K, rows_K = np.unique(x_I[~np.isnan(x_I)], return_counts=True)
    wrong_K = code_K[(code_K != np.floor(code_K)) | (np.abs(code_K) > _LARGEST)]
    if len(wrong_K):
        raise InputError(f"features.categories: {name!r} holds {float(wrong_K[0]):g}, which is no code: a whole number")
    if len(code_K) > MOST_CODES:
        raise InputError(f"features.categories: {name!r} has {len(code_K)} codes, at most {MOST_CODES} are encoded")
    if not (rows_K >= FEWEST_ROWS).any():
        raise InputError(f"features.categories: {name!r} has no code in as many as {FEWEST_ROWS} rows to train on")
    return tuple(int(code) for code in code_K[rows_K >= FEWEST_ROWS])
