import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.data_loader.arrays import Batches, Samples, gather
from ml_core.data_loader.augment import chain, jitter, scaling


def samples(count: int, window: int = 3) -> Samples:
    # row r holds (r, 10 r); sample n is the window that ends at row n + window - 1
    rows = np.arange(count + window - 1, dtype=np.float32)
    idx = (np.arange(count)[:, None] + np.arange(window)).astype(np.int32)
    return Samples(
        np.stack([rows, 10 * rows], 1), idx, np.arange(count)[:, None] % 3, np.linspace(0.5, 1, count, dtype=np.float32)
    )


def order(batches: Batches) -> list[int]:
    return [int(first) for batch in batches for first in batch.x_BTF[:, 0, 0]]


def test_a_batch_holds_windows_oldest_row_first_with_their_labels_and_weights():
    batch = gather(samples(5), np.array([2, 0]))
    assert batch.x_BTF.tolist() == [[[2, 20], [3, 30], [4, 40]], [[0, 0], [1, 10], [2, 20]]]
    assert batch.y_BH.tolist() == [[2], [0]]
    assert batch.weight_B.tolist() == [0.75, 0.5]


@given(count=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 5))
def test_an_epoch_gives_every_chosen_sample_once(count, size, seed):
    chosen = np.arange(0, count, 2)
    batches = Batches(samples(count), chosen, batch_size=size, seed=seed)
    assert sorted(order(batches)) == chosen.tolist()
    assert len(batches) == -(-len(chosen) // size)


def test_each_epoch_has_an_order_of_its_own_that_follows_from_the_seed():
    def two_epochs(seed: int) -> list[list[int]]:
        batches = Batches(samples(50), np.arange(50), batch_size=7, seed=seed)
        return [order(batches), order(batches)]

    assert two_epochs(1) == two_epochs(1)
    assert two_epochs(1)[0] != two_epochs(1)[1]
    assert two_epochs(1) != two_epochs(2)


def test_without_shuffling_the_order_is_the_given_one():
    assert order(Batches(samples(9), np.array([4, 1, 8]), batch_size=2, shuffle=False)) == [4, 1, 8]


@pytest.mark.parametrize("taken", [0, 1, 4, 8, 11])
def test_batches_go_on_from_a_stored_place_exactly(taken):
    def fresh() -> Batches:
        noise = jitter(np.ones(2, np.float32), 0.1)
        return Batches(samples(40), np.arange(40), batch_size=6, seed=3, augment=noise)

    def take(batches: Batches, count: int) -> list[bytes]:
        taken = []
        while len(taken) < count:
            for batch in batches:
                taken.append(batch.x_BTF.tobytes())
                if len(taken) == count:
                    break
        return taken

    whole = take(fresh(), 20)
    first, second = fresh(), fresh()
    start = take(first, taken)
    second.restore(first.state())
    assert start + take(second, 20 - taken) == whole


def test_augmentation_keeps_missing_values_missing_and_the_data_unchanged():
    data = samples(10)
    data.x_MF[3, 0] = np.nan
    before = data.x_MF.copy()
    both = chain(jitter(np.ones(2, np.float32), 0.5), scaling(np.zeros(2, np.float32), 0.5))
    batches = Batches(data, np.arange(10), batch_size=10, augment=both)
    (batch,) = batches
    assert np.isnan(batch.x_BTF).sum() == 3
    np.testing.assert_array_equal(data.x_MF, before)


def test_each_epoch_and_each_batch_is_augmented_with_noise_of_its_own():
    data = samples(4)
    data.x_MF[:] = 0
    batches = Batches(data, np.arange(4), batch_size=2, shuffle=False, augment=jitter(np.ones(2, np.float32), 0.5))
    noise = [batch.x_BTF.tobytes() for _ in range(3) for batch in batches]
    assert len(set(noise)) == len(noise) == 6
