import json
import subprocess
import sys
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core import fit as learning
from ml_core import spec as pipelines
from ml_core.data_processor.scaling import scale
from ml_core.errors import NotEnoughDataError, SchemaMismatchError, SpecError, TrainingCancelledError, UnknownPartError
from ml_core.fit import FittedModel, check, fit, losses, prior_losses
from ml_core.sections import Costs
from ml_core.spec import PipelineSpec

FEATURES = ["return:1s", "queue_imbalance", "queue_imbalance_mean:1s"]


def pipeline(**parts: dict[str, Any]) -> PipelineSpec:
    data: dict[str, Any] = {
        "name": "demo",
        "features": {"use": FEATURES},
        "label": {"horizons": ["2s"]},
        "model": {"kind": "mlp", "params": {"hidden": [16]}},
        "train": {"epochs": 6, "min_rows": 500, "batch_size": 128, "learning_rate": 0.01},
    }
    return pipelines.parse(
        {key: {**data.get(key, {}), **parts.get(key, {})} if key != "name" else "demo" for key in data | parts}
    )


BOOSTING = {"kind": "boosting", "params": {"rounds": 30, "min_data_in_leaf": 20}}
RETURNS = pipeline(label={"kind": "return", "horizons": ["1s", "2s"]}, model=BOOSTING)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return open_source("synthetic:symbols=2,ticks=6000,rate=20,seed=1").fetch()


@pytest.fixture(scope="module")
def fitted(frame) -> learning.Fit:
    return fit(frame, pipeline())


@pytest.fixture(scope="module")
def boosted(frame) -> learning.Fit:
    """Trees of returns; what does not depend on the learner is tried on them, which need no export by torch."""
    return fit(frame, RETURNS)


def test_a_model_beats_the_prior_on_rows_it_was_not_trained_on(fitted):
    metrics = fitted.metrics
    assert metrics["holdout_log_loss"] < metrics["prior_log_loss"] - 0.02
    assert metrics["holdout_auc"] > 0.6
    assert metrics["holdout_ic"] > 0.1
    assert metrics["train_rows"] > metrics["validation_rows"] > 0
    assert 1 <= metrics["best_epoch"] <= metrics["epochs_run"] <= 6


def test_every_hold_out_figure_has_an_interval_around_it(fitted):
    names = {name for name in fitted.metrics if name.startswith("holdout_")} - {"holdout_rows"}
    assert fitted.intervals.keys() == names
    for name, (low, high, blocks, _) in fitted.intervals.items():
        assert low < fitted.metrics[name] < high, name
        assert blocks == 11, name
    assert fitted.intervals["holdout_auc"].low > 0.5
    assert fitted.model.report["intervals"]["holdout_ic"] == fitted.intervals["holdout_ic"]._asdict()


def test_the_contract_says_what_the_model_was_made_of(fitted):
    contract, processed = fitted.model.contract, fitted.processed
    spec = pipeline()
    assert contract.metrics == fitted.metrics
    assert contract.features == processed.plan.names == tuple(contract.features)
    assert (contract.feature_hash, contract.spec_hash, contract.model_params) == (
        processed.plan.hash,
        spec.hash,
        {"hidden": [16]},
    )
    assert (contract.scaler, contract.dead_zone, contract.prior) == (
        processed.scaler,
        processed.dead_zone,
        processed.prior,
    )
    first_holdout_ns = processed.dataset.ts_ns_N[processed.holdout_I].min()
    assert contract.trained_from_ns < contract.trained_to_ns <= first_holdout_ns
    assert fitted.model.scorer().contract == contract


def test_the_metrics_are_those_of_the_file_that_serves(fitted):
    holdout_I = fitted.processed.holdout_I
    model_I, prior_I = (
        losses(fitted.model, fitted.processed, holdout_I),
        prior_losses(fitted.processed, holdout_I, "direction"),
    )
    assert model_I.shape == prior_I.shape == holdout_I.shape
    assert model_I.mean() == fitted.metrics["holdout_log_loss"]
    assert prior_I.mean() == fitted.metrics["prior_log_loss"]
    assert losses(fitted.model.scorer(), fitted.processed, holdout_I[:0]).shape == (0,)


def test_equal_arguments_give_equal_weights_and_another_seed_gives_others(frame, fitted):
    again, other = fit(frame, pipeline()), fit(frame, pipeline(), seed=1)
    assert again.metrics == fitted.metrics
    for name, value in fitted.model.weights.items():
        assert value.tobytes() == again.model.weights[name].tobytes(), name
    x_BTF = fitted.processed.dataset.x_MF[-20:, None]
    scores = [one.model.scorer().scores(x_BTF).tobytes() for one in (fitted, again, other)]
    assert scores[0] == scores[1] != scores[2]
    assert other.model.contract.seed == 1


def test_ticks_of_partitions_give_the_model_of_the_file(frame, boosted):
    of_topic = pd.concat([frame[frame["symbol"] == name] for name in ("SYN01", "SYN00")], ignore_index=True)
    again = fit(of_topic, RETURNS).model
    assert again.contract == boosted.model.contract
    assert again.contract.dataset_hash == boosted.processed.hash
    for name, value in boosted.model.weights.items():
        assert value.tobytes() == again.weights[name].tobytes(), name


def test_a_model_goes_on_from_another_with_its_scaler_and_dead_zone(frame, tmp_path):
    first = fit(frame.iloc[:4000], pipeline(train={"epochs": 1})).model
    first.save(tmp_path)

    first_steps = max(float(value) for name, value in first.weights.items() if ".step." in name)
    further = fit(frame.iloc[2000:].reset_index(drop=True), pipeline(), start=FittedModel.load(tmp_path)).model

    assert (further.contract.scaler, further.contract.dead_zone) == (first.contract.scaler, first.contract.dead_zone)
    assert further.contract.prior != first.contract.prior
    assert further.weights["shift"].tobytes() == first.weights["shift"].tobytes()
    assert further.contract.metrics["best_epoch"] >= 1
    weights = {name: value for name, value in first.weights.items() if not name.startswith("optimizer.")}
    moved = max(np.abs(further.weights[name] - value).max() for name, value in weights.items())
    assert 0 < moved < 0.2
    assert further.report["steps"]["judged"] >= 1
    remembered = {name for name in further.weights if name.startswith("optimizer.AdamW.")}
    assert {name.partition("exp_avg.")[2] for name in remembered if ".exp_avg." in name} < weights.keys()
    assert max(float(further.weights[name]) for name in remembered if ".step." in name) > first_steps
    assert further.contract.trained_from_ns == first.contract.trained_from_ns
    few = fit(frame.iloc[:3700], pipeline(train={"epochs": 1}), start=first).model
    assert few.contract.trained_to_ns == first.contract.trained_to_ns  # what its parent knows it knows
    assert 0 < few.contract.metrics["new_rows"] < 500
    assert few.contract.metrics["new_train_rows"] == 0
    assert 0 < further.contract.metrics["new_train_rows"] < further.contract.metrics["train_rows"]
    with pytest.raises(NotEnoughDataError, match="no row is new"):
        fit(frame.iloc[:3000], pipeline(), start=first)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"use": FEATURES[:2]}},
        {"features": {"window": 2}},
        {"label": {"horizons": ["3s"]}},
        {"label": {"kind": "return"}},
        {"model": {"params": {"hidden": [17]}}},
        {"model": {"kind": "lstm", "params": {}}},
    ],
)
def test_going_on_from_a_model_made_for_something_else_is_refused(frame, fitted, changes):
    with pytest.raises(SchemaMismatchError, match="cannot go on"):
        fit(frame, pipeline(**changes), start=fitted.model)


def test_weights_that_do_not_fit_the_code_of_the_model_are_refused(frame, fitted):
    weights = {name: value for name, value in fitted.model.weights.items() if not name.endswith("bias")}
    stripped = FittedModel(fitted.model.contract, fitted.model.onnx, weights)
    with pytest.raises(SchemaMismatchError, match="weights of the model do not fit"):
        fit(frame, pipeline(), start=stripped)


def test_boosted_trees_are_fitted_saved_and_served_like_a_network(frame, boosted, tmp_path):
    model, contract = boosted.model, boosted.model.contract
    assert (contract.model_kind, contract.metrics) == ("boosting", boosted.metrics)
    assert (contract.feature_hash, contract.scaler) == (boosted.processed.plan.hash, boosted.processed.scaler)
    assert contract.dataset_hash == boosted.processed.hash
    epochs = json.loads(json.dumps(model.report, allow_nan=False))["epochs"]
    assert len(epochs) == boosted.metrics["epochs_run"] + 1

    model.save(tmp_path)
    x_IF = boosted.processed.dataset.x_MF[-300:]
    served_IH = FittedModel.load(tmp_path).scorer().scores(x_IF[:, None])

    assert served_IH.tobytes() == model.scorer().scores(x_IF[:, None]).tobytes()
    for h in range(2):
        trees = lightgbm.Booster(model_str=model.weights[f"trees.0.{h}"].tobytes().decode())
        shift, unit = model.weights["shift"][h], model.weights["scale.0"][h]
        expected_I = shift + unit * trees.predict(scale(x_IF, contract.scaler))
        np.testing.assert_allclose(served_IH[:, h], expected_I, rtol=0, atol=1e-6 * unit)


def test_a_symbol_gets_a_model_of_its_own_by_a_pipeline_of_its_own(frame):
    label = {"kind": "return", "horizons": ["2s"]}
    own = fit(frame, pipeline(label=label, model=BOOSTING, source={"symbols": ["SYN01"]}))
    alone = fit(frame[frame["symbol"] == "SYN01"].reset_index(drop=True), pipeline(label=label, model=BOOSTING))

    data = own.processed.dataset
    assert {data.symbols[number] for number in data.symbol_N} == {"SYN01"}
    assert own.model.weights.keys() == alone.model.weights.keys()
    for name, value in own.model.weights.items():
        assert value.tobytes() == alone.model.weights[name].tobytes(), name
    with pytest.raises(SpecError, match=r"model.per_symbol: a model is of all symbols .* source.symbols"):
        pipeline(model={**BOOSTING, "per_symbol": True})


def test_quantiles_are_judged_by_their_loss_and_by_what_they_cover(frame):
    quantiles = (0.1, 0.5, 0.9)
    label = {"kind": "return", "horizons": ["1s", "2s"]}
    found = fit(frame, pipeline(label=label, model={**BOOSTING, "quantiles": quantiles}))
    data, holdout_I = found.processed.dataset, found.processed.holdout_I
    y_IHQ = found.model.scorer().outputs(data.x_MF[data.idx_NT[holdout_I]]).reshape(-1, 2, 3)

    lost, covered = [], []
    for h in range(2):
        for q, quantile in enumerate(quantiles):
            miss_I = data.y_NH[holdout_I, h] - y_IHQ[:, h, q].astype(np.float64)
            lost.append(np.where(miss_I > 0, quantile * miss_I, (quantile - 1) * miss_I).mean())
            covered.append((miss_I <= 0).mean())

    metrics = found.metrics
    assert metrics["holdout_pinball"] == pytest.approx(np.mean(lost))
    for name in ("holdout_pinball", "holdout_pinball_2s", "holdout_coverage_0.1", "holdout_coverage_0.9_1s"):
        low, high, *_ = found.intervals[name]
        assert low < metrics[name] < high, name
    assert metrics["holdout_pinball_2s"] == pytest.approx(np.mean(lost[3:]))
    assert [metrics[f"holdout_coverage_{quantile:g}_1s"] for quantile in quantiles] == pytest.approx(covered[:3])
    assert metrics["holdout_coverage_0.9"] == pytest.approx((covered[2] + covered[5]) / 2)
    assert [metrics[f"holdout_coverage_{quantile:g}"] for quantile in quantiles] == pytest.approx(quantiles, abs=0.1)


def test_a_return_model_is_judged_by_squared_error_in_squared_log_returns(boosted):
    found = boosted
    variance = np.mean([v for _, v in found.model.contract.prior])
    assert found.metrics["prior_squared_error"] == pytest.approx(variance, rel=0.6)
    assert found.metrics["holdout_squared_error"] < found.metrics["prior_squared_error"]
    assert {"holdout_ic_1s", "holdout_ic_2s"} < found.metrics.keys()
    assert found.metrics["holdout_ic"] == pytest.approx(
        (found.metrics["holdout_ic_1s"] + found.metrics["holdout_ic_2s"]) / 2
    )
    scores = found.model.scorer().scores(found.processed.dataset.x_MF[-50:, None])
    assert np.abs(scores).max() < 10 * np.sqrt(variance)


def test_progress_is_told_after_every_epoch_and_the_report_is_json_without_nan(frame):
    heard = []
    found = fit(frame, pipeline(model={**BOOSTING, "params": {"rounds": 2}}), progress=heard.append)
    assert [p.epoch for p in heard] == [0, 1, 2]
    report = json.loads(json.dumps(found.model.report, allow_nan=False))
    assert [epoch["epoch"] for epoch in report["epochs"]] == [0, 1, 2]
    assert report["processing"]["ticks"] == len(frame)


def test_rows_on_disk_give_the_weights_and_figures_of_rows_in_memory(frame, fitted):
    mapped = fit(frame, pipeline(load={"mapped": "always"}))
    assert isinstance(mapped.processed.dataset.x_MF, np.memmap)
    assert not isinstance(fitted.processed.dataset.x_MF, np.memmap)
    assert mapped.metrics == fitted.metrics
    for name, value in fitted.model.weights.items():
        assert value.tobytes() == mapped.model.weights[name].tobytes(), name


class Memory:
    """A store of one checkpoint."""

    data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data


def test_a_training_that_was_interrupted_gives_the_same_model_and_figures(frame, fitted):
    store, asked = Memory(), []

    def killed() -> bool:
        asked.append(None)
        return len(asked) == 60

    spec = pipeline(train={"checkpoint_steps": 7})
    undisturbed = fitted.model
    with pytest.raises(TrainingCancelledError):
        fit(frame, spec, cancelled=killed, checkpoint=store)
    assert store.data is not None
    heard = []
    found = fit(frame, spec, progress=heard.append, checkpoint=store)
    assert heard[0].epoch > 1
    assert found.metrics == fitted.metrics
    assert found.model.report["epochs"] == undisturbed.report["epochs"]
    for name, value in undisturbed.weights.items():
        assert value.tobytes() == found.model.weights[name].tobytes(), name


def test_cancelling_ends_the_training(frame):
    with pytest.raises(TrainingCancelledError):
        fit(frame, pipeline(), cancelled=lambda: True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": {"use": ["queue_imbalence"]}}, SpecError, "queue_imbalance"),
        ({"model": {"kind": "mpl"}}, UnknownPartError, "did you mean 'mlp'"),
        ({"model": {"params": {"hiden": []}}}, SpecError, "did you mean 'hidden'"),
        ({"model": {"kind": "nowhere:Net"}}, UnknownPartError, "model.kind: 'nowhere:Net'"),
        ({"train": {"loss": "nowhere:Loss"}}, UnknownPartError, "train.loss: 'nowhere:Loss'"),
    ],
)
def test_what_is_wrong_with_the_pipeline_is_said_before_anything_is_computed(changes, error, message):
    with pytest.raises(error, match=message):
        check(pipeline(**changes))
    with pytest.raises(error, match=message):
        fit(None, pipeline(**changes))  # type: ignore[arg-type]  # the frame is not looked at


def test_too_few_rows_and_wrong_columns_are_errors_of_the_project(frame):
    with pytest.raises(NotEnoughDataError, match=r"train\.min_rows"):
        fit(frame.iloc[:700], pipeline())
    with pytest.raises(SchemaMismatchError):
        fit(frame.drop(columns=["bid"]), pipeline())


def test_fitting_needs_neither_kafka_nor_a_model_store():
    others = ["aiokafka", "faust", "mlflow", "fastapi", "sqlalchemy"]
    code = f"import sys, ml_core.fit; print(sorted(set({others}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_triple_barrier_is_judged_as_classes_and_told_apart_by_its_barriers(frame):
    barrier = {"kind": "triple_barrier", "volatility_span": "30s"}
    found = fit(frame, pipeline(label=barrier, model=BOOSTING))
    assert found.metrics["holdout_log_loss"] < found.metrics["prior_log_loss"]
    assert found.model.contract.barriers == (1.0, 1.0, 30 * 10**9)
    assert found.metrics["holdout_auc"] > 0.55
    with pytest.raises(SchemaMismatchError, match="cannot go on: barriers"):
        fit(frame, pipeline(label={**barrier, "barriers": {"up": 2.0}}, model=BOOSTING), start=found.model)


def test_a_volatility_is_judged_by_what_came_and_has_no_edge(frame):
    found = fit(frame, pipeline(label={"kind": "volatility"}, model=BOOSTING))
    assert found.metrics["holdout_squared_error"] < 2 * found.metrics["prior_squared_error"]
    assert "holdout_ic" in found.metrics
    assert not {"holdout_auc", "holdout_net_edge_bps", "holdout_log_loss"} & found.metrics.keys()


def test_costs_of_both_ways_are_taken_from_the_edge(frame, boosted):
    dear = fit(frame, RETURNS.model_copy(update={"costs": Costs(fee_bps=0.5, half_spread=0.25)}))
    assert dear.metrics["holdout_net_edge_bps"] == pytest.approx(boosted.metrics["holdout_net_edge_bps"] - 1.5)


def test_augmentation_changes_what_is_learned_and_nothing_that_judges(frame, fitted):
    heard = []
    augmented = fit(frame, pipeline(train={"augment": ["jitter 0.1", "mixup 0.2"]}), progress=heard.append)
    assert augmented.processed.hash == fitted.processed.hash
    assert augmented.metrics["holdout_log_loss"] != fitted.metrics["holdout_log_loss"]
    assert heard[0].validation_loss == fitted.model.report["epochs"][0]["validation_loss"]
    assert augmented.metrics["holdout_log_loss"] < augmented.metrics["prior_log_loss"]
