import numpy as np
import pytest

from ml_core.errors import ModelNotFoundError, ModelRefusedError
from ml_core.model import fitted
from ml_core.model.fitted import FILES, FittedModel
from ml_core.model.runtime import Scorer


@pytest.fixture
def model(mlp_file) -> FittedModel:
    weights = {"model.layers.1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return FittedModel(Scorer(mlp_file).contract, mlp_file, weights, {"epochs": [{"epoch": 0, "train_loss": None}]})


def test_a_loaded_model_equals_the_saved_one(model, tmp_path):
    model.save(tmp_path / "new" / "folder")
    loaded = FittedModel.load(tmp_path / "new" / "folder")
    assert (loaded.contract, loaded.onnx, loaded.report) == (model.contract, model.onnx, model.report)
    assert loaded.weights.keys() == model.weights.keys()
    for name, value in model.weights.items():
        assert loaded.weights[name].tobytes() == value.tobytes()


def test_saving_again_replaces_the_model(model, tmp_path):
    model.save(tmp_path)
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(model, tmp_path, name):
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelNotFoundError, match=name):
        FittedModel.load(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_refuses_the_model(model, tmp_path, name):
    model.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100] + b"\xff{")
    with pytest.raises(ModelRefusedError):
        FittedModel.load(tmp_path)


def test_weights_with_objects_are_never_unpickled(model, tmp_path):
    model.save(tmp_path)
    np.savez(tmp_path / "weights.npz", evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelRefusedError, match=r"^unreadable: .*damaged"):
        FittedModel.load(tmp_path)


def test_weights_that_are_small_on_disk_alone_are_refused_before_they_are_unpacked(model, tmp_path, monkeypatch):
    model.save(tmp_path)
    np.savez_compressed(tmp_path / "weights.npz", zeros=np.zeros(10**6))
    monkeypatch.setattr(fitted, "MAX_BYTES", 10**6)
    with pytest.raises(ModelRefusedError, match=r"^too_large: .*weights"):
        FittedModel.load(tmp_path)


def test_a_contract_that_is_not_the_one_inside_the_graph_is_refused(model, tmp_path):
    model.save(tmp_path)
    text = (tmp_path / "contract.json").read_text()
    (tmp_path / "contract.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ModelRefusedError, match=r"^bad_contract: "):
        FittedModel.load(tmp_path)


def test_a_very_large_file_is_refused_before_it_is_read(model, tmp_path, monkeypatch):
    model.save(tmp_path)
    monkeypatch.setattr(fitted, "MAX_BYTES", 100)
    with pytest.raises(ModelRefusedError, match=r"^too_large: "):
        FittedModel.load(tmp_path)
