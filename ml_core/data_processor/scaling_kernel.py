"""Scales feature rows in one pass, with the bits that `scaling.scale` and a model's own graph give.

Shapes: N rows, F features.
"""

from typing import Any

import numpy as np

from ml_core.compiled import njit
from ml_core.types import Float32


def scale_rows(x_NF: Float32, median_F: Float32, iqr_F: Float32, limit: np.float32) -> Float32:
    """Return ``clip((x - median) / iqr, -limit, limit)``, NaN as 0, float32 (N, F).

    ONNX Runtime broadcasts a row at a time, and takes as long for this as for the layers of a small model.
    """
    z_NF = np.empty_like(x_NF)
    _scale(x_NF, median_F, iqr_F, limit, z_NF)
    return z_NF


def warm_up() -> None:
    """Compile the kernel, or read it from its cache."""
    one = np.ones(1, np.float32)
    scale_rows(one[:, None], one, one, np.float32(1.0))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _scale(x_NF: Any, median_F: Any, iqr_F: Any, limit: Any, z_NF: Any) -> None:
    for n in range(x_NF.shape[0]):
        for f in range(x_NF.shape[1]):
            z = (x_NF[n, f] - median_F[f]) / iqr_F[f]
            z_NF[n, f] = min(max(z, -limit), limit) if z == z else np.float32(0.0)  # noqa: PLR0124 - not where z is NaN
