"""A card says what was measured, with plots."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from ml_core import contenders
from ml_core import spec as pipelines
from ml_core.errors import InputError
from ml_core.evaluation.compare import Rows
from ml_core.evaluation.coverage import after_costs
from ml_core.fit import fit
from model_ops_manager import card
from model_ops_manager.card import Shown

RNG = np.random.default_rng(0)
RETURN = 1e-4 * RNG.normal(size=2000)
ROWS = Rows(np.arange(2000) * 10**9, RETURN, np.full(2000, 1e-5), 10 * 10**9)
GOOD = Shown("good", RETURN / 2 + 0.5e-4 * RNG.normal(size=2000), error_V=1e-4 * RNG.normal(size=500))
LINE = Shown("ridge", RETURN / 4 + 1e-4 * RNG.normal(size=2000))
ZERO = Shown("zero", np.zeros(2000))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "made"
    return card.write(folder, "Model card: demo", {"pipeline": "demo"}, [GOOD, LINE, ZERO], ROWS)


def row_of(text: str, name: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_card_names_every_model_with_its_interval_and_its_difference_to_ridge(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    good, line, zero = card.results([GOOD, LINE, ZERO], ROWS)

    assert row_of(text, "good")[1].startswith(f"{good.figures.ic:.3f} ({good.figures.ic_interval.low:.3f} to ")
    assert row_of(text, "good")[9].startswith(f"{good.figures.ic - line.figures.ic:.3f} (")
    assert row_of(text, "ridge")[9:] == ["", ""]
    assert row_of(text, "zero")[1:6] == ["", "", "", "0.500", "0.0000"]
    assert zero.ahead is not None
    assert "Without an interval: it is not defined" in text
    assert "- pipeline: demo" in text


def test_every_plot_that_a_card_names_is_a_picture_beside_it(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    named = [line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]

    assert named == [f"card_{what}.png" for what in ("calibration", "reliability", "cumulative-ic", "cumulative-edge")]
    assert all((written.parent / name).read_bytes().startswith(b"\x89PNG") for name in named)


def test_a_card_says_how_sure_a_model_is_and_what_its_width_holds() -> None:
    wide = GOOD._replace(error_V=np.full(500, 1.0))
    narrow = GOOD._replace(error_V=np.full(500, 1e-9))
    held = ["\n".join(card.told(model, ROWS)) for model in (wide, narrow)]

    assert "lie 100.0% of these" in held[0]
    assert "lie 0.0% of these" in held[1]
    assert "| 100% | 2,000 |" in held[0]
    assert "Calibration: what came is 1.0" in "\n".join(card.told(Shown("right", RETURN), ROWS))


def test_a_volatility_has_no_card_of_returns(tmp_path: Path) -> None:
    spec = pipelines.parse({"name": "demo", "label": {"kind": "volatility"}})

    with pytest.raises(InputError, match="a volatility has no sign"):
        card.of_fit(None, spec, tmp_path)


def test_the_prior_of_classes_is_told_from_that_of_numbers_by_its_shares() -> None:
    shares = SimpleNamespace(prior=((0.2, 0.5, 0.3),), dead_zone=())  # of a triple barrier
    numbers = SimpleNamespace(prior=((-9.0, 4.0),), dead_zone=(1e-5,))  # of a volatility

    assert contenders.prior(shares)(np.arange(2))[:, 0] == pytest.approx([0.1, 0.1])
    assert contenders.prior(numbers)(np.arange(1)).tolist() == [[-9.0]]


@pytest.mark.parametrize("kind", ["return", "direction"])
def test_the_card_of_a_fitted_model_has_its_hold_out_figures_and_all_baselines(tmp_path: Path, kind: str) -> None:
    spec = pipelines.parse(
        {
            "name": "demo",
            "features": {"use": ["return:1s", "queue_imbalance_mean:1s", "relative_spread"]},
            "label": {"horizons": ["2s"], "kind": kind},
            "costs": {"fee_bps": 0.1, "half_spread": 0.2},
            "model": {"kind": "boosting", "params": {"rounds": 40}},
            "train": {"min_rows": 500},
        }
    )
    fitted = fit(open_source("synthetic:symbols=2,ticks=6000,rate=20,seed=1").fetch(), spec)
    text = card.of_fit(fitted, spec, tmp_path).read_text(encoding="utf-8")

    assert row_of(text, "boosting")[1].startswith(f"{fitted.metrics['holdout_ic']:.3f}")
    assert row_of(text, "boosting")[4] == f"{fitted.metrics['holdout_auc']:.3f}"
    assert (row_of(text, "boosting")[5] == "") == (kind == "direction")
    rows_I = fitted.processed.holdout_I
    said_I = contenders.ridge()(fitted.processed)(rows_I)[:, 0]
    left = after_costs(said_I, fitted.processed.dataset.return_NH[rows_I, 0], np.full(len(rows_I), 0.6e-4))
    assert row_of(text, "ridge")[7:9] == [f"{left.share:.1%}", f"{left.total_bps:.4f}"]
    for name in ("ridge", "zero", "prior", "momentum"):
        assert row_of(text, name)
    assert f"label: {kind} of the mid over 2s" in text
