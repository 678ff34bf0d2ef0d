"""What every model must do, whoever wrote it: inherit `ModelSuite` and say which pipeline.

Shapes: B rows of a batch, T rows of a window, F features, O outputs.
"""

import numpy as np
import pytest
import torch

from ml_core.contract import ModelContract, Scaler
from ml_core.data_loader.arrays import Batches, Samples
from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.model.build import build
from ml_core.model.export import export
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec
from ml_core.trainer.loop import Settings, train
from ml_core.trainer.losses import cross_entropy

FEATURES, HORIZONS, ROWS, TRAINED = 5, 2, 1500, 1000


class ModelSuite:
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> PipelineSpec:
        """A pipeline with the model to test and a window that suits it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def contract(cls, spec) -> ModelContract:
        return ModelContract(
            pipeline=spec.name,
            spec_hash=spec.hash,
            model_kind=spec.model.kind,
            model_params=spec.model.params,
            features=tuple(f"f{i}" for i in range(FEATURES)),
            feature_hash="f" * 16,
            window=spec.features.window,
            label_kind="direction",
            label_price="mid",
            horizons_ns=(10**9, 10**10),
            delay_ns=0,
            dead_zone=(1e-5, 1e-5),
            prior=((0.3, 0.4, 0.3), (0.2, 0.6, 0.2)),
            scaler=Scaler(median=(0.1,) * FEATURES, iqr=(2.0,) * FEATURES),
            trained_from_ns=0,
            trained_to_ns=1,
            seed=0,
            code_version="0",
        )

    @pytest.fixture(scope="class")
    @classmethod
    def samples(cls, spec) -> Samples:
        """The newest row of a window says which class it is."""
        rng = np.random.default_rng(0)
        window = spec.features.window
        x_MF = (2 * rng.standard_normal((ROWS + window - 1, FEATURES))).astype(np.float32)
        x_MF[rng.random(x_MF.shape) < 0.01] = np.nan
        idx_NT = (np.arange(ROWS)[:, None] + np.arange(window)).astype(np.int32)
        drive_N = np.nan_to_num(x_MF[idx_NT][:, -window // 2 :, 0]).mean(axis=1)
        y_N = np.digitize(drive_N, np.quantile(drive_N, [0.3, 0.7]))
        return Samples(x_MF, idx_NT, np.stack([y_N, 2 - y_N], axis=1), np.ones(ROWS, np.float32))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, spec, contract, samples) -> FittedModel:
        """Learned on the first TRAINED samples, stopped by the others."""
        raise NotImplementedError

    @classmethod
    def weights(cls, spec, contract, samples, seed: int) -> dict[str, np.ndarray]:
        """What ``model`` keeps when it is learned with ``seed``."""
        raise NotImplementedError

    @staticmethod
    def rows(count: int, window: int, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).normal(0, 3, (count, window, FEATURES)).astype(np.float32)

    def test_it_gives_finite_outputs_of_the_contracts_width_for_any_batch(self, model, contract):
        for count in (0, 1, 2, 17):
            y_BO = model.scorer().outputs(self.rows(count, contract.window))
            assert y_BO.shape == (count, contract.outputs)
            assert np.isfinite(y_BO).all()

    def test_missing_and_infinite_values_give_finite_outputs(self, model, contract):
        x_BTF = self.rows(4, contract.window)
        x_BTF[0], x_BTF[1], x_BTF[2, 0, 0] = np.nan, np.inf, -np.inf
        assert np.isfinite(model.scorer().outputs(x_BTF)).all()

    def test_it_learns_what_can_be_learned(self, model, samples):
        held_out = samples.x_MF[samples.idx_NT[TRAINED:]]
        chosen = model.scorer().outputs(held_out).reshape(-1, HORIZONS, 3).argmax(axis=2)
        assert (chosen == samples.y_NH[TRAINED:]).mean() > 0.55  # the largest class has 0.4

    def test_equal_seeds_give_equal_weights(self, spec, contract, samples, model):
        again = self.weights(spec, contract, samples, seed=0)
        assert again.keys() == model.weights.keys()
        for name, value in model.weights.items():
            assert value.tobytes() == again[name].tobytes(), name

    def test_it_scores_rows_that_were_scaled_before_to_the_bit_as_raw_ones(self, model, contract):
        calls = []
        apart = Scorer(model.onnx, lambda *given: calls.append(1) or scale_rows(*given))
        x_BTF = self.rows(70, contract.window)
        assert apart.outputs(x_BTF).tobytes() == Scorer(model.onnx).outputs(x_BTF).tobytes()
        assert calls

    def test_scores_do_not_depend_on_the_batch(self, model):
        scorer = model.scorer()
        scorer.probe()
        x_BTF = self.rows(130, model.contract.window, seed=3)
        whole = scorer.scores(x_BTF)
        assert whole.shape == (130, HORIZONS)
        assert (np.abs(whole) <= 1).all()
        for size in (1, 2, 3, 7, 16, 17, 64, 129):
            parts = np.concatenate([scorer.scores(x_BTF[i : i + size]) for i in range(0, 130, size)])
            assert parts.tobytes() == whole.tobytes(), size

    def test_saved_and_loaded_it_gives_the_same_scores(self, model, tmp_path):
        x_BTF = self.rows(33, model.contract.window, seed=4)
        model.save(tmp_path)
        assert FittedModel.load(tmp_path).scorer().scores(x_BTF).tobytes() == model.scorer().scores(x_BTF).tobytes()


class NetworkSuite(ModelSuite):
    """What a torch network must do besides."""

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, spec, contract, samples) -> ScoringGraph:
        return cls.fit(spec, contract, samples)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, trained, contract) -> FittedModel:
        file = export(trained, contract)
        weights = {name: value.numpy() for name, value in trained.state_dict().items()}
        return FittedModel(Scorer(file).contract, file, weights)

    @classmethod
    def weights(cls, spec, contract, samples, seed: int) -> dict[str, np.ndarray]:
        graph = cls.fit(spec, contract, samples, seed)
        return {name: value.numpy() for name, value in graph.state_dict().items()}

    @staticmethod
    def graph(spec, contract, seed: int = 0) -> ScoringGraph:
        shift_O, scale_O = output_scale("direction", contract.prior)
        network = build(spec, features=FEATURES, outputs=contract.outputs, seed=seed)
        return ScoringGraph(network, contract.scaler, shift_O=shift_O, scale_O=scale_O)

    @classmethod
    def fit(cls, spec, contract, samples, seed: int = 0) -> ScoringGraph:
        graph = cls.graph(spec, contract, seed)
        batches = Batches(samples, np.arange(TRAINED), batch_size=50, seed=seed)
        validation = Batches(samples, np.arange(TRAINED, ROWS), batch_size=ROWS, shuffle=False)
        settings = Settings(epochs=12, patience=12, learning_rate=1e-2, weight_decay=0.0)
        train(graph, batches, validation, loss=cross_entropy, settings=settings, seed=seed)
        return graph.eval()

    def test_another_seed_gives_other_weights(self, spec, contract):
        one, other = (self.graph(spec, contract, seed).state_dict() for seed in (0, 1))
        assert any(not torch.equal(value, other[name]) for name, value in one.items())

    def test_a_row_does_not_see_the_other_rows_of_its_batch(self, trained, contract):
        x_BTF = torch.from_numpy(self.rows(9, contract.window))
        with torch.inference_mode():
            torch.testing.assert_close(trained(x_BTF)[4:5], trained(x_BTF[4:5]), rtol=1e-4, atol=1e-5)

    def test_gradients_reach_every_parameter(self, spec, contract, samples):
        graph = self.graph(spec, contract)
        batch = next(iter(Batches(samples, np.arange(ROWS), batch_size=256)))
        loss_B = cross_entropy(graph(torch.from_numpy(batch.x_BTF)), torch.from_numpy(batch.y_BH))
        loss_B.mean().backward()
        for name, parameter in graph.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_the_exported_graph_agrees_with_torch(self, trained, model):
        x_BTF = self.rows(50, model.contract.window, seed=2)
        with torch.inference_mode():
            expected = trained(torch.from_numpy(x_BTF)).numpy()
        np.testing.assert_allclose(model.scorer().outputs(x_BTF), expected, rtol=1e-3, atol=1e-4)

    def test_its_weights_can_be_taken_up_again(self, spec, contract, model):
        graph = self.graph(spec, contract, seed=9).eval()
        graph.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in model.weights.items()})
        x_BTF = self.rows(20, contract.window, seed=5)
        with torch.inference_mode():
            outputs = graph(torch.from_numpy(x_BTF)).numpy()
        np.testing.assert_allclose(model.scorer().outputs(x_BTF), outputs, rtol=1e-3, atol=1e-4)
