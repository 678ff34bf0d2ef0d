from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core import contenders
from ml_core import spec as pipelines
from ml_core.data_processor.dataset import Processed, process
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.samples import Samples, make_samples
from ml_core.errors import InputError, NotEnoughDataError
from ml_core.evaluation.metrics import information_coefficient
from ml_core.fit import fit
from ml_core.spec import PipelineSpec
from ml_core.types import SECOND_NS
from ml_core.walk_forward import Fold, folds, over, prepare, scores, walk_forward


def pipeline(kind: str = "return", **train: Any) -> PipelineSpec:
    return pipelines.parse(
        {
            "name": "demo",
            "features": {"use": ["return:1s", "queue_imbalance", "queue_imbalance_mean:1s"]},
            "label": {"horizons": ["2s"], "kind": kind},
            "model": {"kind": "mlp", "params": {"hidden": [8]}},
            "train": {"epochs": 2, "min_rows": 500, "batch_size": 256, "learning_rate": 0.01, **train},
        }
    )


PLAN = FeaturePlan.from_spec(pipeline())


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return open_source("synthetic:symbols=2,ticks=6000,rate=20,seed=1").fetch()


@pytest.fixture(scope="module")
def samples(frame) -> Samples:
    return make_samples(frame, pipeline(), PLAN)


def times(samples: Samples) -> np.ndarray:
    return samples.rows.ts_ns_N[samples.row_N]


@pytest.mark.parametrize("scheme", ["expanding", "rolling"])
def test_no_label_to_learn_from_reaches_into_the_test_or_its_embargo(samples, scheme) -> None:
    cuts = folds(times(samples), count=3, scheme=scheme, embargo_ns=5 * SECOND_NS)
    for fold in cuts:
        parts = prepare(samples, pipeline(), PLAN, fold)
        data = parts.dataset
        learned_I = np.concatenate([parts.train_I, parts.validation_I])

        assert data.end_ns_NH[learned_I].max() < fold.test_ns
        assert data.end_ns_NH[parts.train_I].max() < data.ts_ns_N[parts.validation_I].min() - 5 * SECOND_NS
        assert data.ts_ns_N[learned_I].min() >= fold.from_ns
        tested_N = (data.ts_ns_N >= fold.test_ns + 5 * SECOND_NS) & (data.ts_ns_N < fold.to_ns)
        assert parts.holdout_I.tolist() == np.flatnonzero(tested_N).tolist()
        within = int(((data.ts_ns_N >= fold.from_ns) & (data.ts_ns_N < fold.to_ns)).sum())
        left_out = parts.report["purged"] + parts.report["embargoed"]
        assert left_out == within - len(learned_I) - len(parts.holdout_I) > parts.report["embargoed"] > 0


def test_folds_follow_one_another_and_test_every_later_row_once() -> None:
    ts_N = np.random.default_rng(0).permutation(1000)
    grown, rolled = (folds(ts_N, count=4, first=0.2, scheme=scheme) for scheme in ("expanding", "rolling"))

    assert [(fold.test_ns, fold.to_ns) for fold in grown] == [(200, 400), (400, 600), (600, 800), (800, 1000)]
    assert [fold.from_ns for fold in grown] == [0] * 4
    assert [fold.from_ns for fold in rolled] == [0, 200, 400, 600]
    with pytest.raises(InputError, match="10 samples do not make 20 folds"):
        folds(np.arange(10), count=20)


@pytest.mark.parametrize("kind", ["return", "direction"])
def test_a_fold_is_what_the_product_makes_of_the_same_cuts(frame, samples, kind) -> None:
    spec = pipeline(kind)
    whole = process(frame, spec)
    cut_ns, test_ns = whole.report["cuts_ns"]
    ts_N = times(samples)
    share = np.mean(ts_N[ts_N < test_ns] >= cut_ns)
    fold = prepare(samples, pipeline(kind, validation=float(share)), PLAN, Fold(0, test_ns, int(ts_N.max()) + 1))

    for name in ("train_I", "validation_I", "holdout_I", "scaler", "dead_zone", "prior"):
        assert np.array_equal(getattr(fold, name), getattr(whole, name)), name
    for ours, theirs in zip(fold.dataset, whole.dataset, strict=True):
        assert ours.tobytes() == theirs.tobytes() if isinstance(ours, np.ndarray) else ours == theirs


@pytest.mark.parametrize("kind", ["return", "direction"])
def test_a_network_here_scores_as_the_fitted_one_that_is_served(frame, kind) -> None:
    spec = pipeline(kind)
    served = fit(frame, spec)
    rows = scores(served.processed, contenders.model(spec)(served.processed))

    assert information_coefficient(rows.score_IH[:, 0], rows.return_IH[:, 0]) == pytest.approx(
        served.metrics["holdout_ic"], abs=1e-4
    )


def test_what_walks_forward_finds_what_is_there_and_the_prior_does_not(frame, samples) -> None:
    found = walk_forward(frame, pipeline(), contenders.ridge(), count=2)
    rows = found.pooled

    assert (
        len(rows.ts_ns_I)
        == sum(each["test_rows"] for each in found.figures)
        == (times(samples) >= found.folds[0].test_ns).sum()
    )
    assert (np.diff(rows.ts_ns_I) >= 0).all()
    assert information_coefficient(rows.score_IH[:, 0], rows.return_IH[:, 0]) > 0.1
    assert all(each["ic"] > 0.1 < each["pearson"] for each in found.figures)
    nothing = over(samples, pipeline(), PLAN, found.folds, contenders.prior)
    assert all(np.isnan(each["ic"]) for each in nothing.figures)


def test_what_comes_after_a_fold_changes_nothing_in_it(frame, samples) -> None:
    fold = folds(times(samples), count=2)[0]
    early = make_samples(frame[frame["ts_ns"] < fold.to_ns + 30 * SECOND_NS], pipeline(), PLAN)
    both = [scored(prepare(each, pipeline(), PLAN, fold)) for each in (samples, early)]

    assert both[0].tobytes() == both[1].tobytes()


def scored(processed: Processed) -> np.ndarray:
    return scores(processed, contenders.ridge(0.1)(processed)).score_IH


def test_momentum_goes_on_and_zero_stays(samples) -> None:
    processed = prepare(samples, pipeline(), PLAN, folds(times(samples), count=1)[0])
    rows_I = processed.holdout_I
    past_I = processed.dataset.x_MF[processed.dataset.idx_NT[rows_I, -1], list(PLAN.names).index("return:1s")]

    assert np.array_equal(contenders.momentum("return:1s")(processed)(rows_I)[:, 0], past_I)
    assert not contenders.zero(processed)(rows_I).any()


def test_a_ridge_that_learns_in_a_mirror_learns_no_drift(samples) -> None:
    processed = prepare(samples, pipeline(), PLAN, folds(times(samples), count=1)[0])
    data, rows_I = processed.dataset, processed.holdout_I
    drifting = processed._replace(dataset=data._replace(return_NH=data.return_NH + 1e-3))

    def mean(mirror: bool) -> float:
        return float(contenders.ridge(0.1, mirror=mirror)(drifting)(rows_I).mean())

    assert mean(mirror=False) == pytest.approx(1e-3, rel=0.1)
    assert abs(mean(mirror=True)) < 1e-4
    plain, mirrored = (contenders.ridge(0.1, mirror=each)(processed)(rows_I)[:, 0] for each in (False, True))
    assert np.corrcoef(plain, mirrored)[0, 1] > 0.9


def test_a_fold_without_rows_says_which_part_has_none(samples) -> None:
    first_ns = int(times(samples).min())
    with pytest.raises(NotEnoughDataError, match="no rows to learn from"):
        prepare(samples, pipeline(), PLAN, Fold(first_ns, first_ns, first_ns + SECOND_NS))
    with pytest.raises(NotEnoughDataError, match="the validation part has no rows"):
        prepare(
            samples, pipeline(), PLAN, Fold(first_ns, first_ns + 3 * SECOND_NS, first_ns + 9 * SECOND_NS, SECOND_NS)
        )
