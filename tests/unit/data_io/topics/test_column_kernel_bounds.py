"""The kernels of columns read and write nothing behind what they are given, which ends where a page does.

Shapes: N rows, H horizons.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_io.topics import arrow_kernel, predictions, tick_arrow
from data_io.topics import prediction_kernel as kernel
from data_io.topics.prediction_arrow import ArrowPredictionEncoder
from data_io.topics.predictions import PredictionBatch, PredictionEncoder
from data_io.topics.record_batch import HEADER_BYTES
from data_io.topics.rows import RowEncoder
from ml_core.types import Float32, RowBatch, RowFlag
from tests.unit.data_io.topics.test_tick_kernel_bounds import ROOT, guarded

LAST = 2**63 - 1
SYMBOLS = ["A", "x" * 64, "𝄞" * 16, '"' * 64, "y" * 17]
EXTREMES = ["-0.0", "0.0", "1e-45", "-1e-45", "1.1754942e-38", "-1.1754944e-38", "3.4028235e38", "-3.4028235e38"]
EXTREMES += ["0.123456789", "-0.00012345679", "-1.2345679e-05", "123456.79", "-16777217", "999999999", "1e9", "nan"]


def placed(array: np.ndarray) -> np.ndarray:
    """Return a copy behind which lies a page that must not be touched."""
    if not array.nbytes:
        return array
    copy = np.frombuffer(guarded(array.nbytes)(array.tobytes()), array.dtype).reshape(array.shape)
    copy.flags.writeable = array.flags.writeable  # of another type, to numba, where it is not
    return copy


def room(size: int) -> np.ndarray:
    return placed(np.zeros(size, np.uint8))


def predicted(score_NH: Float32) -> PredictionBatch:
    """Return predictions with the longest numbers there are, and the shortest, and every other one not scored."""
    n = len(score_NH)
    long_N = np.where(np.arange(n) % 3 > 0, LAST, 0)
    index_N, symbol_N = np.full(n, 2**31 - 1, np.int32), (np.arange(n) % len(SYMBOLS)).astype(np.int32)
    flags_N = np.where(np.arange(n) % 7 == 6, RowFlag.NO_CALENDAR, 0).astype(np.uint8)
    return PredictionBatch(long_N, index_N, symbol_N, long_N, score_NH, flags_N, np.arange(n) % 5 != 4, SYMBOLS)


def write_json() -> None:
    """Write every row alone, into as many bytes as it has and SLACK."""
    bits_N = np.random.default_rng(5).integers(0, 2**32, 60, np.uint32)
    score_N = np.concatenate([np.array(EXTREMES, np.float32), bits_N.view(np.float32)])
    for horizons in (1, 3):
        horizons_ns = [10**9 * (h + 1) for h in range(horizons)]
        encoder = PredictionEncoder(
            topic_id="t" * 22, partition=2**31 - 1, horizons_ns=horizons_ns, model="m", version=2**31 - 1
        )
        batch = predicted(np.stack([np.roll(score_N, 5 * h) for h in range(horizons)], axis=1))
        values, columns, texts = encoder.values(batch), predictions._columns(batch), encoder._texts(batch)
        row, symbols = (kernel.Pieces(*map(placed, pieces)) for pieces in (texts.row, texts.symbols))
        texts = texts._replace(row=row, symbols=symbols, state_F=placed(texts.state_F))
        for n, (_, value) in enumerate(values):
            one = kernel.Columns(*(placed(column[n : n + 1]) for column in columns))
            buffer, end_1 = room(len(value) + kernel.SLACK), placed(np.zeros(1, np.int64))
            kernel.write_values(one, texts, buffer, end_1)
            assert buffer[: end_1[0]].tobytes() == value

            [made] = encoder.record_batches(PredictionBatch(*one, SYMBOLS))
            record = made.data[HEADER_BYTES:].tobytes()
            assert len(record) <= encoder._record_bytes
            buffer = room(len(record) + kernel.SLACK)
            assert kernel.write_records(one, texts, 0, buffer, 0, len(record)) == (1, len(record))
            assert buffer[: len(record)].tobytes() == record


def write_arrow() -> None:
    """Write every batch a second time, into as many bytes as it has and SLACK."""
    write, batches = arrow_kernel.write_records, []

    def write_twice(plan: Any, symbols: Any, columns: Any, first: int, step: int, limit: int, buffer: Any) -> Any:
        made = _, used, _ = write(plan, symbols, columns, first, step, limit, buffer)
        plan, symbols = arrow_kernel.Plan(*map(placed, plan)), arrow_kernel.SymbolTexts(*map(placed, symbols))
        exact = room(used + arrow_kernel.SLACK)
        assert write(plan, symbols, tuple(map(placed, columns)), first, step, limit, exact) == made
        assert exact[:used].tobytes() == buffer[:used].tobytes()
        batches.append(used)
        return made

    arrow_kernel.write_records = write_twice
    for count in (1, 7, 8, 9, 65, 4097):
        score_N = np.resize(np.array(EXTREMES, np.float32), count)
        for horizons in (1, 3):
            encoder = ArrowPredictionEncoder(
                topic_id="t", partition=2**31 - 1, horizons_ns=[10**9, 10**10, 10**11][:horizons], model="m", version=1
            )
            encoder.record_batches(predicted(np.stack([score_N] * horizons, axis=1)))
        made, x_N3 = predicted(score_N[:, None]), np.stack([score_N] * 3, axis=1)
        where = (made.offset_N, made.index_N, made.symbol_N, made.ts_ns_N)
        rows = RowBatch(*where, np.ones(count), np.full(count, np.nan), x_N3, made.flags_N, SYMBOLS)
        RowEncoder(["a", "b", "c"], "cafe", 7).record_batches(rows)
    assert len(batches) >= 18


class GuardedNumpy:
    """NumPy of which every new array ends where a page does."""

    def __getattr__(self, name: str) -> Any:
        made = getattr(np, name)
        return (lambda *args, **more: placed(made(*args, **more))) if name in ("empty", "full", "concatenate") else made


def ticks(count: int, seed: int) -> pa.RecordBatch:
    """Return ticks of which some are wrong, and nulls anywhere."""
    rng = np.random.default_rng(seed)

    def some(values: Sequence[object]) -> list[object]:
        return [None if rng.random() < 0.1 else values[i] for i in rng.integers(0, len(values), count)]

    names = ("price", "size", "bid", "ask", "bid_size", "ask_size")
    columns = {name: pa.array(some([1.5, 1.5, 5e-324, 1.7e308]), pa.float64()) for name in names}
    columns |= {name: pa.array(some([LAST, 1, 10**18, 10**18]), pa.int64()) for name in ("ts", "seq")}
    texts = {"symbol": SYMBOLS, "type": ["trade", "quote", "trades!", ""], "side": ["buy", "sell", "sold"]}
    columns |= {name: pa.array(some(values), pa.string()) for name, values in texts.items()}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def relaid(batch: pa.RecordBatch, lie: Callable[[np.ndarray], None] | None = None) -> pa.RecordBatch:
    """Return the same columns with every buffer as small as it can be, at the end of a page; offsets may lie."""
    rows, columns = batch.num_rows, []
    for column in batch.columns:
        is_text, buffers = pa.types.is_string(column.type), []
        for part, buffer in enumerate(column.buffers()):
            sizes = [-(-rows // 8), 4 * (rows + 1), None] if is_text else [-(-rows // 8), 8 * rows]
            data = None if buffer is None else np.frombuffer(buffer, np.uint8)[: sizes[part]].copy()
            if is_text and part == 1 and lie is not None:
                lie(data.view(np.int32))
            at = None if data is None else placed(data)
            buffers.append(at if at is None else pa.foreign_buffer(at.ctypes.data, at.nbytes, base=at))
        columns.append(pa.Array.from_buffers(column.type, rows, buffers, column.null_count))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def read_arrow() -> None:
    """Read columns as they are and as their offsets lie."""
    rng, valid = np.random.default_rng(6), 0

    def lie(offset_M: np.ndarray) -> None:
        if len(offset_M) > 2:  # the outer ones Arrow looks at itself
            offset_M[rng.integers(1, len(offset_M) - 1)] = rng.choice([-1, 0, 3, 200, 2**31 - 1, -(2**31)])

    for count in (1, 7, 8, 9, 63, 64, 65, 129, 200):
        for seed in range(4):
            batch = ticks(count, seed)
            expected = tick_arrow._columns(batch)
            tick_arrow.np = GuardedNumpy()
            found = tick_arrow._columns(relaid(batch))
            tick_arrow._columns(relaid(batch, lie))
            tick_arrow.np = np
            if expected is not None and found is not None:
                kept_N = expected.is_valid_N
                valid += np.count_nonzero(kept_N)
                for a, b in zip(expected.rows, found.rows, strict=True):
                    assert a[kept_N].tobytes() == b[kept_N].tobytes()
                assert (expected.names, str(expected.bad)) == (found.names, str(found.bad))
            assert (expected is None) == (found is None)
    assert valid > 200


USES: dict[str, Callable[[], None]] = {"json": write_json, "arrow": write_arrow, "ticks": read_arrow}


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
@pytest.mark.parametrize("name", list(USES))
def test_no_byte_behind_is_touched(name: str) -> None:
    run = [sys.executable, "-m", "tests.unit.data_io.topics.test_column_kernel_bounds", name]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


if __name__ == "__main__":
    USES[sys.argv[1]]()
