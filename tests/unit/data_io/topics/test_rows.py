import numpy as np
import pytest

from data_io.topics import rows as rows_topic
from ml_core.errors import SchemaMismatchError
from ml_core.types import RowBatch


def rows_of(count: int, features: int = 3) -> RowBatch:
    rng = np.random.default_rng(count)
    x_NF = rng.normal(size=(count, features)).astype(np.float32)
    x_NF[::5, 0] = np.nan
    return RowBatch(
        offset_N=np.arange(count) + 1000,
        index_N=rng.integers(0, 9, count).astype(np.int32),
        symbol_N=rng.integers(0, 4, count).astype(np.int32),
        ts_ns_N=rng.integers(1, 2**62, count),
        mid_N=rng.normal(size=count),
        spread_N=np.where(np.arange(count) % 3 == 0, np.nan, 0.5),
        x_NF=x_NF,
        flags_N=rng.integers(0, 32, count).astype(np.uint8),
        symbols=["A", "é", "UNUSED", "B"],
    )


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4096, [4096]), (9000, [4096, 4096, 808])])
def test_rows_read_back_bit_by_bit(count: int, sizes: list[int]) -> None:
    rows, names = rows_of(count), ("a", "b", "c")

    records = rows_topic.encode(rows, names, "cafe", 7)

    assert [len(rows_topic.decode(value).rows) for _, value, _ in records] == sizes
    at = 0
    for key, value, _headers in records:
        found = rows_topic.decode(value)
        part = slice(at, at + len(found.rows))
        assert (key, found.names, found.hash, found.kernel_version) == (None, names, "cafe", 7)
        for name in ("offset_N", "index_N", "ts_ns_N", "mid_N", "spread_N", "x_NF", "flags_N"):
            a, b = getattr(found.rows, name), getattr(rows, name)[part]
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()), name
        got = [found.rows.symbols[i] for i in found.rows.symbol_N]
        assert got == [rows.symbols[i] for i in rows.symbol_N[part]]
        at = part.stop


def test_headers_name_the_schema_and_the_range_of_ticks() -> None:
    [(_, _, headers)] = rows_topic.encode(rows_of(5), ("a", "b", "c"), "cafe", 7)
    assert headers == [
        ("content-type", b"application/vnd.apache.arrow.stream"),
        ("tickwise.schema-hash", b"cafe"),
        ("tickwise.offset-from", b"1000"),
        ("tickwise.offset-to", b"1004"),
    ]


def test_a_record_of_many_features_stays_below_the_size_kafka_takes() -> None:
    rows, names = rows_of(4096, 300), [f"feature_{i}" for i in range(300)]
    records = rows_topic.encode(rows, names, "cafe", 7)
    assert max(len(value) for _, value, _ in records) < 1_000_000
    assert sum(len(rows_topic.decode(value).rows) for _, value, _ in records) == 4096


def test_a_frame_has_one_column_a_feature() -> None:
    rows = rows_of(3, 2)
    frame = rows_topic.to_frame(rows, ["ret", "vol"])
    assert list(frame) == ["offset", "index", "symbol", "ts_ns", "mid", "spread", "flags", "ret", "vol"]
    assert frame["symbol"].tolist() == [rows.symbols[i] for i in rows.symbol_N]
    np.testing.assert_array_equal(frame["vol"], rows.x_NF[:, 1])


@pytest.mark.parametrize("value", [None, b"", b"junk"])
def test_what_is_no_record_of_rows_is_refused(value: bytes | None) -> None:
    with pytest.raises(SchemaMismatchError, match="feature rows"):
        rows_topic.decode(value)


def test_a_cut_record_is_refused() -> None:
    [(_, value, _)] = rows_topic.encode(rows_of(50), ("a", "b", "c"), "cafe", 7)
    for kept in range(0, len(value) - 8, 97):
        with pytest.raises(SchemaMismatchError):
            rows_topic.decode(value[:kept])
