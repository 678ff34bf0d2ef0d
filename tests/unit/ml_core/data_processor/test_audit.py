"""Each leak that is planted into `process` is found by the audit, and nothing is found where there is none."""

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.contract import Encoding
from ml_core.data_processor import dataset, samples, windows
from ml_core.data_processor.audit import audit, refuse_leaks
from ml_core.data_processor.dataset import process, rows_of
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.labels import Labels
from ml_core.data_processor.scaling import fit_scaler
from ml_core.errors import LeakError
from ml_core.types import RowBatch, RowFlag
from tests.unit.ml_core.data_processor.market import pipeline

SPEC = pipeline(
    ["return:1s", "queue_imbalance"],
    features={"window": 4, "gap": "5s"}, label={"horizons": ["1s"], "delay": "20ms"}, train={"min_rows": 500},
)  # fmt: skip


@pytest.fixture(scope="module")
def ticks() -> pd.DataFrame:
    """Two minutes of two symbols, with a silence of ten seconds in the middle."""
    made = Synthetic(Market(symbols=2, ticks=12_000, rate=100, seed=3)).fetch()
    made.loc[made.index >= 6000, "ts_ns"] += 10 * 10**9
    return made


def found(ticks: pd.DataFrame, frame: pd.DataFrame | None = None) -> set[str]:
    return {finding.check for finding in audit(process(ticks, SPEC), SPEC, frame=frame)}


@pytest.mark.parametrize("label", ["direction", "return", "triple_barrier", "volatility"])
def test_nothing_is_found_where_nothing_leaks(ticks, label) -> None:
    asked = SPEC.model_copy(update={"label": SPEC.label.model_copy(update={"kind": label, "volatility_span": 10**10})})
    made = process(ticks, asked)
    assert audit(made, asked, frame=ticks) == []


def test_a_scaler_fitted_on_everything_is_found(ticks, monkeypatch) -> None:
    everything = rows_of(ticks, FeaturePlan.from_spec(SPEC)).x_NF
    monkeypatch.setattr(dataset, "fit_scaler", lambda _: fit_scaler(everything))
    assert found(ticks) == {"scaler"}


def test_an_encoding_of_other_rows_is_found(ticks, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "fit_encoding", lambda *_: Encoding(missing=("queue_imbalance",)))
    assert found(ticks) == {"encoding"}


def test_a_label_shifted_by_one_is_found(ticks, monkeypatch) -> None:
    honest = samples.label

    def shifted(*args, **more) -> Labels:
        made = honest(*args, **more)
        return made._replace(return_NH=np.roll(made.return_NH, -1, axis=0))

    monkeypatch.setattr(samples, "label", shifted)
    assert found(ticks) == {"label"}


def test_a_centred_window_is_found(ticks, monkeypatch) -> None:
    # each sample is given the window of the next row of its symbol
    def centred(symbol_N, flags_N, window):
        idx_NT = windows.link(symbol_N, flags_N, window)
        moved_NT = idx_NT.copy()
        for symbol in np.unique(symbol_N):
            rows = np.flatnonzero((symbol_N == symbol) & (idx_NT[:, 0] >= 0))
            moved_NT[rows[:-1]] = idx_NT[rows[1:]]
        return moved_NT

    monkeypatch.setattr(samples, "link", centred)
    assert "window" in found(ticks)


def test_a_centred_feature_is_found_once_the_ticks_are_looked_at(ticks, monkeypatch) -> None:
    honest = samples.move

    def centred(*args):
        made = honest(*args)
        x_NF = made.rows.x_NF.copy()
        x_NF[:-1, 1] = (x_NF[:-1, 1] + x_NF[1:, 1]) / 2
        return made._replace(rows=RowBatch(**(made.rows._asdict() | {"x_NF": x_NF})))

    monkeypatch.setattr(samples, "move", centred)
    assert found(ticks) == set()
    [finding] = audit(process(ticks, SPEC), SPEC, frame=ticks)
    assert finding.check == "look-ahead"
    assert finding.message.startswith("queue_imbalance of a row")


def test_a_row_whose_label_ends_after_the_cut_is_found(ticks, monkeypatch) -> None:
    honest = dataset.split
    monkeypatch.setattr(dataset, "split", lambda ts_N, _, cut: honest(ts_N, ts_N[:, None], cut))
    assert found(ticks) == {"cut"}
    with pytest.raises(LeakError, match=r"cut: \d+ labels of train end after validation begins"):
        refuse_leaks(process(ticks, SPEC), SPEC)


def test_a_gap_inside_a_window_is_found(ticks, monkeypatch) -> None:
    def blind(symbol_N, flags_N, window):
        gap_N = (flags_N & int(RowFlag.GAP)) != 0
        return windows.link(symbol_N, np.where(gap_N, np.uint8(RowFlag.STALE), flags_N), window)

    monkeypatch.setattr(samples, "link", blind)
    assert found(ticks) == {"gap"}
