"""Small random changes of training windows, so that a model does not learn them by heart; off unless asked for.

Shapes: B samples, T rows of a window, F features.
"""

import numpy as np

from ml_core.data_loader.arrays import Augment
from ml_core.types import Float32


def jitter(spread_F: Float32, strength: float) -> Augment:
    """Return a change that adds noise to every value.

    Args:
        spread_F: The usual spread of each feature, such as its interquartile range.
        strength: Standard deviation of the noise as a share of that spread.
    """

    def change(x_BTF: Float32, rng: np.random.Generator) -> Float32:
        noise_BTF = rng.standard_normal(x_BTF.shape, dtype=np.float32)
        return x_BTF + np.float32(strength) * spread_F * noise_BTF

    return change


def scaling(center_F: Float32, strength: float) -> Augment:
    """Return a change that stretches each window about ``center_F`` by one factor a sample and feature.

    Args:
        center_F: The point that stays, such as the median of each feature.
        strength: Standard deviation of the factor around 1.
    """

    def change(x_BTF: Float32, rng: np.random.Generator) -> Float32:
        shape = (len(x_BTF), 1, x_BTF.shape[2])
        factor_B1F = 1 + np.float32(strength) * rng.standard_normal(shape, dtype=np.float32)
        return center_F + factor_B1F * (x_BTF - center_F)

    return change


def chain(*changes: Augment) -> Augment:
    """Return a change that applies ``changes`` one after the other."""

    def change(x_BTF: Float32, rng: np.random.Generator) -> Float32:
        for one in changes:
            x_BTF = one(x_BTF, rng)
        return x_BTF

    return change
