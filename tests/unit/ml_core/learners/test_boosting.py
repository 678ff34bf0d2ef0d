from statistics import NormalDist
from typing import Any

import lightgbm
import numpy as np
import pytest

from ml_core import spec as pipelines
from ml_core.contract import Encoding, ModelContract, Scaler
from ml_core.data_loader.arrays import Samples
from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.errors import InputError, SchemaMismatchError, SpecError, TrainingCancelledError, UnknownPartError
from ml_core.learners import boosting
from ml_core.learners.port import Learned, Task
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec
from ml_core.trainer.loop import Hooks
from tests.conformance.learning_lab import task_of

ROWS, TRAINED, FEATURES = 1600, 1100, 4
PARAMS = {"rounds": 30, "min_data_in_leaf": 20}


def spec_of(kind: str = "direction", quantiles: list[float] | None = None, **params: Any) -> PipelineSpec:
    model = {"kind": "boosting", "params": {**PARAMS, **params}, "quantiles": quantiles or []}
    return pipelines.parse({"name": "demo", "label": {"kind": kind, "horizons": ["1s", "2s"]}, "model": model})


def task(spec: PipelineSpec, *, strength: float = 1.0, **changes: Any) -> Task:
    rng = np.random.default_rng(0)
    x_MF = rng.normal(5, 3, (ROWS, FEATURES)).astype(np.float32)
    x_MF[rng.random(x_MF.shape) < 0.02] = np.nan
    move_NH = strength * 1e-4 * np.nan_to_num((x_MF[:, :2] - 5) / 3) + 1e-4 * rng.standard_normal((ROWS, 2))
    is_direction = spec.label.kind == "direction"
    y_NH = np.digitize(move_NH, [-5e-5, 5e-5]) if is_direction else (move_NH + 1e-3).astype(np.float32)
    prior = [tuple(np.bincount(y_N, minlength=3) / ROWS) if is_direction else (y_N.mean(), y_N.var()) for y_N in y_NH.T]
    contract = ModelContract(
        pipeline=spec.name,
        spec_hash=spec.hash,
        model_kind="boosting",
        model_params=spec.model.params,
        features=tuple("abcd"),
        feature_hash="f" * 16,
        window=1,
        label_kind=spec.label.kind,
        label_price="mid",
        horizons_ns=spec.label.horizons,
        delay_ns=0,
        quantiles=spec.model.quantiles,
        dead_zone=(5e-5, 5e-5) if is_direction else (),
        prior=tuple(tuple(map(float, each)) for each in prior),
        scaler=Scaler(median=(5.0,) * FEATURES, iqr=(3.0,) * FEATURES),
        trained_from_ns=0,
        trained_to_ns=1,
        seed=0,
        code_version="0",
    )
    samples = Samples(x_MF, np.arange(ROWS, dtype=np.int32)[:, None], y_NH, np.ones(ROWS, np.float32))
    return task_of(spec, contract, samples, np.arange(TRAINED), np.arange(TRAINED, ROWS), **changes)


def model_of(learned: Learned) -> FittedModel:
    return FittedModel(Scorer(learned.onnx).contract, learned.onnx, learned.weights)


def held_out(given: Task) -> tuple[np.ndarray, np.ndarray]:
    dataset = given.processed.dataset
    return dataset.x_MF[TRAINED:, None], dataset.y_NH[TRAINED:]


@pytest.fixture(scope="module")
def classes() -> Learned:
    return boosting.learn(task(spec_of()))


@pytest.fixture(scope="module")
def quantiles() -> Learned:
    return boosting.learn(task(spec_of("return", [0.1, 0.5, 0.9])))


def test_each_horizon_is_learned_from_what_moves_it(classes):
    x_BTF, y_BH = held_out(task(spec_of()))
    score_BH = Scorer(classes.onnx).scores(x_BTF)
    for h in range(2):
        assert np.corrcoef(score_BH[:, h], y_BH[:, h])[0, 1] > 0.5
        assert abs(np.corrcoef(score_BH[:, h], y_BH[:, 1 - h])[0, 1]) < 0.2
    assert len(classes.calibration) == 2


def test_that_a_value_is_missing_and_which_code_it_is_can_be_learned():
    given = task(spec_of("return"), strength=0.0)
    dataset = given.processed.dataset
    rng = np.random.default_rng(1)
    dataset.x_MF[:, 3] = rng.integers(0, 4, ROWS)
    dataset.x_MF[:, 2] = np.where(rng.random(ROWS) < 0.3, np.nan, 5)
    dataset.y_NH[:] = np.stack([np.isnan(dataset.x_MF[:, 2]), dataset.x_MF[:, 3] == 2], axis=1) * 1e-3

    def explained(encoding: Encoding) -> list[float]:
        learned = boosting.learn(given._replace(contract=given.contract.model_copy(update={"encoding": encoding})))
        x_BTF, y_BH = held_out(given)
        return (1 - (y_BH - Scorer(learned.onnx).scores(x_BTF)).var(axis=0) / y_BH.var(axis=0)).tolist()

    assert min(explained(Encoding(missing=("c",), codes={"d": (0, 1, 2, 3)}))) > 0.8
    assert explained(Encoding())[0] < 0.1, "a missing value is a median"


def test_a_number_is_told_in_its_own_unit():
    given = task(spec_of("return"))
    learned = boosting.learn(given)
    x_BTF, y_BH = held_out(given)
    residual_BH = y_BH - Scorer(learned.onnx).scores(x_BTF)
    assert (residual_BH.var(axis=0) < 0.7 * y_BH.var(axis=0)).all()
    assert learned.report.history[0].validation_loss == pytest.approx(1.0, abs=0.15)  # in units of the variance


def test_quantiles_cover_their_shares_and_the_median_is_the_score(quantiles):
    x_BTF, y_BH = held_out(task(spec_of("return")))
    scorer = Scorer(quantiles.onnx)
    y_BHQ = scorer.outputs(x_BTF).reshape(-1, 2, 3)
    assert (y_BH[:, :, None] < y_BHQ).mean(axis=0) == pytest.approx(np.tile([0.1, 0.5, 0.9], (2, 1)), abs=0.08)
    assert scorer.scores(x_BTF).tobytes() == np.ascontiguousarray(y_BHQ[:, :, 1]).tobytes()


def test_the_graph_takes_rows_scaled_before(classes):
    scorer = Scorer(classes.onnx, scale_rows)
    scorer.probe()
    x_BTF, _ = held_out(task(spec_of()))
    assert scorer.outputs(x_BTF).tobytes() == Scorer(classes.onnx).outputs(x_BTF).tobytes()


def test_the_first_loss_is_that_of_the_prior_and_the_best_round_is_kept(classes):
    given = task(spec_of())
    shares_H3 = np.array(given.contract.prior)
    _, y_BH = held_out(given)
    entropy = np.mean([-np.log(shares_H3[h, y_BH[:, h]]).mean() for h in range(2)])
    history = classes.report.history
    assert history[0].validation_loss == pytest.approx(entropy, rel=1e-6)
    losses = [each.validation_loss for each in history]
    assert classes.report.best_epoch == int(np.argmin(losses)) > 0
    kept = lightgbm.Booster(model_str=classes.weights["trees.0.0"].tobytes().decode())
    assert kept.num_trees() == 3 * classes.report.best_epoch


def test_the_best_round_is_kept_also_of_quantiles_that_could_not_split_in_every_round():
    # of few rows drawn for a tree none may lie below the lowest quantile: that one then gets no tree in this round
    levels = [0.01, 0.5, 0.99]
    given = task(spec_of("return", levels, bagging_fraction=0.05, min_data_in_leaf=10, learning_rate=0.3))
    learned = boosting.learn(given)
    x_BTF, y_BH = held_out(given)
    z_BF = scale_rows(x_BTF[:, 0], *np.full((2, FEATURES), [[5], [3]], np.float32), np.float32(8))
    losses, rounds = [], []
    for goal, level in enumerate(levels * 2):
        grown = lightgbm.Booster(model_str=learned.weights[f"trees.0.{goal}"].tobytes().decode())
        mean, variance = given.contract.prior[goal // 3]
        first = NormalDist(mean, variance**0.5).inv_cdf(level)
        miss_B = (y_BH[:, goal // 3] - first) / variance**0.5 - grown.predict(z_BF)
        losses.append(np.maximum(level * miss_B, (level - 1) * miss_B).mean())
        rounds.append(grown.num_trees())
    assert np.mean(losses) == pytest.approx(learned.report.history[learned.report.best_epoch].validation_loss, rel=1e-5)
    assert min(rounds) < max(rounds) == learned.report.best_epoch


def test_samples_without_weight_teach_nothing(classes):
    given = task(spec_of())
    dataset = given.processed.dataset
    misled = dataset.y_NH.copy()
    misled[:TRAINED:2] = 2 - misled[:TRAINED:2]
    weight_N = dataset.weight_N.copy()
    weight_N[:TRAINED:2] = 1e-9
    wrong = given.processed._replace(dataset=dataset._replace(y_NH=misled, weight_N=weight_N))
    x_BTF, y_BH = held_out(given)
    score_BH = Scorer(boosting.learn(given._replace(processed=wrong)).onnx).scores(x_BTF)
    assert np.corrcoef(score_BH[:, 0], y_BH[:, 0])[0, 1] > 0.4


def test_it_stops_when_no_round_is_better_and_then_says_the_prior():
    given = task(spec_of(patience=3, learning_rate=0.9), strength=0.0)
    learned = boosting.learn(given)
    assert (learned.report.best_epoch, learned.report.epochs_run) == (0, 3)
    y_BO = Scorer(learned.onnx).outputs(held_out(given)[0])
    np.testing.assert_allclose(np.exp(y_BO[0]), np.concatenate(given.contract.prior), rtol=1e-5)
    assert list(learned.weights) == ["shift"]


@pytest.mark.parametrize("kind", ["direction", "return"])
def test_going_on_adds_trees_to_those_there_are(kind, tmp_path):
    first = model_of(boosting.learn(task(spec_of(kind, rounds=3))))
    first.save(tmp_path)
    start = FittedModel.load(tmp_path)

    learned = boosting.learn(task(spec_of(kind), start=start))

    assert learned.weights["trees.0.0"].tobytes() == first.weights["trees.0.0"].tobytes()
    assert "trees.1.0" in learned.weights
    losses = [each.validation_loss for each in learned.report.history]
    assert min(losses) < losses[0] < first_loss(kind)


def first_loss(kind: str) -> float:
    return boosting.learn(task(spec_of(kind, rounds=1))).report.history[0].validation_loss


def test_going_on_with_quantiles_starts_where_the_trees_ended_though_they_cross():
    given = task(spec_of("return", quantiles=[0.4, 0.45, 0.5, 0.55, 0.6], patience=30))
    first = boosting.learn(given)

    further = boosting.learn(given._replace(start=model_of(first)))

    best = min(each.validation_loss for each in first.report.history)
    assert further.report.history[0].validation_loss == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize(("share", "rounds"), [(1.0, 1), (0.5, 3)])
def test_a_round_without_a_split_is_the_last_one_only_where_the_next_draws_the_same_rows(monkeypatch, share, rounds):
    monkeypatch.setattr(boosting, "_update", lambda *_: False)
    report = boosting.learn(task(spec_of(patience=3, bagging_fraction=share))).report
    assert report.epochs_run == rounds


def test_going_on_without_a_better_round_keeps_the_model_as_it_came(classes):
    start = model_of(classes)
    learned = boosting.learn(
        task(spec_of(learning_rate=1.0, patience=2, num_leaves=200, min_data_in_leaf=1), start=start)
    )
    assert learned.report.best_epoch == 0
    x_BTF, _ = held_out(task(spec_of()))
    np.testing.assert_allclose(Scorer(learned.onnx).outputs(x_BTF), start.scorer().outputs(x_BTF), atol=1e-4)


def test_going_on_from_another_kind_of_model_is_refused(classes):
    start = model_of(classes)
    with pytest.raises(SchemaMismatchError, match="label_kind"):
        boosting.learn(task(spec_of("return"), start=start))
    stripped = FittedModel(start.contract, start.onnx, {"scale.0": start.weights["scale.0"]})
    with pytest.raises(SchemaMismatchError, match=r"has no 'trees\.0\.0' among its weights"):
        boosting.learn(task(spec_of(), start=stripped))


def test_more_trees_than_can_be_served_are_refused(monkeypatch):
    monkeypatch.setattr(boosting, "MAX_TREES", 5)
    with pytest.raises(InputError, match="train it from scratch"):
        boosting.learn(task(spec_of()))


def test_progress_is_told_every_round_and_cancelling_ends_it():
    heard = []
    asked = Hooks(progress=heard.append, cancelled=lambda: len(heard) == 4)
    with pytest.raises(TrainingCancelledError, match="round 4"):
        boosting.learn(task(spec_of(), hooks=asked))
    assert [each.epoch for each in heard] == [0, 1, 2, 3]


def test_a_label_that_is_not_finite_is_an_error():
    given = task(spec_of("return"))
    dataset = given.processed.dataset
    y_NH = dataset.y_NH.copy()
    y_NH[TRAINED] = np.inf
    bad = given.processed._replace(dataset=dataset._replace(y_NH=y_NH))
    with pytest.raises(InputError, match="a label is not finite"):
        boosting.learn(given._replace(processed=bad))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_leafs": 3}, "model.params.num_leafs: unknown parameter; did you mean 'num_leaves'"),
        ({"num_leaves": 1}, "model.params.num_leaves: 1 does not fit"),
        ({"rounds": "many"}, "model.params.rounds: 'many' does not fit"),
    ],
)
def test_wrong_parameters_are_said_before_anything_is_computed(params, message):
    with pytest.raises(SpecError, match=message):
        boosting.check(spec_of(**params), features=3, outputs=3)


@pytest.mark.parametrize("asked", [{"loss": "focal"}, {"class_weights": "balanced"}, {"augment": ["jitter 0.1"]}])
def test_what_trees_do_not_do_is_refused_and_not_passed_over(asked):
    def check(train: dict[str, Any]) -> None:
        spec = pipelines.parse({"name": "demo", "model": {"kind": "boosting"}, "train": train})
        boosting.check(spec, features=3, outputs=3)

    check({"loss": "cross_entropy"})
    with pytest.raises(SpecError, match=rf"train\.{next(iter(asked))}: boosting"):
        check(asked)


def test_a_machine_without_lightgbm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(UnknownPartError, match=r"tickwise\[train\]"):
        boosting.check(spec_of(), features=3, outputs=3)
