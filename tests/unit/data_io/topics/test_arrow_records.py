"""The kernel that writes Arrow stays inside of the buffer it is given, and compiles once for each topic."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from data_io.topics import arrow_kernel, prediction_arrow, rows
from data_io.topics.prediction_arrow import ArrowPredictionEncoder
from data_io.topics.predictions import PredictionBatch
from data_io.topics.rows import RowEncoder
from ml_core.types import RowBatch

GUARD = 64
SYMBOLS = {"short": ["A"], "long": ["𝄞" * 16], "mixed": ["A", "𝄞" * 16, "y" * 17]}


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """What lies on both sides of every new buffer of bytes."""
    rows.warm_up()  # numba would take what stands in for np.empty for a function it does not know
    prediction_arrow.warm_up()
    empty, found = np.empty, []

    def guarded(shape: Any, dtype: Any = float, **more: Any) -> np.ndarray:
        if not isinstance(shape, int) or dtype is not np.uint8:
            return empty(shape, dtype, **more)
        whole = np.full(GUARD + shape + GUARD, 0xA5, np.uint8)
        found.extend((whole[:GUARD], whole[GUARD + shape :]))
        return whole[GUARD : GUARD + shape]

    monkeypatch.setattr(np, "empty", guarded)
    yield found
    monkeypatch.undo()


@pytest.mark.parametrize("symbols", list(SYMBOLS))
@pytest.mark.parametrize("count", [1, 7, 8, 9, 4096, 4097, 20_000])
def test_no_byte_outside_of_the_buffer_is_written(guards: list[np.ndarray], symbols: str, count: int) -> None:
    names, zero_N, int_N = SYMBOLS[symbols], np.zeros(count), np.zeros(count, np.int32)
    offset_N = np.full(count, 2**63 - 1)
    symbol_N = (np.arange(count) % len(names)).astype(np.int32)
    ok_N, flags_N = np.arange(count) % 3 > 0, np.zeros(count, np.uint8)
    x_NF, score_NH = np.ones((count, 3), np.float32), np.ones((count, 2), np.float32)

    made = RowEncoder(["a", "b", "c"], "cafe", 7).record_batches(
        RowBatch(offset_N, int_N, symbol_N, offset_N, zero_N, zero_N, x_NF, flags_N, names)
    )
    made += ArrowPredictionEncoder(
        topic_id="a-b", partition=7, horizons_ns=[10**9, 10**10], model="btc", version=1
    ).record_batches(PredictionBatch(offset_N, int_N, symbol_N, offset_N, score_NH, flags_N, ok_N, names))

    assert len(guards) == 2 * len(made)
    assert all((guard == 0xA5).all() for guard in guards)


def test_what_was_warmed_up_is_not_compiled_again() -> None:
    rows.warm_up()
    prediction_arrow.warm_up()
    before = len(arrow_kernel.write_records.signatures)
    int_N, long_N, ok_N = np.zeros(9, np.int32), np.zeros(9, np.int64), np.ones(9, np.bool_)
    score_NH = np.ones((9, 3), np.float32)
    flags_N = np.zeros(9, np.uint8)

    RowEncoder(["a", "b"], "cafe", 7).record_batches(
        RowBatch(long_N, int_N, int_N, long_N, np.ones(9), np.ones(9), score_NH[:, :2], flags_N, ["A"])
    )
    ArrowPredictionEncoder(
        topic_id="a-b", partition=7, horizons_ns=[10**9, 10**10, 10**11], model="btc", version=1
    ).record_batches(PredictionBatch(long_N, int_N, int_N, long_N, score_NH, flags_N, ok_N, ["A"]))

    assert len(arrow_kernel.write_records.signatures) == before
