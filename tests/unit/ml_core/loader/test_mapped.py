import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.data_loader import mapped
from ml_core.data_loader.arrays import Samples, gather
from ml_core.data_loader.augment import jitter
from ml_core.data_loader.mapped import BlockBatches, MappedBlocks, ParquetBlocks, write_mapped
from ml_core.errors import SchemaMismatchError
from ml_core.types import Batch


class Memory:
    """A set in memory: sample n holds n in its row."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.ends, self.reads = sizes, np.cumsum(sizes), []

    def read(self, block: int) -> Batch:
        self.reads.append(block)
        n = np.arange(self.ends[block] - self.sizes[block], self.ends[block], dtype=np.float32)
        return Batch(n[:, None, None], n[:, None].astype(np.int64), n)


def epoch(batches: BlockBatches) -> list[list[int]]:
    return [batch.weight_B.astype(int).tolist() for batch in batches]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    size=st.integers(1, 25),
    mixed=st.integers(1, 4),
    shuffle=st.booleans(),
)
def test_an_epoch_gives_every_sample_once_in_whole_batches(sizes, size, mixed, shuffle):
    batches = BlockBatches(Memory(sizes), batch_size=size, mixed_blocks=mixed, shuffle=shuffle)
    found = epoch(batches)
    assert len(found) == len(batches)
    assert {len(each) for each in found[:-1]} <= {size}
    samples = [n for each in found for n in each]
    assert sorted(samples) == list(range(sum(sizes)))
    if not shuffle:
        assert samples == sorted(samples)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    size=st.integers(1, 12),
    taken=st.integers(0, 30),
    shuffle=st.booleans(),
)
def test_batches_go_on_from_a_stored_place_exactly(sizes, size, taken, shuffle):
    def fresh() -> BlockBatches:
        noise = jitter(np.ones(1, np.float32), 0.1)
        return BlockBatches(Memory(sizes), batch_size=size, seed=3, mixed_blocks=2, shuffle=shuffle, augment=noise)

    def take(batches: BlockBatches, count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            for batch in batches:
                found.append(batch.x_BTF.tobytes())
                if len(found) == count:
                    break
        return found

    whole, first, second = take(fresh(), 40), fresh(), fresh()
    start = take(first, taken)
    second.restore(first.state())
    assert start + take(second, 40 - taken) == whole


def test_each_epoch_has_an_order_of_its_own_and_few_blocks_are_read_ahead():
    blocks = Memory([10] * 20)
    batches = BlockBatches(blocks, batch_size=10, seed=1, mixed_blocks=4)
    stream = iter(batches)
    next(stream)
    assert len(blocks.reads) == 4
    rest = [batch.weight_B.astype(int).tolist() for batch in stream]
    assert rest != epoch(batches)[1:]
    assert epoch(BlockBatches(Memory([10] * 20), batch_size=10, seed=1, mixed_blocks=4))[1:] == rest


def test_parquet_gives_features_targets_and_weights_by_their_names(tmp_path):
    x_MF = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    columns = {"b": x_MF[:, 1], "y": np.arange(50) % 3, "a": x_MF[:, 0], "w": np.linspace(0, 1, 50), "c": x_MF[:, 2]}
    for part in range(2):
        table = pa.table({name: column[part * 25 : part * 25 + 25] for name, column in columns.items()})
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=10)
    paths = sorted(tmp_path.glob("*.parquet"))
    blocks = ParquetBlocks(paths, features=["a", "b", "c"], targets=["y"], weight="w")
    assert blocks.sizes == [10, 10, 5, 10, 10, 5]
    found = list(BlockBatches(blocks, batch_size=7, shuffle=False))
    np.testing.assert_array_equal(np.concatenate([each.x_BTF for each in found])[:, 0], x_MF)
    np.testing.assert_array_equal(np.concatenate([each.y_BH for each in found])[:, 0], columns["y"])
    np.testing.assert_allclose(np.concatenate([each.weight_B for each in found]), columns["w"], rtol=1e-6)
    assert found[0].y_BH.dtype == np.int64
    blocks.close()
    with pytest.raises(SchemaMismatchError, match="has no column d"):
        ParquetBlocks(paths, features=["d"], targets=["y"])


def two_symbols() -> tuple[Samples, np.ndarray]:
    """Rows of two symbols in turns; row 7 belongs to no window."""
    rows = [[0, 2, 4, 6, 8, 10], [1, 3, 5, 9, 11]]
    windows = [(s, own[i - 2 : i + 1]) for s, own in enumerate(rows) for i in range(2, len(own))]
    windows.sort(key=lambda window: window[1][-1])
    idx_NT = np.array([each for _, each in windows], np.int32)
    count = len(windows)
    x_MF = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32)
    samples = Samples(x_MF, idx_NT, np.arange(count)[:, None], np.linspace(0, 1, count, dtype=np.float32))
    return samples, np.array([s for s, _ in windows], np.int32)


def test_a_mapped_set_gives_the_windows_of_the_arrays_it_was_written_from(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "BLOCK", 3)
    samples, symbol_N = two_symbols()
    write_mapped(tmp_path, samples, symbol_N)
    chosen_I = np.array([0, 2, 3, 5, 6])
    blocks = MappedBlocks(tmp_path, chosen_I)
    assert blocks.sizes == [3, 2]
    [whole] = BlockBatches(blocks, batch_size=9, shuffle=False)
    for found, expected in zip(whole, gather(samples, chosen_I), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_windows_that_are_not_in_a_row_are_not_mapped(tmp_path):
    samples, symbol_N = two_symbols()
    samples.idx_NT[0, 0] = 1
    with pytest.raises(SchemaMismatchError, match="do not stand together"):
        write_mapped(tmp_path, samples, symbol_N)
    with pytest.raises(SchemaMismatchError, match="holds no whole set"):
        MappedBlocks(tmp_path)
