import json
import re

import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.contract import Encoding, ModelContract
from ml_core.data_processor import calendars, cleaning
from ml_core.data_processor.dataset import Processed, process, rows_of
from ml_core.data_processor.features import FeaturePlan, FeatureState, step
from ml_core.data_processor.samples import make_samples
from ml_core.data_processor.scaling import fit_scaler, scale
from ml_core.data_processor.splits import Cut, cut_by_shares, split
from ml_core.errors import NotEnoughDataError, SchemaMismatchError, SpecError
from ml_core.spec import PipelineSpec
from ml_core.types import MAX_TS_NS, RowFlag, SymbolTable
from tests.unit.ml_core.data_processor.market import NAN, START_NS, batch, frame, pipeline, quote, trade

S = 10**9
SHORT = {"horizons": ["1s"], "delay": "20ms"}


@pytest.fixture(scope="module")
def ticks() -> pd.DataFrame:
    return Synthetic(Market(symbols=3, ticks=40_000, rate=400, seed=3)).fetch()


def spec(**parts: object) -> PipelineSpec:
    return pipeline(**{"label": SHORT, "train": {"min_rows": 1000}, **parts})


def contract(processed: Processed, made_for: PipelineSpec) -> ModelContract:
    return ModelContract(
        pipeline="test", spec_hash=made_for.hash, model_kind="mlp", features=processed.plan.names,
        feature_hash=processed.plan.hash, window=1, label_kind=made_for.label.kind, label_price="mid",
        horizons_ns=made_for.label.horizons, delay_ns=made_for.label.delay, dead_zone=(0.5,), prior=processed.prior,
        scaler=processed.scaler, encoding=processed.encoding, trained_from_ns=0, trained_to_ns=1, seed=0,
        code_version="test",
    )  # fmt: skip


def test_rows_of_a_frame_are_those_of_the_live_step(ticks: pd.DataFrame) -> None:
    from ml_core import frames

    plan, symbols = FeaturePlan.from_spec(spec()), SymbolTable()
    columns = frames.to_batch(ticks, symbols)
    live = step(columns, FeatureState(plan, symbols))
    assert rows_of(ticks, plan).x_NF.tobytes() == live.x_NF.tobytes()


def test_processing_twice_gives_the_same_bytes(ticks: pd.DataFrame) -> None:
    first, second = process(ticks, spec()), process(ticks, spec())
    for name, one, other in zip(first.dataset._fields, first.dataset, second.dataset, strict=True):
        assert name == "symbols" or one.tobytes() == other.tobytes(), name
    assert first.report == second.report
    assert first.scaler == second.scaler


def test_parts_follow_one_another_and_no_label_reaches_into_the_next(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec(label={"horizons": ["1s", "3s"]}))
    data, (first_cut, second_cut) = made.dataset, made.report["cuts_ns"]
    assert data.end_ns_NH[made.train_I].max() < first_cut <= data.ts_ns_N[made.validation_I].min()
    assert data.end_ns_NH[made.validation_I].max() < second_cut <= data.ts_ns_N[made.holdout_I].min()
    samples = len(data.ts_ns_N)
    parts = len(made.train_I) + len(made.validation_I) + len(made.holdout_I)
    assert parts + made.report["purged"] == samples
    assert len(made.holdout_I) == pytest.approx(0.15 * samples, abs=2)
    assert (data.ts_ns_N >= first_cut).sum() == pytest.approx(0.30 * samples, abs=2)


def test_windows_end_with_the_row_of_the_sample(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec(features={"window": 4}))
    rows = rows_of(ticks, made.plan)
    assert made.dataset.idx_NT.shape[1] == 4
    assert (rows.ts_ns_N[made.dataset.idx_NT[:, -1]] == made.dataset.ts_ns_N).all()
    of_rows, of_samples = np.array(rows.symbols), np.array(made.dataset.symbols)
    assert (of_rows[rows.symbol_N][made.dataset.idx_NT] == of_samples[made.dataset.symbol_N][:, None]).all()
    assert (np.diff(made.dataset.idx_NT, axis=1) > 0).all()


def test_no_sample_sees_what_comes_after_it(ticks: pd.DataFrame) -> None:
    # samples of a frame that ends early are those of the whole frame, features and labels alike
    whole = process(ticks, spec(features={"window": 3}))
    for end in (25_000, 31_234, 39_999):
        early = process(ticks.iloc[:end], spec(features={"window": 3}))
        n = len(early.dataset.ts_ns_N)
        shared = np.isin(whole.dataset.idx_NT[:, -1], early.dataset.idx_NT[:, -1])
        assert shared.sum() == n
        early_x = early.dataset.x_MF[early.dataset.idx_NT]
        assert early_x.tobytes() == whole.dataset.x_MF[whole.dataset.idx_NT[shared]].tobytes()
        assert early.dataset.return_NH.tobytes() == whole.dataset.return_NH[shared].tobytes()


def test_scaling_is_fitted_on_training_rows_alone(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec())
    changed = ticks.copy()
    late = changed["ts_ns"] >= made.report["cuts_ns"][0]
    for name in ("bid_size", "size"):
        changed.loc[late, name] *= 1000
    again = process(changed, spec())
    assert again.report["cuts_ns"] == made.report["cuts_ns"]
    assert again.scaler == made.scaler
    assert again.dead_zone == made.dead_zone


def test_missing_features_and_codes_are_those_of_training_rows_and_a_model_that_learns_on_keeps_them(
    ticks: pd.DataFrame,
) -> None:
    own = (f"ml_core.data_processor.codes:{part}" for part in ("HourOfDay", "DayOfWeek", "TickSide"))
    categories = ["is_trade", "hour_of_day", "day_of_week", "tick_side"]
    use = ["return:1s", "queue_imbalance", "is_trade", *own]
    asked = spec(features={"use": use, "missing": "indicator", "categories": categories})
    first = pd.Timestamp(ticks["ts_ns"].iloc[0])
    codes = {
        "is_trade": (0, 1),
        "hour_of_day": (first.hour,),
        "day_of_week": (first.day_of_week,),
        "tick_side": (-1, 1),
    }
    made = process(ticks, asked)
    is_late = ticks["ts_ns"] >= made.report["cuts_ns"][0]
    late, early = (
        ticks.assign(bid_size=ticks["bid_size"].mask(part)) for part in (is_late, ~is_late & ticks.index % 2)
    )

    assert made.encoding == process(late, asked).encoding == Encoding(codes=codes)
    found = process(early, asked)
    assert found.encoding == Encoding(missing=("queue_imbalance",), codes=codes)
    fixed = contract(found, asked).model_copy(update={"dead_zone": (1e-4,)})
    assert process(ticks, asked, fixed=fixed).encoding == found.encoding
    with pytest.raises(
        SchemaMismatchError, match=r"missing values of .'queue_imbalance'., the pipeline asks for .* and 'neutral'"
    ):
        process(ticks, spec(features={**asked.features.model_dump(), "missing": "neutral"}), fixed=fixed)


def test_a_category_is_one_of_the_features() -> None:
    with pytest.raises(
        SpecError, match=r"features.categories: 'is_trad' is none of features.use; did you mean 'is_trade'"
    ):
        FeaturePlan.from_spec(spec(features={"use": ["is_trade"], "categories": ["is_trad"]}))


def test_an_edge_that_was_planted_is_found_in_the_samples_and_none_where_there_is_none() -> None:
    def correlation(edge: float) -> float:
        market = Synthetic(Market(symbols=1, ticks=40_000, rate=200, edge=edge, seed=5)).fetch()
        made = process(market, spec(features={"use": ["queue_imbalance_mean:1s", "return:1s"]}))
        queue_N = made.dataset.x_MF[made.dataset.idx_NT[:, -1], 0]
        return float(np.corrcoef(queue_N, made.dataset.return_NH[:, 0])[0, 1])

    assert correlation(1.0) > 0.3
    assert abs(correlation(0.0)) < 0.15


def test_training_weights_have_mean_one_and_can_be_switched_off(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec())
    assert made.dataset.weight_N[made.train_I].mean() == pytest.approx(1.0, abs=1e-4)
    assert made.dataset.weight_N.std() > 0
    plain = process(ticks, spec(train={"min_rows": 1000, "weights": "none"}))
    assert (plain.dataset.weight_N == 1).all()


@pytest.mark.parametrize("price", ["mid", "trade"])
def test_labels_are_read_from_prices_whose_time_is_believed(price: str) -> None:
    ticks = [trade(0.5 * i + (3600 if i == 20 else 0), 200 if i == 20 else 100) for i in range(40)]
    made_for = spec(label={"price": price, **SHORT}, features={"use": ["signed_volume:1s"]})
    made = make_samples(frame(ticks), made_for, FeaturePlan.from_spec(made_for))
    assert made.path.price_P.tolist() == [100.0] * 39
    assert made.report["rows_dropped"]["ahead"] == 1
    assert made.end_ns_NH.max() == START_NS + 19_020_000_000  # behind the wrong stamp labels go on


@pytest.mark.parametrize("price", ["mid", "trade"])
def test_labels_are_read_from_no_price_that_came_late(price: str) -> None:
    # The stamp of number 20 is wrong within the gap bound, so it is believed, and what follows is late.
    ticks = [trade(0.5 * i + (30 if i == 20 else 0), 200 if i == 20 else 100 + i) for i in range(40)]
    made_for = spec(label={"price": price, **SHORT}, features={"use": ["signed_volume:1s"]})
    made = make_samples(frame(ticks), made_for, FeaturePlan.from_spec(made_for))
    assert made.path.price_P.tolist() == [*range(100, 120), 200.0]
    assert (np.diff(made.path.ts_ns_P) > 0).all()


def test_labels_know_the_mids_between_rows_too() -> None:
    # a trade a second, and the mid moves a tenth of a second behind it: only the label of 50 ms ends before that
    ticks = [tick for i in range(20) for tick in (trade(i, 99 + i), quote(i + 0.1, 99 + i, 101 + i))]
    label = {"horizons": ["50ms", "200ms"]}
    made_for = spec(label=label, features={"use": ["signed_volume:1s"], "rows_on": ["trade"]})
    made = make_samples(frame(ticks), made_for, FeaturePlan.from_spec(made_for))
    assert set(made.rows.mid_N[made.row_N]) <= set(made.path.price_P)
    moved_N = np.log((made.rows.mid_N[made.row_N] + 1) / made.rows.mid_N[made.row_N])
    assert len(moved_N) > 10
    assert made.return_NH == pytest.approx(np.stack([0 * moved_N, moved_N], axis=1))


def test_a_row_that_is_ahead_leaves_the_sample_of_its_time() -> None:
    flags_N = np.array([0, RowFlag.AHEAD, 0, 0], np.uint8)
    shadowed_N = cleaning.shadowed(np.zeros(4, np.int32), np.array([7, 7, 8, 8]), flags_N)
    assert shadowed_N.tolist() == [False, False, True, False]


def test_returns_are_targets_where_the_label_says_so(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec(label={"kind": "return", **SHORT}))
    assert made.dataset.y_NH.dtype == np.float32
    assert made.dead_zone == ()
    [(mean, variance)] = made.prior
    assert mean == pytest.approx(float(made.dataset.return_NH[made.train_I].mean()), rel=1e-3, abs=1e-9)
    assert variance > 0


def test_class_shares_are_the_prior(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec())
    shares = np.bincount(made.dataset.y_NH[made.train_I, 0], minlength=3) / len(made.train_I)
    assert made.prior[0] == pytest.approx(shares.tolist(), abs=1e-3)
    assert sum(made.prior[0]) == pytest.approx(1.0)


def test_labels_can_be_read_from_trades(ticks: pd.DataFrame) -> None:
    trades = ticks[ticks["type"] == "trade"].reset_index(drop=True)
    made = process(trades, spec(label={"price": "trade", **SHORT}, features={"use": ["return:1s", "signed_volume"]}))
    assert made.report["dead_zone"]["spread"] == "median jump of trade prices"
    assert len(made.holdout_I) > 0


def test_a_model_that_learns_on_keeps_scaler_and_dead_zone(ticks: pd.DataFrame) -> None:
    fixed = contract(process(ticks, spec()), spec())
    later = Synthetic(Market(symbols=3, ticks=40_000, rate=400, seed=4)).fetch()
    with pytest.raises(NotEnoughDataError, match=r"all .* rows to train on are 'flat'"):
        process(later, spec(), fixed=fixed)  # its dead zone is half of the price
    fixed = fixed.model_copy(update={"dead_zone": (1e-4,)})
    made = process(later, spec(), fixed=fixed)
    assert made.scaler == fixed.scaler
    assert made.dead_zone == (1e-4,)


def test_a_model_that_learns_on_is_trained_and_judged_on_rows_that_are_new_to_it(ticks: pd.DataFrame) -> None:
    before = process(ticks.iloc[:32_000], spec())
    known_I = np.concatenate([before.train_I, before.validation_I])
    known_ns = int(before.dataset.end_ns_NH[known_I].max())
    fixed = contract(before, spec()).model_copy(update={"trained_to_ns": known_ns, "dead_zone": before.dead_zone})

    made = process(ticks, spec(), fixed=fixed)

    new_N = made.dataset.ts_ns_N > known_ns
    assert not new_N.all()
    assert new_N[made.validation_I].all()
    assert new_N[made.train_I].sum() == pytest.approx(0.7 * new_N.sum(), rel=0.1)
    assert len(made.holdout_I) == pytest.approx(0.15 * new_N.sum(), rel=0.1)
    few = process(ticks, spec(train={"min_rows": int(new_N.sum()) + 1}), fixed=fixed)
    assert few.report["cuts_ns"] == process(ticks, spec()).report["cuts_ns"]
    assert few.report["new_rows"] == made.report["new_rows"] == new_N.sum()
    assert few.report["new_train_rows"] == new_N[few.train_I].sum() < made.report["new_train_rows"]
    everything = fixed.model_copy(update={"trained_to_ns": int(made.dataset.ts_ns_N[-1])})
    with pytest.raises(NotEnoughDataError, match="no row is new to the model"):
        process(ticks, spec(), fixed=everything)


def test_a_model_of_other_features_or_labels_cannot_learn_on(ticks: pd.DataFrame) -> None:
    fixed = contract(process(ticks, spec()), spec())
    with pytest.raises(SchemaMismatchError, match="features"):
        process(ticks, spec(features={"use": ["return:1s"]}), fixed=fixed)
    with pytest.raises(SchemaMismatchError, match="horizons"):
        process(ticks, spec(label=SHORT | {"horizons": ["2s"]}), fixed=fixed)
    for change in ({"price": "trade"}, {"delay": "30ms"}):
        with pytest.raises(SchemaMismatchError, match=next(iter(change))):
            process(ticks, spec(label=SHORT | change), fixed=fixed)


def test_too_few_rows_are_explained(ticks: pd.DataFrame) -> None:
    with pytest.raises(NotEnoughDataError) as caught:
        process(ticks.iloc[:15_000], spec(train={"min_rows": 5000}))
    text = str(caught.value)
    assert re.search(r"\d+ labelled rows, train.min_rows asks for 5000", text)
    assert "warm_up" in text
    assert "not_matured" in text


def test_features_that_are_never_defined_are_named() -> None:
    quotes = [quote(i / 10, 99 + i % 2, 101) for i in range(600)]
    with pytest.raises(NotEnoughDataError, match="never defined: signed_volume:1s"):
        process(frame(quotes), spec(features={"use": ["return:1s", "signed_volume:1s"]}))


def test_a_market_that_does_not_move_has_one_class() -> None:
    quotes = [quote(i / 10, 99, 101, 1 + i % 3) for i in range(3000)]
    with pytest.raises(NotEnoughDataError, match="'flat' at 1s"):
        process(frame(quotes), spec(features={"use": ["queue_imbalance"]}))


def test_a_frame_without_ticks_is_not_enough() -> None:
    with pytest.raises(NotEnoughDataError, match="0 labelled rows"):
        process(frame([]), spec())


def test_bad_ticks_of_a_frame_are_left_out_and_counted() -> None:
    good = [quote(i / 10, 99 + i // 7 % 2, 99.1 + i // 7 % 2) for i in range(3000)]
    bad = [quote(1, 102, 101), trade(1, NAN), trade(1, -3), trade(1, 3, -1), quote(1, 1, float("inf"))]
    made = process(frame(good[:10] + bad + good[10:]), spec(features={"use": ["queue_imbalance"]}))
    assert made.report["ticks_dropped"] == {"bad_price": 3, "bad_size": 1, "crossed_quote": 1}
    assert made.report["rows"] == 3000


def test_of_rows_at_one_time_only_the_last_is_a_sample() -> None:
    # every time has three quotes of A, the last with a bid size of 7, and one of B
    quotes = []
    for i in range(2000):
        bid = 99 + i // 7 % 2
        quotes += [quote(i / 10, bid + k, bid + k + 0.1, size) for k, size in ((0, 2), (1, 3), (0, 7))]
        quotes.append(quote(i / 10, bid, bid + 0.1, symbol="B"))
    made = process(frame(quotes), spec(features={"use": ["queue_imbalance"]}))
    assert made.report["rows_dropped"]["same_ts"] == 4000
    of_a = made.dataset.idx_NT[made.dataset.symbol_N == 0, -1]
    assert (made.dataset.x_MF[of_a, 0] == np.float32(6 / 8)).all()


def test_samples_outside_the_hours_of_the_exchange_are_dropped() -> None:
    # START_NS is 2023-11-14T22:13:20Z, New York is closed
    quotes = [quote(i / 10, 99 + i % 2, 101) for i in range(2000)]
    with pytest.raises(NotEnoughDataError, match="closed"):
        process(frame(quotes), spec(source={"calendar": "XNYS"}, features={"use": ["queue_imbalance"]}))


def test_ticks_whose_hours_the_calendar_does_not_know_fail_the_training(monkeypatch) -> None:
    edges = np.array([START_NS, START_NS + 150 * 10**9])
    monkeypatch.setattr(calendars, "edges", lambda _name: edges)
    asked = spec(source={"calendar": "XNYS"}, features={"use": ["signed_volume:10s"]})
    ticks = [trade(i / 10, 99 + i % 2) for i in range(2000)]
    with pytest.raises(SpecError, match="XNYS knows sessions from 2023-11-14T22:13:20Z to 2023-11-14T22:15:50Z"):
        process(frame(ticks), asked)
    # a first stamp that is far off fails nothing: eight ticks take the clock back
    made = make_samples(frame([trade(10**8, 99), *ticks[:1400]]), asked, FeaturePlan.from_spec(asked))
    assert made.report["rows_dropped"]["no_calendar"] == 8


def test_files_lose_the_ticks_that_a_topic_would_refuse_for_their_time() -> None:
    ticks = batch([trade(0, 1), trade(1, 1), trade(2, 1), trade(3, 1)])
    np.copyto(ticks.ts_ns_N, [0, 1, MAX_TS_NS, MAX_TS_NS + 1])
    kept, dropped = cleaning.clean(ticks)
    assert (kept.ts_ns_N.tolist(), dropped) == ([1, MAX_TS_NS], {"bad_ts": 2})


def test_only_symbols_asked_for_are_learned_from(ticks: pd.DataFrame) -> None:
    made = process(ticks, spec(source={"symbols": ["SYN00"]}))
    assert {made.dataset.symbols[s] for s in np.unique(made.dataset.symbol_N)} == {"SYN00"}


def test_the_report_is_json(ticks: pd.DataFrame) -> None:
    report = process(ticks, spec()).report
    assert json.loads(json.dumps(report)) == report
    assert report["rows"] - sum(report["rows_dropped"].values()) == report["samples"]


def test_scaling_is_robust_and_missing_values_are_neutral() -> None:
    x = np.array([[1, 5, NAN, 0], [2, 5, NAN, 0], [3, 5, NAN, 0], [4, 5, NAN, 0], [1e6, 5, NAN, 50]], np.float32)
    scaler = fit_scaler(x)
    assert scaler.median == (3.0, 5.0, 0.0, 0.0)
    assert scaler.iqr[1:3] == (1.0, 1.0)
    assert scaler.iqr[3] == pytest.approx(2.0)  # the middle half stands still: a tenth of the deviation
    scaled = scale(np.array([[1e9, 6, NAN, 2]], np.float32), scaler)
    assert scaled.tolist() == [[8.0, 1.0, 0.0, pytest.approx(1.0)]]


def test_a_sample_on_the_cut_belongs_to_the_later_part() -> None:
    # ten samples at 0..9, labels one long: cuts at 6 and 8; 5 and 7 end on a cut
    ts = np.arange(10) * S
    parts = split(ts, (ts + S)[:, None], cut_by_shares(ts, validation=0.2, holdout=0.2))
    assert parts.train_I.tolist() == [0, 1, 2, 3, 4]
    assert parts.validation_I.tolist() == [6]
    assert parts.holdout_I.tolist() == [8, 9]
    assert (parts.purged, parts.embargoed) == (2, 0)


def test_no_part_takes_samples_within_the_embargo_after_a_cut_nor_behind_the_end() -> None:
    # cuts at 4 and 8, end at 14; 4 and 5, 8 and 9 are in the embargo, 3 and 7 end on a cut
    ts = np.arange(20) * S
    parts = split(ts, (ts + S)[:, None], Cut(4 * S, 8 * S, 14 * S, embargo_ns=2 * S))
    assert parts.train_I.tolist() == [0, 1, 2]
    assert parts.validation_I.tolist() == [6]
    assert parts.holdout_I.tolist() == [10, 11, 12, 13]
    assert (parts.purged, parts.embargoed) == (2, 4)


def test_a_cut_that_is_given_parts_the_samples(ticks: pd.DataFrame) -> None:
    whole = process(ticks, spec())
    first, second = whole.report["cuts_ns"]
    cut = Cut(first - 5 * S, second - 5 * S, second)
    made = process(ticks, spec(), cut=cut)
    ts_ns_N = made.dataset.ts_ns_N
    assert made.report["cuts_ns"] == [first - 5 * S, second - 5 * S]
    assert ts_ns_N[made.train_I].max() < cut.validation_ns <= ts_ns_N[made.validation_I].min()
    assert cut.holdout_ns <= ts_ns_N[made.holdout_I].min()
    assert ts_ns_N[made.holdout_I].max() < second
    assert process(ticks, spec(), cut=Cut(first, second)).hash == whole.hash


def test_offsets_of_rows_are_line_numbers_of_the_frame_also_behind_bad_ticks() -> None:
    made = rows_of(frame([trade(0, 1), trade(0, NAN), trade(1, 1)]), FeaturePlan.from_spec(spec()))
    assert made.offset_N.tolist() == [0, 2]
    assert batch([trade(0, 1)]).offset_N.tolist() == [0]
