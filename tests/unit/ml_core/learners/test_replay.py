import numpy as np
import pytest

from ml_core.data_loader.arrays import Samples
from ml_core.learners.replay import STRATA, StepBatches, reservoir


def batches(new: int = 100, old: int = 40, *, step_rows: int = 35, batch_size: int = 10, seed: int = 0) -> StepBatches:
    count = new + old
    row_N = np.arange(count)
    samples = Samples(
        row_N[:, None].astype(np.float32), row_N[:, None].astype(np.int32), row_N[:, None], np.ones(count, np.float32)
    )
    return StepBatches(samples, row_N[old:], row_N[:old], step_rows=step_rows, batch_size=batch_size, seed=seed)


def rows(batch) -> list[int]:
    return batch.y_BH[:, 0].tolist()


def test_the_reservoir_holds_equally_many_rows_of_every_span_of_time():
    ts_ns_N = np.random.default_rng(0).permutation(6400)
    old_I = np.arange(0, 6400, 2)
    found_I = reservoir(old_I, ts_ns_N, rows=320, seed=3)
    assert set(found_I) <= set(old_I)
    assert len(np.unique(found_I)) == len(found_I) == 320
    ordered = np.sort(ts_ns_N[old_I])
    strata = np.searchsorted(ordered, ts_ns_N[found_I]) * STRATA // len(old_I)
    assert np.bincount(strata).tolist() == [10] * STRATA


@pytest.mark.parametrize(
    ("old", "rows_asked", "found"), [(50, 60, 50), (50, 50, 50), (50, 49, 49), (34, 33, 33), (9, 0, 0)]
)
def test_the_reservoir_is_never_larger_than_asked_for(old, rows_asked, found):
    chosen = reservoir(np.arange(old), np.arange(old), rows=rows_asked, seed=0)
    assert found - STRATA < len(chosen) <= found


def test_the_reservoir_is_a_function_of_its_seed():
    draws = [reservoir(np.arange(500), np.arange(500), rows=50, seed=seed).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_every_step_has_its_own_span_of_new_rows_and_its_share_of_old_ones():
    made = batches()
    steps, step = [], []
    for i, batch in enumerate(made):
        step += rows(batch)
        if made.ends_step(i):
            steps.append(step)
            step = []
    assert step == []
    assert [len(s) for s in steps] == [35, 35, 35, 35]
    assert [sorted(row for row in s if row >= 40) for s in steps] == [
        list(range(40 + 25 * k, 65 + 25 * k)) for k in range(4)
    ]
    assert [sum(row < 40 for row in s) for s in steps] == [10] * 4
    assert sorted(row for s in steps for row in s) == list(range(140))


def test_epochs_mix_anew_and_a_place_can_be_taken_up_again():
    made, again = batches(), batches()
    first, second = [rows(b) for b in made], [rows(b) for b in made]
    assert first != second
    assert len(first) == len(made) == 16
    again.restore({"epoch": 1, "batch": 5})
    assert [rows(b) for b in again] == second[5:]
    assert again.state() == {"epoch": 2, "batch": 0}


@pytest.mark.parametrize(("new", "old", "step_rows"), [(1, 0, 8192), (1, 1, 1), (3, 0, 1), (2, 40, 5)])
def test_few_rows_are_all_used(new, old, step_rows):
    made = batches(new, old, step_rows=step_rows, batch_size=4)
    assert sorted(row for batch in made for row in rows(batch)) == list(range(new + old))
    assert made.ends_step(len(made) - 1)
