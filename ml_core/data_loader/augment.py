"""Small random changes of training batches, so that a model does not learn them by heart; off unless asked for.

No change lets a window see behind its newest row: that one stays where it is, and keeps its label.

Shapes: B samples, T rows of a window, F features, K knots of a curve.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ml_core.data_loader.arrays import Augment
from ml_core.quantities import parse_augment
from ml_core.types import Batch, Float32, Float64

KNOTS = 4  # a curve with more is noise, and one with fewer a slope


def jitter(spread_F: Float32, strength: float) -> Augment:
    """Return a change that adds noise to every value.

    Args:
        spread_F: The usual spread of each feature, such as its interquartile range.
        strength: Standard deviation of the noise as a share of that spread.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        noise_BTF = rng.standard_normal(batch.x_BTF.shape, dtype=np.float32)
        return batch._replace(x_BTF=batch.x_BTF + np.float32(strength) * spread_F * noise_BTF)

    return change


def scaling(center_F: Float32, strength: float) -> Augment:
    """Return a change that stretches each window about ``center_F`` by one factor a sample and feature.

    Args:
        center_F: The point that stays, such as the median of each feature.
        strength: Standard deviation of the factor around 1.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        shape = (len(batch.x_BTF), 1, batch.x_BTF.shape[2])
        factor_B1F = 1 + np.float32(strength) * rng.standard_normal(shape, dtype=np.float32)
        return batch._replace(x_BTF=center_F + factor_B1F * (batch.x_BTF - center_F))

    return change


def magnitude_warp(center_F: Float32, strength: float) -> Augment:
    """Return a change that stretches each window about ``center_F`` by a factor that moves along it.

    Source: Um et al. 2017, "Data augmentation of wearable sensor data"; straight between knots instead of a spline.

    Args:
        center_F: The point that stays.
        strength: Standard deviation of the factor around 1, at its knots.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        size, rows, features = batch.x_BTF.shape
        knot_BKF = 1 + np.float32(strength) * rng.standard_normal((size, KNOTS, features), dtype=np.float32)
        place_BT = np.broadcast_to(np.linspace(0, KNOTS - 1, rows), (size, rows))
        return batch._replace(x_BTF=center_F + _between(knot_BKF, place_BT) * (batch.x_BTF - center_F))

    return change


def time_warp(strength: float) -> Augment:
    """Return a change that runs through each window faster here and slower there, from its oldest row to its newest.

    Args:
        strength: Standard deviation of the logarithm of the speed, at its knots.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        size, rows, _ = batch.x_BTF.shape
        if rows == 1:
            return batch
        speed_BK1 = np.exp(strength * rng.standard_normal((size, KNOTS, 1)))
        place_BT = np.broadcast_to(np.linspace(0, KNOTS - 1, rows - 1), (size, rows - 1))
        gone_BT = np.cumsum(_between(speed_BK1, place_BT)[:, :, 0], axis=1)
        place_BT = np.concatenate([np.zeros((size, 1)), gone_BT / gone_BT[:, -1:] * (rows - 1)], axis=1)
        return batch._replace(x_BTF=_between(batch.x_BTF, place_BT))

    return change


def window_slicing(least: float) -> Augment:
    """Return a change that cuts off the oldest rows of each window and stretches the rest over all of it.

    Source: Le Guennec, Malinowski and Tavenard 2016; here a slice always ends with the newest row.

    Args:
        least: Smallest share of a window that is kept.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        size, rows, _ = batch.x_BTF.shape
        cut_B1 = rng.uniform(0, 1 - least, (size, 1)) * (rows - 1)
        place_BT = cut_B1 + (rows - 1 - cut_B1) * np.linspace(0, 1, rows)
        return batch._replace(x_BTF=_between(batch.x_BTF, place_BT))

    return change


def mixup(alpha: float) -> Augment:
    """Return a change that mixes each sample with another one: rows, weight and numbers to predict.

    A class is drawn, with the shares of the mixture as odds: on average that is the loss of the mixed label.

    Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization".

    Args:
        alpha: Of the beta distribution of the shares; small ones leave most samples nearly as they are.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        size = len(batch.weight_B)
        other_B = rng.permutation(size)
        share_B = rng.beta(alpha, alpha, size).astype(np.float32)
        drawn_B1 = rng.random((size, 1)) < share_B[:, None]

        def mixed(value: Float32) -> Float32:
            share = share_B.reshape(-1, *[1] * (value.ndim - 1))
            return np.asarray(share * value + (1 - share) * value[other_B], dtype=np.float32)

        is_class = batch.y_BH.dtype.kind == "i"
        y_BH = np.where(drawn_B1, batch.y_BH, batch.y_BH[other_B]) if is_class else mixed(batch.y_BH)
        return Batch(mixed(batch.x_BTF), y_BH, mixed(batch.weight_B))

    return change


def mirror(sign_F: Float32, share: float) -> Augment:
    """Return a change that mirrors samples: what rose falls, and bids are asks. The model learns no drift from them.

    Args:
        sign_F: What the mirror multiplies each feature by, 1 or -1.
        share: Of samples; half leaves none of the drift.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        is_mirrored_B1 = rng.random((len(batch.weight_B), 1)) < share
        last = 2 if batch.y_BH.dtype.kind == "i" else 0  # class 0 is a fall, 2 a rise
        y_BH = np.where(is_mirrored_B1, last - batch.y_BH, batch.y_BH)
        return batch._replace(x_BTF=np.where(is_mirrored_B1[:, :, None], sign_F, 1) * batch.x_BTF, y_BH=y_BH)

    return change


def chain(*changes: Augment) -> Augment:
    """Return a change that applies ``changes`` one after the other."""

    def change(batch: Batch, rng: np.random.Generator) -> Batch:
        for one in changes:
            batch = one(batch, rng)
        return batch

    return change


def asked_for(texts: Sequence[str], *, center_F: Float32, spread_F: Float32, sign_F: Float32) -> Augment | None:
    """Return the changes of ``train.augment`` in their order; None where there are none.

    Args:
        texts: Such as ``jitter 0.05``.
        center_F: Median of each feature, in the units of the rows that are to be changed.
        spread_F: Its interquartile range.
        sign_F: What mirroring the market multiplies it by.
    """
    makers: dict[str, Callable[[float], Augment]] = {
        "jitter": lambda strength: jitter(spread_F, strength),
        "scaling": lambda strength: scaling(center_F, strength),
        "magnitude_warp": lambda strength: magnitude_warp(center_F, strength),
        "time_warp": time_warp,
        "window_slicing": window_slicing,
        "mixup": mixup,
        "mirror": lambda share: mirror(sign_F, share),
    }
    changes = [makers[name](strength) for name, strength in map(parse_augment, texts)]
    return chain(*changes) if changes else None


def _between(value_BKF: Float32, place_BT: Float64) -> Float32:
    """Return the values (B, T, F) at places between the K values of each sample, on straight lines."""
    last = value_BKF.shape[1] - 1
    low_BT = np.clip(np.floor(place_BT).astype(np.int64), 0, last)
    share_BT1 = (place_BT - low_BT).astype(np.float32)[:, :, None]
    rows_B1 = np.arange(len(value_BKF))[:, None]
    low_BTF = value_BKF[rows_B1, low_BT]
    high_BTF = value_BKF[rows_B1, np.minimum(low_BT + 1, last)]
    # a place on a value is that value, also where the next one is missing
    return np.where(share_BT1 == 0, low_BTF, low_BTF + share_BT1 * (high_BTF - low_BTF)).astype(np.float32)
