"""One order and one hash for the samples of equal ticks, whatever way partitions or files brought them in.

Shapes: N samples, T rows of a window, F features, H horizons, S symbols.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.data_processor.splits import Cut
from ml_core.types import Float32, Int32, Int64

_CHUNK = 65_536  # samples whose windows are held at once
_FORM = "2"  # raised whenever equal data sets come to have another hash


def rank(symbols: Sequence[str]) -> Int32:
    """Return the place (S,) of each name among the sorted names.

    >>> rank(["b", "c", "a"]).tolist()
    [1, 2, 0]
    """
    rank_S = np.empty(len(symbols), np.int32)
    rank_S[sorted(range(len(symbols)), key=symbols.__getitem__)] = np.arange(len(symbols), dtype=np.int32)
    return rank_S


def order(ts_ns_N: Int64, rank_N: Int32) -> Int64:
    """Return the places of samples by time, then name of the symbol, then arrival within the symbol."""
    return np.lexsort((rank_N, ts_ns_N))  # stable, and samples of one symbol come in arrival order


def dataset_hash(  # one argument a column
    names: Sequence[str],
    symbol_N: Sequence[str] | npt.NDArray[np.str_],
    x_MF: Float32,
    idx_NT: Int32,
    columns: Sequence[npt.NDArray[Any]],
    cut: Cut,
) -> str:
    """Return the SHA-256 of a data set in canonical order behind its form: names, windows, columns, cut; little endian.

    Args:
        names: Of the features.
        symbol_N: Name of the symbol of each sample.
        x_MF: Rows.
        idx_NT: Rows of each window.
        columns: What else belongs to each sample: all that training reads, and all that its figures are of.
        cut: What parts them.
    """
    digest = sha256("\n".join([*names, f"cut={list(cut)}", f"window={idx_NT.shape[1]}"]).encode())
    digest.update("\n".join(symbol_N).encode())
    for start in range(0, len(idx_NT), _CHUNK):
        digest.update(x_MF[idx_NT[start : start + _CHUNK]].astype("<f4", copy=False).tobytes())
    for column in columns:
        plain = column.astype(column.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{plain.dtype.str}{plain.shape}".encode() + np.ascontiguousarray(plain).tobytes())
    return f"{_FORM}:{digest.hexdigest()}"


def form(hash_: str) -> str:
    """Return the form of a hash of `dataset_hash`: hashes of unequal forms say nothing of each other.

    >>> form("2:ab12"), form("ab12")
    ('2', '')
    """
    return hash_.rpartition(":")[0]
