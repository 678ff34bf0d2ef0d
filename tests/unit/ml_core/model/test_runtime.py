import contextlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from ml_core.contract import Scaler
from ml_core.errors import ModelRefusedError, SchemaMismatchError
from ml_core.model import runtime
from ml_core.model.export import with_block, with_contract
from ml_core.model.runtime import Scorer, direction_scores

RNG = np.random.default_rng(1)


def rows(count: int, window: int = 1, features: int = 4) -> np.ndarray:
    return RNG.standard_normal((count, window, features)).astype(np.float32)


def size_dependent():
    """Nodes that add a millionth of the batch size to every output."""
    return (
        helper.make_node("Shape", ["linear"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis_0"], ["size"]),
        helper.make_node("Cast", ["size"], ["size_float"], to=1),
        helper.make_node("Mul", ["size_float", "tiny"], ["offset"]),
        helper.make_node("Add", ["linear", "offset"], ["y"]),
    )


def test_scores_are_bit_equal_in_batches_of_any_size_and_at_any_place(mlp_file):
    scorer = Scorer(mlp_file)
    x = rows(300)
    whole = scorer.scores(x)

    assert whole.shape == (300, 2)
    assert whole.dtype == np.float32
    for size in (1, 2, 3, 5, 7, 16, 17, 64, 129, 256, 299):
        parts = np.concatenate([scorer.scores(x[i : i + size]) for i in range(0, 300, size)])
        assert parts.tobytes() == whole.tobytes()


def test_no_rows_give_no_scores_and_more_rows_than_a_chunk_are_scored_in_chunks(mlp_file, monkeypatch):
    scorer = Scorer(mlp_file)
    x = rows(50)
    whole = scorer.scores(x)

    assert scorer.scores(x[:0]).shape == (0, 2)
    monkeypatch.setattr(runtime, "CHUNK_ROWS", 16)
    assert scorer.scores(x).tobytes() == whole.tobytes()


def test_missing_and_infinite_values_are_scored_as_the_contract_says(mlp_file):
    scorer = Scorer(mlp_file)
    scaler = scorer.contract.scaler
    median, iqr = np.array(scaler.median, np.float32), np.array(scaler.iqr, np.float32)
    row = rows(1)
    absent, at_median = row.copy(), row.copy()
    absent[0, 0, 2], at_median[0, 0, 2] = np.nan, median[2]
    far, at_limit = row.copy(), row.copy()
    far[0, 0, 1], at_limit[0, 0, 1] = np.inf, median[1] + scaler.limit * iqr[1]

    assert scorer.outputs(absent).tobytes() == scorer.outputs(at_median).tobytes()
    assert scorer.outputs(far).tobytes() == scorer.outputs(at_limit).tobytes()


def test_rows_of_another_shape_are_refused_with_both_shapes(mlp_file):
    with pytest.raises(SchemaMismatchError, match=r"\(B, 1, 4\), got \(3, 2, 4\)"):
        Scorer(mlp_file).scores(rows(3, window=2))


def test_a_sound_model_passes_its_probe(mlp_file):
    Scorer(mlp_file).probe()


def test_a_return_model_scores_its_outputs(hand_made):
    scorer = Scorer(hand_made(outputs=2, horizons=2, label_kind="return"))
    x = rows(5)
    assert scorer.scores(x).tobytes() == scorer.outputs(x).tobytes()


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b"not a model", lambda b: b[: len(b) // 2], lambda b: b[::-1]]
)
def test_damaged_bytes_are_refused_as_unreadable(mlp_file, damage):
    with pytest.raises(ModelRefusedError, match=r"^(unreadable|no_contract): "):
        Scorer(damage(mlp_file))


@given(place=st.integers(0, 10**9), value=st.integers(1, 255))
def test_one_flipped_byte_never_escapes_as_a_foreign_error(mlp_file, place, value):
    damaged = bytearray(mlp_file)
    damaged[place % len(damaged)] ^= value
    with contextlib.suppress(ModelRefusedError):
        Scorer(bytes(damaged)).probe()


def test_a_file_past_the_size_bound_is_refused_before_it_is_read(mlp_file, monkeypatch):
    monkeypatch.setattr(runtime, "MAX_BYTES", 10)
    with pytest.raises(ModelRefusedError, match=r"^too_large: "):
        Scorer(mlp_file)


def test_a_model_without_a_contract_is_refused(hand_made):
    model = onnx.load_from_string(hand_made())
    del model.metadata_props[:]
    with pytest.raises(ModelRefusedError, match=r"^no_contract: "):
        Scorer(model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": ()}, "^bad_contract: prior has 0 entries, not 1"),
        ({"block": 0}, "^bad_contract: block is 0"),
        ({"scaler": Scaler(median=(0.0,), iqr=(1.0,) * 4)}, "^bad_contract: scaler.median has 1 entries, not 4"),
        ({"window": 0}, "^bad_contract: "),
        ({"window": 3}, "^shape: the graph takes"),
        ({"horizons_ns": (1, 2), "prior": ((1, 1, 1),) * 2}, "^shape: the graph returns"),
    ],
)
def test_a_contract_that_does_not_fit_its_graph_is_refused(hand_made, changes, message):
    with pytest.raises(ModelRefusedError, match=message):
        Scorer(hand_made(**changes))


def test_a_graph_with_a_fixed_batch_is_refused(hand_made):
    with pytest.raises(ModelRefusedError, match=r"^shape: "):
        Scorer(hand_made(batch=8))


def test_an_output_that_is_not_finite_is_refused(hand_made):
    with pytest.raises(ModelRefusedError, match=r"^not_finite: the output of probe row"):
        Scorer(hand_made(helper.make_node("Log", ["linear"], ["y"]))).probe()


def test_a_random_output_is_refused(hand_made):
    noise = helper.make_node("RandomNormalLike", ["linear"], ["y"])
    with pytest.raises(ModelRefusedError, match=r"^not_repeatable: "):
        Scorer(hand_made(noise)).probe()


def test_a_graph_that_raises_is_refused(hand_made):
    second_row = helper.make_node("Gather", ["linear", "axis_1"], ["second"])  # a batch of one has none
    with pytest.raises(ModelRefusedError, match=r"^fails: "):
        Scorer(hand_made(second_row, helper.make_node("Add", ["second", "linear"], ["y"]))).probe()


def test_scores_that_depend_on_the_batch_size_are_refused_without_a_block(hand_made):
    with pytest.raises(ModelRefusedError, match=r"^batch_dependent: "):
        Scorer(hand_made(*size_dependent())).probe()


def test_in_blocks_a_model_that_depends_on_the_batch_size_scores_every_row_alike(hand_made):
    scorer = Scorer(with_block(hand_made(*size_dependent())))
    x = rows(300)
    whole = scorer.scores(x)

    assert scorer.contract.block == 64
    scorer.probe()
    for size in (1, 17, 64, 65, 256):
        parts = np.concatenate([scorer.scores(x[i : i + size]) for i in range(0, 300, size)])
        assert parts.tobytes() == whole.tobytes()
    assert scorer.scores(x[:0]).shape == (0, 1)


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(hand_made):
    mean = helper.make_node("ReduceMean", ["linear", "axis_0"], ["mean"], keepdims=1)
    with pytest.raises(ModelRefusedError, match=r"^mixes_rows: "):
        with_block(hand_made(mean, helper.make_node("Sub", ["linear", "mean"], ["y"])))


def test_a_model_that_needs_no_block_gets_none(hand_made):
    assert Scorer(with_block(hand_made())).contract.block is None


def test_a_new_contract_replaces_the_old_one(mlp_file):
    changed = Scorer(mlp_file).contract.model_copy(update={"parent": "demo/3"})
    scorer = Scorer(with_contract(mlp_file, changed))
    x = rows(9)
    assert scorer.contract == changed
    assert scorer.scores(x).tobytes() == Scorer(mlp_file).scores(x).tobytes()


@given(st.lists(st.tuples(*[st.floats(-200, 200, width=32)] * 3), min_size=1, max_size=70))
def test_direction_scores_do_not_depend_on_the_place_of_a_row(logits):
    y = np.array(logits, dtype=np.float32)
    alone = np.concatenate([direction_scores(y[i : i + 1]) for i in range(len(y))])
    assert direction_scores(y).tobytes() == alone.tobytes()
    assert (np.abs(alone) <= 1).all()


def test_the_runtime_imports_no_torch():
    code = (
        "import sys, ml_core.model.runtime, ml_core.model.fitted; print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
