"""Arrays that stand in memory only as far as they are being read: files without a name, mapped.

They lie in the folder for temporary files, which has to be on a disk, and are gone with the last array that reads them,
however the process ends.
"""

import tempfile
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

ROWS_AT_ONCE = 65_536

Scalar = TypeVar("Scalar", bound=np.generic)


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> "np.memmap[Any, Any]":
    """Return an array of zeros on disk, to be written and read."""
    with tempfile.TemporaryFile(prefix="tickwise-") as file:  # the mapping keeps it until the array goes
        if not all(shape):
            raise ValueError(f"an array of shape {shape} holds nothing to map")
        return np.memmap(file, dtype, "w+", shape=shape)


def moved(values: npt.NDArray[Scalar]) -> "np.memmap[Any, np.dtype[Scalar]]":
    """Return a copy of ``values`` on disk."""
    copy = empty(values.shape, values.dtype)
    for start in range(0, len(values), ROWS_AT_ONCE):
        copy[start : start + ROWS_AT_ONCE] = values[start : start + ROWS_AT_ONCE]
    copy.flush()
    return copy
