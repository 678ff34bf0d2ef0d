"""Train, validation and hold-out samples: cut by one event time each, purged, and kept apart by an embargo.

    time  ------- train -------|. embargo .|-- validation --|. embargo .|-- holdout --
          a label that ends here ^ past the cut would show the next part to the model: such samples are left out

Shapes: N samples, H horizons.
"""

from typing import NamedTuple

import numpy as np

from ml_core.types import Int64


class Cut(NamedTuple):
    """Event times, ns, that part the samples."""

    validation_ns: int  # the first of validation
    holdout_ns: int  # the first of hold-out
    end_ns: int | None = None  # samples from here on are in no part; their labels may end later
    embargo_ns: int = 0  # so long after each cut no part has samples


class Split(NamedTuple):
    """Sample numbers of each part, ascending, and what parts them."""

    train_I: Int64
    validation_I: Int64
    holdout_I: Int64
    cut: Cut
    purged: int
    embargoed: int


def cut_by_shares(ts_ns_N: Int64, *, validation: float, holdout: float, embargo_ns: int = 0) -> Cut:
    """Return the cut behind which the last shares of the samples (N, at least one) lie.

    Args:
        ts_ns_N: Event times of the samples.
        validation: Share of the samples between the two cuts.
        holdout: Share of the samples from the second cut on.
        embargo_ns: Of the cut.
    """
    ordered_N = np.sort(ts_ns_N)
    last = len(ordered_N) - 1
    first_cut, second_cut = (
        int(ordered_N[min(last, round(len(ordered_N) * (1 - share)))]) for share in (validation + holdout, holdout)
    )
    return Cut(first_cut, second_cut, embargo_ns=embargo_ns)


def split(ts_ns_N: Int64, end_ns_NH: Int64, cut: Cut) -> Split:
    """Return samples split by event time, so that no label of a part ends at or past the next cut.

    Args:
        ts_ns_N: Event times of the samples.
        end_ns_NH: Ends of their labels.
        cut: What parts them.
    """
    end_N = end_ns_NH.max(axis=1)
    in_time_N = np.ones(len(ts_ns_N), np.bool_) if cut.end_ns is None else ts_ns_N < cut.end_ns
    before_N, late_N = ts_ns_N < cut.validation_ns, in_time_N & (ts_ns_N >= cut.holdout_ns)
    between_N = in_time_N & (ts_ns_N >= cut.validation_ns) & (ts_ns_N < cut.holdout_ns)
    train_N, validation_N = before_N & (end_N < cut.validation_ns), between_N & (end_N < cut.holdout_ns)
    purged = int((before_N & ~train_N).sum() + (between_N & ~validation_N).sum())
    in_embargo_N = validation_N & (ts_ns_N < cut.validation_ns + cut.embargo_ns)
    in_embargo_N |= late_N & (ts_ns_N < cut.holdout_ns + cut.embargo_ns)
    return Split(
        np.flatnonzero(train_N),
        np.flatnonzero(validation_N & ~in_embargo_N),
        np.flatnonzero(late_N & ~in_embargo_N),
        cut,
        purged,
        int(in_embargo_N.sum()),
    )
