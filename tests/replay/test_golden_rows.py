"""Rows of stated ticks, kept on file: a kernel that gives other values must have another version.

``python -m tests.replay.test_golden_rows`` writes the file of the present kernel version.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ml_core import frames
from ml_core.data_processor.catalogue import CATALOGUE
from ml_core.data_processor.features import KERNEL_VERSION, FeaturePlan
from ml_core.data_processor.samples import rows_of
from ml_core.spec import parse

GOLDEN = Path(__file__).parent / f"rows-kernel-{KERNEL_VERSION}.csv"
EVERY = 25  # of the rows, one is kept


def ticks() -> pd.DataFrame:
    """Return ticks made by whole numbers alone, so that no library's random numbers are in it."""
    n = np.arange(1500)
    is_trade = n * 7919 % 10 < 4
    step_ns = np.where(n % 13 == 0, 0, n * 104_729 % 160_000_000) + np.where(n == 700, 75_000_000_000, 0)
    cents = 10_000 + n * 31 % 37 + n * 17 % 23
    missing = np.full(len(n), np.nan)
    return frames.build(
        ts_ns=1_700_000_000_000_000_000 + np.cumsum(step_ns) - np.where(n % 97 == 5, 250_000_000, 0),
        symbol=frames.category(n * n % 3 % 2, ["A", "B"]),
        kind=np.where(is_trade, 0, 1).astype(np.int8),
        price=np.where(is_trade, cents / 100, missing),
        size=np.where(is_trade, 1 + n * 11 % 7, missing),
        side=np.where(is_trade, n * 29 % 3 - 1, 0),
        bid=np.where(is_trade, missing, (cents - 1 - n % 2) / 100),
        ask=np.where(is_trade, missing, (cents + 1) / 100),
        bid_size=np.where(is_trade, missing, 1 + n * 13 % 19),
        ask_size=np.where(is_trade, missing, 1 + n * 5 % 17),
        seq=n - (n % 50 == 49),
    )


def rows() -> pd.DataFrame:
    plan = FeaturePlan.from_spec(parse({"name": "golden", "features": {"use": list(CATALOGUE)}}))
    made = rows_of(ticks(), plan)
    table = pd.DataFrame(made.x_NF, columns=list(plan.names))
    table.insert(0, "flags", made.flags_N)
    table.insert(0, "spread", made.spread_N)
    table.insert(0, "mid", made.mid_N)
    table.insert(0, "offset", made.offset_N)
    return table.iloc[::EVERY].reset_index(drop=True)


def test_rows_are_those_on_file() -> None:
    golden = pd.read_csv(GOLDEN)
    # exp and log of two machines' C libraries may differ in the last bit of a float64
    pd.testing.assert_frame_equal(rows(), golden, check_dtype=False, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    rows().to_csv(GOLDEN, index=False, float_format="%.9g")
