"""How the learning rate moves: a pure function of steps taken and validation losses seen."""

import math
from collections.abc import Sequence

ONE_CYCLE_RISE = 0.3  # share of all steps in which the rate rises
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-4
PLATEAU_FACTOR = 0.5  # after an epoch without a better validation loss


def rate_factor(
    schedule: str, step: int, steps: int, *, warm_up_steps: int = 0, validation_losses: Sequence[float] = ()
) -> float:
    """Return what the learning rate is multiplied by at ``step``, counted from 0, of ``steps`` at most.

    ``one_cycle`` source: Smith and Topin, 2018, "Super-convergence"; the rate alone, the momentum stays.

    Args:
        schedule: ``constant``, ``cosine``, ``one_cycle`` or ``plateau``.
        step: Steps taken before this one.
        steps: Steps of all epochs; early stopping may end before.
        warm_up_steps: Steps in which the factor grows from near 0 to what the schedule says.
        validation_losses: After each epoch so far, epoch 0 first; ``plateau`` halves after each that is no better.

    >>> rate_factor("cosine", 50, 100), rate_factor("constant", 1, 100, warm_up_steps=4)
    (0.5, 0.5)
    """
    warm = min(1.0, (step + 1) / warm_up_steps) if warm_up_steps else 1.0
    if schedule == "cosine":
        return warm * _between(1.0, 0.0, step / steps)
    if schedule == "one_cycle":
        peak = ONE_CYCLE_RISE * steps
        if step < peak:
            return warm * _between(ONE_CYCLE_START, 1.0, step / peak)
        return warm * _between(1.0, ONE_CYCLE_END, (step - peak) / (steps - peak))
    if schedule == "plateau":
        return warm * PLATEAU_FACTOR ** _worse(validation_losses)
    return warm


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _worse(losses: Sequence[float]) -> int:
    best, worse = math.inf, 0
    for loss in losses:
        if loss < best:
            best = loss
        else:
            worse += 1
    return worse
