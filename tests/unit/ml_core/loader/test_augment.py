import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.data_loader import augment
from ml_core.errors import SpecError
from ml_core.learners import network
from ml_core.quantities import AUGMENTATIONS
from ml_core.spec import parse
from ml_core.types import Batch, Float32

ONES = np.ones(2, np.float32)
ALL = [f"{name} {min(most, 0.5)}" for name, (_, most) in AUGMENTATIONS.items()]


def batch(x_BTF: Float32, y_BH=None) -> Batch:
    size = len(x_BTF)
    y_BH = np.zeros((size, 1), np.int64) if y_BH is None else y_BH
    return Batch(x_BTF.astype(np.float32), y_BH, np.ones(size, np.float32))


def ramp(size: int = 200, rows: int = 9) -> Batch:
    """Windows whose rows are 0, 1, 2, ..., and in a second column the square of that."""
    row_T = np.arange(rows, dtype=np.float32)
    return batch(np.broadcast_to(np.stack([row_T, row_T**2], 1), (size, rows, 2)).copy())


def changed(change, given_: Batch, seed: int = 0) -> Batch:
    return change(given_, np.random.default_rng(seed))


def test_jitter_adds_noise_in_units_of_the_spread_of_each_feature():
    noisy = changed(augment.jitter(np.array([1, 100], np.float32), 0.1), batch(np.zeros((4000, 2, 2)))).x_BTF
    assert noisy.dtype == np.float32
    np.testing.assert_allclose(noisy.std(axis=(0, 1)), [0.1, 10], rtol=0.05)


def test_scaling_stretches_a_window_by_one_factor_a_feature_and_leaves_the_centre():
    centre = np.array([1, -2], np.float32)
    x = np.random.default_rng(1).standard_normal((50, 4, 2)).astype(np.float32)
    x[:, 0] = centre
    scaled = changed(augment.scaling(centre, 0.2), batch(x)).x_BTF
    factor = (scaled[:, 1:] - centre) / (x[:, 1:] - centre)
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=2e-3)
    np.testing.assert_allclose(scaled[:, 0], np.broadcast_to(centre, (50, 2)))
    assert 0.1 < factor[:, 0].std() < 0.3


def test_magnitude_warp_stretches_by_a_factor_that_moves_along_the_window():
    factor = changed(augment.magnitude_warp(0 * ONES, 0.2), batch(np.ones((300, 10, 2)))).x_BTF
    assert 0.1 < factor.std() < 0.3
    assert factor.std(axis=1).mean() > 0.05
    assert np.abs(np.diff(factor, n=2, axis=1))[:, [0, 1, 3, 4, 6, 7]].max() < 1e-5  # straight between four knots


def test_time_warp_runs_from_the_oldest_row_to_the_newest_and_never_back():
    rows = changed(augment.time_warp(0.5), ramp()).x_BTF[:, :, 0]
    assert (rows[:, 0] == 0).all()
    np.testing.assert_allclose(rows[:, -1], 8, atol=1e-5)
    assert (np.diff(rows, axis=1) > 0).all()
    assert rows[:, 4].std() > 0.2


def test_a_slice_ends_with_the_newest_row_and_begins_within_what_may_be_cut_off():
    rows = changed(augment.window_slicing(0.5), ramp()).x_BTF[:, :, 0]
    np.testing.assert_allclose(rows[:, -1], 8, atol=1e-5)
    assert 0 <= rows[:, 0].min() < 0.5
    assert 3.5 < rows[:, 0].max() <= 4
    np.testing.assert_allclose(np.diff(rows, axis=1), np.diff(rows, axis=1)[:, :1] * np.ones(8), atol=1e-4)


@pytest.mark.parametrize("change", [augment.time_warp(0.5), augment.window_slicing(0.5)])
def test_a_window_of_one_row_stays_as_it_is(change):
    one = batch(np.random.default_rng(0).standard_normal((5, 1, 2)))
    np.testing.assert_array_equal(changed(change, one).x_BTF, one.x_BTF)


def test_mixup_mixes_rows_numbers_and_weights_with_equal_shares():
    rng = np.random.default_rng(1)
    x_B = rng.standard_normal(500).astype(np.float32)
    given_ = Batch(x_B[:, None, None], 2 * x_B[:, None], 3 + x_B)
    mixed = changed(augment.mixup(0.5), given_)
    np.testing.assert_allclose(mixed.y_BH[:, 0], 2 * mixed.x_BTF[:, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mixed.weight_B, 3 + mixed.x_BTF[:, 0, 0], rtol=1e-4)
    assert mixed.y_BH.dtype == np.float32
    assert (mixed.y_BH != given_.y_BH).mean() > 0.5


def test_mixup_draws_a_class_with_the_shares_as_odds():
    y_BH = np.repeat([0, 2], 4000)[:, None]
    mixed = changed(augment.mixup(1.0), batch(np.repeat([0.0, 1.0], 4000)[:, None, None], y_BH))
    share_of_two = mixed.x_BTF[:, 0, 0]
    assert mixed.y_BH.dtype == np.int64
    for low in (0.2, 0.4, 0.6):
        near = (share_of_two > low) & (share_of_two < low + 0.2)
        assert (mixed.y_BH[near, 0] == 2).mean() == pytest.approx(low + 0.1, abs=0.06)


@pytest.mark.parametrize(("y", "other"), [(np.float32(0.5), -0.5), (np.int64(2), 0)])
def test_a_mirrored_sample_has_the_other_sign_where_it_is_signed_and_the_opposite_label(y, other):
    given_ = batch(np.ones((4000, 1, 2)), np.full((4000, 1), y))
    made = changed(augment.mirror(np.array([-1, 1], np.float32), 0.25), given_)
    is_mirrored = made.x_BTF[:, 0, 0] == -1
    assert is_mirrored.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(made.y_BH[:, 0], np.where(is_mirrored, other, y))
    assert (made.x_BTF[:, 0, 1] == 1).all()
    assert (made.x_BTF.dtype, made.y_BH.dtype) == (np.float32, given_.y_BH.dtype)


@given(seed=st.integers(0, 1000), asked=st.lists(st.sampled_from(ALL), min_size=1, max_size=3))
def test_changes_keep_shapes_and_the_data_and_follow_from_the_seed(seed, asked):
    change = augment.asked_for(asked, center_F=0 * ONES, spread_F=ONES, sign_F=ONES)
    assert change is not None
    given_ = ramp(20)
    before = [column.copy() for column in given_]
    first, second = changed(change, given_, seed), changed(change, given_, seed)
    for made, again, original, kept in zip(first, second, given_, before, strict=True):
        assert made.shape == original.shape
        assert made.dtype == original.dtype
        np.testing.assert_array_equal(made, again)
        np.testing.assert_array_equal(original, kept)


def test_what_is_asked_for_is_done_in_its_order_and_nothing_by_default():
    assert augment.asked_for([], center_F=ONES, spread_F=ONES, sign_F=ONES) is None
    change = augment.asked_for(["jitter 0.5", "mixup 0.4"], center_F=ONES, spread_F=ONES, sign_F=ONES)
    by_hand = augment.chain(augment.jitter(ONES, 0.5), augment.mixup(0.4))
    assert change is not None
    np.testing.assert_array_equal(changed(change, ramp()).x_BTF, changed(by_hand, ramp()).x_BTF)


@pytest.mark.parametrize(
    ("asked", "window", "words"),
    [
        (["jiter 0.1"], 1, "did you mean 'jitter'"),
        (["jitter"], 1, "'' is not a number from 0 to 10"),
        (["mixup 99"], 1, "'99' is not a number from 0.01 to 10"),
        (["time_warp 0.1"], 1, "'time_warp 0.1' changes windows, and features.window is 1"),
    ],
)
def test_what_is_no_augmentation_is_refused_in_the_pipeline_file(asked, window, words):
    with pytest.raises(SpecError, match=words):
        parse({"name": "x", "train": {"augment": asked}, "features": {"window": window}})


@pytest.mark.parametrize(
    "parts", [{"label": {"kind": "volatility"}}, {"label": {"kind": "return"}, "model": {"quantiles": [0.1, 0.5, 0.9]}}]
)
def test_what_has_no_direction_is_not_mirrored(parts):
    with pytest.raises(SpecError, match="turns rises into falls"):
        parse({"name": "x", "train": {"augment": ["mirror 0.5"]}, **parts})


def test_nobody_mirrors_an_own_feature():
    asked = {
        "name": "x",
        "train": {"augment": ["mirror 0.5"]},
        "features": {"use": ["return:1s", "my_features:VwapGap"]},
    }
    with pytest.raises(SpecError, match="own feature 'my_features:VwapGap'"):
        network.check(parse(asked), features=2, outputs=3)
