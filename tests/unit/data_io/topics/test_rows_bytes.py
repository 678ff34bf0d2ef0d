"""The records of rows are, byte for byte, those that pyarrow and the plain packing of records make."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_io.topics import rows as rows_topic
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import BATCH_BYTES, HEADER_BYTES, RecordBatch, pack, seal
from data_io.topics.rows import MAX_ROWS, RowEncoder
from ml_core.types import RowBatch

SYMBOLS = ["A", "BRK.B", "BTC-USDT", "Ä1", "日本", "x" * 15, "y" * 16, "z" * 17, "𝄞" * 16]  # up to the 64 bytes allowed


def rows_of(count: int, *, features: int = 16, symbols: list[str] = SYMBOLS, seed: int = 0) -> RowBatch:
    rng = np.random.default_rng(seed)
    return RowBatch(
        offset_N=np.cumsum(rng.integers(0, 1000, count)),
        index_N=rng.integers(0, 2**31 - 1, count).astype(np.int32),
        symbol_N=rng.integers(0, len(symbols), count).astype(np.int32),
        ts_ns_N=rng.integers(0, 2**62, count),
        mid_N=np.where(rng.random(count) < 0.1, np.nan, rng.normal(size=count)),
        spread_N=rng.normal(size=count),
        x_NF=rng.integers(0, 2**32, (count, features), np.uint32).view(np.float32),
        flags_N=rng.integers(0, 32, count).astype(np.uint8),
        symbols=symbols,
    )


def by_pyarrow(rows: RowBatch, names: list[str], hash: str, kernel_version: int) -> tuple:
    """Key, value and headers of one record."""
    about = {"names": json.dumps(names), "hash": hash, "kernel_version": str(kernel_version)}
    columns = {
        "offset": pa.array(rows.offset_N, pa.int64()),
        "index": pa.array(rows.index_N),
        "symbol": pa.array([rows.symbols[i] for i in rows.symbol_N]),
        "ts": pa.array(rows.ts_ns_N, pa.int64()),
        "mid": pa.array(rows.mid_N),
        "spread": pa.array(rows.spread_N),
        "flags": pa.array(rows.flags_N),
        "x": pa.FixedSizeListArray.from_arrays(pa.array(rows.x_NF.reshape(-1)), len(names)),
    }
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata=about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    first, last = str(rows.offset_N[0]).encode(), str(rows.offset_N[-1]).encode()
    headers = [
        ("content-type", b"application/vnd.apache.arrow.stream"),
        ("tickwise.schema-hash", hash.encode()),
        ("tickwise.offset-from", first),
        ("tickwise.offset-to", last),
    ]
    return None, sink.getvalue().to_pybytes(), headers


def in_steps(rows: RowBatch, step: int) -> list[RowBatch]:
    return [rows.select(slice(at, at + step)) for at in range(0, len(rows), step)]


def names_of(features: int) -> list[str]:
    return [f"feature_{f}" for f in range(features)]


def assert_same_bytes(made: list[RecordBatch], records: list[tuple]) -> None:
    at = 0
    for batch in made:
        [expected] = pack(records[at : at + batch.records])
        assert batch.data[HEADER_BYTES:].tobytes() == expected.data[HEADER_BYTES:].tobytes()
        at += batch.records
    assert at == len(records)


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 70),
    features=st.integers(1, 40),
    symbols=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=9),
    seed=st.integers(0, 2**32),
)
@example(count=1, features=1, symbols=["A"], seed=0)
@example(count=8, features=2, symbols=["", "x" * 64], seed=1)
def test_a_record_is_what_pyarrow_writes(count: int, features: int, symbols: list[str], seed: int) -> None:
    rows, names = rows_of(count, features=features, symbols=symbols, seed=seed), names_of(features)
    made = RowEncoder(names, "cafe", 7).record_batches(rows)
    assert_same_bytes(made, [by_pyarrow(rows, names, "cafe", 7)])


@pytest.mark.parametrize("count", [MAX_ROWS - 1, MAX_ROWS, MAX_ROWS + 1, 9000, 40_000])
def test_many_rows_are_cut_into_records_and_batches_within_their_bounds(count: int) -> None:
    rows, names = rows_of(count, seed=count), names_of(16)

    made = RowEncoder(names, "cafe", 7).record_batches(rows)

    assert_same_bytes(made, [by_pyarrow(part, names, "cafe", 7) for part in in_steps(rows, MAX_ROWS)])
    assert max(len(batch.data) for batch in made) <= HEADER_BYTES + BATCH_BYTES
    assert all(len(one.data) + len(next_one.data) > BATCH_BYTES for one, next_one in pairwise(made))


def test_symbols_that_come_later_are_written_as_those_known_before() -> None:
    encoder, names, table = RowEncoder(names_of(3), "cafe", 7), names_of(3), list[str]()
    for seed, symbol in enumerate(SYMBOLS):
        table.append(symbol)
        rows = rows_of(40, features=3, symbols=table, seed=seed)
        assert_same_bytes(encoder.record_batches(rows), [by_pyarrow(rows, names, "cafe", 7)])


def test_rows_that_are_views_of_others_are_written_as_rows_of_their_own() -> None:
    whole, names = rows_of(90, features=3), names_of(3)
    other_types = whole._asdict() | {"offset_N": whole.offset_N.astype(np.int32), "x_NF": np.asfortranarray(whole.x_NF)}
    for rows in (whole.select(slice(None, None, 3)), whole.select(slice(5, 77)), RowBatch(**other_types)):
        assert_same_bytes(RowEncoder(names, "cafe", 7).record_batches(rows), [by_pyarrow(rows, names, "cafe", 7)])


@pytest.mark.parametrize("features", [28, 38, 100, 214])
def test_no_record_is_larger_than_the_broker_takes_even_where_all_symbols_are_as_long_as_they_may_be(
    features: int,
) -> None:
    rows = rows_of(5000, features=features, symbols=["𝄞" * 16])
    made = RowEncoder(names_of(features), "cafe", 7).record_batches(rows)
    assert max(len(batch.data) for batch in made) < 1_048_588


def test_sealed_batches_are_read_as_records_of_rows() -> None:
    rows, names = rows_of(10_000), names_of(16)
    found = []
    for batch in RowEncoder(names, "cafe", 7).record_batches(rows):
        seal(batch, producer_id=7, epoch=1, sequence=0, transactional=True)
        records, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
        found += [rows_topic.decode(value).rows for value in records.value]
    assert sum(len(part) for part in found) == 10_000
    assert np.concatenate([part.x_NF for part in found]).tobytes() == rows.x_NF.tobytes()
