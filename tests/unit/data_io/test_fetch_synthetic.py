import numpy as np
import pandas as pd
import pytest

from data_io.data_fetcher import synthetic
from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.errors import InputError


def fetch(**options: float) -> pd.DataFrame:
    return Synthetic(Market(**options)).fetch()


def link_to_what_follows(frame: pd.DataFrame, value: pd.Series, horizon_s: float = 2.0) -> float:
    """Return the correlation of ``value`` at the quotes of one symbol with the mid's move over the next seconds."""
    mid, ts_ns = ((frame["bid"] + frame["ask"]) / 2).to_numpy(), frame["ts_ns"].to_numpy()
    later = np.searchsorted(ts_ns, ts_ns + int(horizon_s * 1e9)) - 1
    whole = ts_ns + horizon_s * 1e9 < ts_ns[-1]
    return float(np.corrcoef(value.to_numpy()[whole], (mid[later] - mid)[whole])[0, 1])


def test_a_seed_gives_the_same_ticks_and_another_gives_others() -> None:
    first, again, other = (fetch(ticks=500, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first["ts_ns"].equals(other["ts_ns"])


def test_a_longer_market_begins_like_a_shorter_one() -> None:
    short, long = fetch(ticks=500), fetch(ticks=800)
    pd.testing.assert_frame_equal(long.iloc[:500], short)


def test_quotes_are_never_crossed_and_all_prices_stand_on_the_grid() -> None:
    frame = fetch(ticks=20_000, symbols=5)
    quotes = frame[frame["type"] == "quote"]

    assert (quotes["ask"] > quotes["bid"]).all()
    ticks = frame[["price", "bid", "ask"]].to_numpy() / synthetic.TICK
    assert np.nanmax(np.abs(ticks - np.round(ticks))) < 1e-6
    assert (frame["size"].dropna() >= 1).all()
    assert (quotes[["bid_size", "ask_size"]] >= 1).all(axis=None)


def test_the_clock_strictly_ascends_at_the_mean_rate_across_chunks() -> None:
    frame = fetch(ticks=150_000, rate=1000)  # three chunks
    gap_ns = np.diff(frame["ts_ns"])
    assert gap_ns.min() >= 1
    assert gap_ns.mean() == pytest.approx(1e6, rel=0.02)
    assert (np.diff(frame["seq"]) == 1).all()


def test_activity_follows_zipf() -> None:
    counts = fetch(ticks=40_000, symbols=4)["symbol"].value_counts()
    assert counts["SYN00"] / counts["SYN03"] == pytest.approx(4, rel=0.1)


def test_the_queue_tells_what_follows_and_the_sign_changes_with_the_regime() -> None:
    frame = fetch(ticks=200_000, symbols=1, rate=200, regimes=2).query("type == 'quote'")
    lean = np.log(frame["bid_size"] / frame["ask_size"])
    early = frame["ts_ns"] < synthetic.START_NS + 500 * 10**9

    assert link_to_what_follows(frame[early], lean[early]) > 0.3
    assert link_to_what_follows(frame[~early], lean[~early]) < -0.3


def test_in_the_third_regime_the_edge_is_in_the_flow_and_no_longer_in_the_queue() -> None:
    whole = fetch(ticks=300_000, symbols=1, rate=200, regimes=3)
    third = whole[whole["ts_ns"] >= synthetic.START_NS + 1000 * 10**9]
    flow = third["side"].ewm(halflife=200).mean()  # about a second of ticks
    quotes = third[third["type"] == "quote"]

    assert link_to_what_follows(quotes, flow[quotes.index]) > 0.25
    assert abs(link_to_what_follows(quotes, np.log(quotes["bid_size"] / quotes["ask_size"]))) < 0.15


def test_without_an_edge_nothing_follows() -> None:
    frame = fetch(ticks=200_000, symbols=1, rate=200, edge=0).query("type == 'quote'")
    assert abs(link_to_what_follows(frame, np.log(frame["bid_size"] / frame["ask_size"]))) < 0.1


def test_prices_stay_positive_however_far_they_walk() -> None:
    frame = fetch(ticks=2000, symbols=1, rate=1, edge=10)
    assert (frame[["price", "bid", "ask"]].min() > 0).all()


@pytest.mark.parametrize(
    ("text", "market"),
    [
        ("synthetic:", Market()),
        ("synthetic:symbols=8,ticks=60000,seed=1,rate=500,regimes=2", Market(8, 60_000, 1, 500.0, 2)),
        ("synthetic: rate=2.5 , edge=0 ", Market(rate=2.5, edge=0.0)),
    ],
)
def test_a_text_says_what_market(text: str, market: Market) -> None:
    assert Market.parse(text) == market


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synthetic:tick=5", "unknown option 'tick'; did you mean 'ticks'"),
        ("synthetic:ticks=many", "'ticks=many' needs int"),
        ("synthetic:ticks=-1", "ticks=-1 is not within"),
        ("synthetic:rate=nan", "rate=nan is not within"),
        ("synthetic:symbols=0", "symbols=0 is not within"),
        ("random:ticks=5", "does not start with"),
    ],
)
def test_a_wrong_text_is_refused_with_the_option_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Market.parse(text)


def test_a_market_without_ticks_is_empty() -> None:
    assert len(fetch(ticks=0)) == 0
