"""Train, validation and hold-out samples: cut by one event time each, and purged.

    time  ------- train -------|-- validation --|-- holdout --
          a label that ends here ^ past the cut would show the next part to the model: such samples are left out

Shapes: N samples, H horizons.
"""

from typing import NamedTuple

import numpy as np

from ml_core.types import Int64


class Split(NamedTuple):
    """Sample numbers of each part, ascending, and the event times that part them."""

    train_I: Int64
    validation_I: Int64
    holdout_I: Int64
    cuts_ns: tuple[int, int]
    purged: int


def split(ts_ns_N: Int64, end_ns_NH: Int64, *, validation: float, holdout: float) -> Split:
    """Return samples split by event time, so that no label of a part ends at or past the next cut.

    Args:
        ts_ns_N: Event times of the samples; at least one.
        end_ns_NH: Ends of their labels.
        validation: Share of the samples between the two cuts.
        holdout: Share of the samples from the second cut on.
    """
    ordered_N = np.sort(ts_ns_N)
    last = len(ordered_N) - 1
    first_cut, second_cut = (
        int(ordered_N[min(last, round(len(ordered_N) * (1 - share)))]) for share in (validation + holdout, holdout)
    )
    end_N = end_ns_NH.max(axis=1)
    before_N, late_N = ts_ns_N < first_cut, ts_ns_N >= second_cut
    between_N = ~before_N & ~late_N
    train_N, validation_N = before_N & (end_N < first_cut), between_N & (end_N < second_cut)
    return Split(
        np.flatnonzero(train_N),
        np.flatnonzero(validation_N),
        np.flatnonzero(late_N),
        (first_cut, second_cut),
        int((before_N & ~train_N).sum() + (between_N & ~validation_N).sum()),
    )
