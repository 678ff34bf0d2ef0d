import json

import numpy as np
import pytest

from ml_core.evaluation import metrics as measure
from ml_core.evaluation.compare import Rows, against, as_json, figures

RNG = np.random.default_rng(1)
RETURN = RNG.normal(size=3000) * 1e-4
GOOD = RETURN + 1e-4 * RNG.normal(size=3000)
POOR = RETURN + 4e-4 * RNG.normal(size=3000)
ROWS = Rows(np.arange(3000) * 10**9, RETURN, np.full(3000, 0.5e-4), 10 * 10**9)


def test_the_figures_are_those_of_the_measures() -> None:
    found = figures(GOOD / 2, ROWS)

    assert found.ic == measure.information_coefficient(GOOD, RETURN)
    assert found.pearson == pytest.approx(np.corrcoef(GOOD, RETURN)[0, 1])
    assert found.winsorised == pytest.approx(np.corrcoef(GOOD, measure.winsorised(RETURN))[0, 1])
    assert found.sign_auc == measure.sign_auc(GOOD, RETURN)
    assert found.r2 == pytest.approx(1 - ((RETURN - GOOD / 2) ** 2).sum() / (RETURN**2).sum())
    assert found.ic_interval.low < found.ic < found.ic_interval.high
    assert found.pearson_interval.blocks == found.ic_interval.blocks == 50


def test_scores_that_are_no_returns_have_no_share_of_variance_and_no_costs() -> None:
    found = figures(GOOD, ROWS, in_returns=False)

    assert np.isnan([found.r2, found.acted, found.after_costs_bps]).all()


def test_the_better_model_is_better_on_the_same_rows() -> None:
    found = against(GOOD, POOR, ROWS, rival="poor")

    assert found.ic == pytest.approx(figures(GOOD, ROWS).ic - figures(POOR, ROWS).ic)
    assert 0 < found.ic_interval.low < found.ic < found.ic_interval.high
    assert 0 < found.pearson_interval.low < found.pearson < found.pearson_interval.high


def test_one_wild_second_moves_the_plain_figure_and_hardly_the_winsorised_one() -> None:
    return_N = RETURN.copy()
    return_N[7] = 0.05
    found = figures(GOOD, ROWS._replace(return_N=return_N))

    assert abs(found.pearson) < 0.2 < found.winsorised


def test_figures_are_json_with_null_for_what_is_not_defined() -> None:
    found = json.loads(
        json.dumps(as_json({"zero": figures(np.zeros(3000), ROWS), "n": np.float64(2.0)}), allow_nan=False)
    )

    assert found["zero"]["ic"] is None
    assert found["zero"]["ic_interval"]["reason"].startswith("it is not defined")
    assert found["n"] == 2.0
