import numpy as np
import pytest

from ml_core.contract import Scaler
from ml_core.data_processor.dataset import Dataset, Processed
from ml_core.data_processor.labels import classes
from ml_core.data_processor.plan import FeaturePlan
from ml_core.fit import Fit
from ml_core.model.export import restated
from ml_core.spec import parse
from ml_core.types import SECOND_NS
from model_ops_manager.jobs.evidence import Champion, judge
from tests.api.model_lab import make_model

SPEC = parse({"name": "demo", "features": {"use": ["return:1s", "queue_imbalance"]}, "label": {"horizons": ["1s"]}})
ROWS = 600
NARROW, WIDE = (0.5,), (2.0,)


@pytest.fixture(scope="module")
def models():
    """Two models whose idea of `flat` differs; the second saw the first half of the rows."""
    one, two = (make_model(SPEC, seed=seed) for seed in range(2))
    return restated(one, dead_zone=NARROW, trained_to_ns=0), restated(two, dead_zone=WIDE, trained_to_ns=0)


def processed(dead_zone: tuple[float, ...]) -> Processed:
    rng = np.random.default_rng(0)
    ts_ns_N = np.arange(ROWS) * (SECOND_NS // 10)
    return_NH = rng.normal(0, 1.5, (ROWS, 1))
    dataset = Dataset(
        x_MF=rng.normal(size=(ROWS, 2)).astype(np.float32),
        idx_NT=np.arange(ROWS, dtype=np.int32)[:, None],
        ts_ns_N=ts_ns_N,
        end_ns_NH=ts_ns_N[:, None] + SECOND_NS,
        return_NH=return_NH,
        y_NH=classes(return_NH, dead_zone),
        weight_N=np.ones(ROWS, np.float32),
        symbol_N=np.zeros(ROWS, np.int32),
        symbols=("A",),
    )
    none, plan = np.empty(0, np.int64), FeaturePlan.from_spec(SPEC)
    scaler = Scaler(median=(0.0, 0.0), iqr=(1.0, 1.0))
    return Processed(dataset, none, none, np.arange(ROWS), scaler, dead_zone, ((0.3, 0.4, 0.3),), plan, {})


def fit_of(model) -> Fit:
    return Fit(model, processed(model.contract.dead_zone), {}, {})


def test_neither_side_gains_by_its_own_idea_of_flat(models):
    one, two = models
    ahead = judge(fit_of(one), SPEC, Champion(1, two.scorer())).figures
    behind = judge(fit_of(two), SPEC, Champion(1, one.scorer())).figures

    assert ahead["candidate_loss"] == pytest.approx(behind["rival_loss"], rel=1e-12)
    assert ahead["rival_loss"] == pytest.approx(behind["candidate_loss"], rel=1e-12)


def test_one_graph_with_two_ideas_of_flat_is_no_better_than_itself(models):
    same = restated(models[0], dead_zone=WIDE)
    figures = judge(fit_of(models[0]), SPEC, Champion(1, same.scorer())).figures
    assert figures["candidate_loss"] == figures["rival_loss"]


def test_only_rows_after_the_champions_training_count(models):
    candidate, champion = models
    middle_ns = (ROWS // 2) * (SECOND_NS // 10)
    champion = restated(champion, trained_to_ns=middle_ns)

    decision = judge(fit_of(candidate), SPEC, Champion(4, champion.scorer()))

    assert decision.figures["rows"] == ROWS // 2 - 1
    assert decision.figures["rival"] == "version 4"
    everything = restated(champion, trained_to_ns=10**18)
    decision = judge(fit_of(candidate), SPEC, Champion(4, everything.scorer()))
    assert (decision.promote, decision.figures) == (False, {"rows": 0})


def test_a_first_model_is_held_against_the_prior(models):
    decision = judge(fit_of(models[0]), SPEC, None)
    assert decision.figures["rival"] == "the prior"
    assert decision.figures["rows"] == ROWS


def test_a_champion_that_answers_another_question_is_no_rival(models):
    other = restated(models[1], delay_ns=5, label_price="trade")
    decision = judge(fit_of(models[0]), SPEC, Champion(4, other.scorer()))
    assert decision.figures["rival"] == "the prior"
    assert decision.reason.startswith("version 4 answers another question (label_price, delay_ns changed)")
