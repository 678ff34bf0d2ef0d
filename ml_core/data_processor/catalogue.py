"""The features there are: name, formula, unit and source of each.

All are causal and free of the price's scale. P is the reference price: the mid of the last two-sided quote, or the last
trade price where no quote is known. sigma is the volatility of log P per root second over 30 s. EW sums and means decay
with ``exp(-dt / tau)``, tau being the duration in the feature's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml_core.types import SECOND_NS, Float32

SIGMA_NS = 30 * SECOND_NS
"""Time constant of the volatility that other features are measured in."""

VOL_RATIO_SPAN = 6
"""`vol_ratio:h` compares a volatility over h with one over this many h."""


@dataclass(frozen=True)
class Feature:
    """One entry of the catalogue."""

    name: str
    formula: str
    unit: str
    source: str
    durations: tuple[str, ...] = ()  # used where the name stands alone; empty: the feature takes none
    kinds: frozenset[str] = frozenset({"trade", "quote"})  # undefined without ticks of these kinds

    @property
    def takes_durations(self) -> bool:
        """True where the name is followed by durations, as in ``return:1s,10s``."""
        return bool(self.durations)


_QUOTE, _TRADE, _EITHER = frozenset({"quote"}), frozenset({"trade"}), frozenset[str]()
_CKS = "Cont, Kukanov, Stoikov 2014, The Price Impact of Order Book Events"
_COMMON = "common practice"

_FEATURES = (
    Feature(
        "return",
        "(ln P - ln P(t - h)) / (sigma sqrt(h)); P(t - h) is the last price of a bucket h/16 wide, so its age is "
        "15/16 h to h",
        "standard deviations",
        "Moskowitz, Ooi, Pedersen 2012, Time Series Momentum (returns scaled by volatility)",
        ("1s", "5s", "30s"),
        _EITHER,
    ),
    Feature(
        "ewma_vol",
        "ln(1e4 s), s^2 = EW sum of squared changes of ln P, sampled each tau/64, over the EW time they span",
        "log basis points per root second",
        "RiskMetrics 1996, Technical Document, ch. 5",
        ("30s",),
        _EITHER,
    ),
    Feature("vol_ratio", "ewma_vol(h) - ewma_vol(6 h)", "log ratio", "Corsi 2009, HAR", ("5s",), _EITHER),
    Feature(
        "mid_offset",
        "(ln P - EW mean of ln P) / (sigma sqrt(tau))",
        "standard deviations",
        "Brock, Lakonishok, LeBaron 1992 (moving averages)",
        ("10s",),
        _EITHER,
    ),
    Feature("relative_spread", "1e4 (ask - bid) / mid", "basis points", _COMMON, (), _QUOTE),
    Feature("spread_ratio", "(ask - bid) / EW mean of it - 1", "ratio", _COMMON, ("30s",), _QUOTE),
    Feature(
        "queue_imbalance",
        "(bid size - ask size) / (bid size + ask size)",
        "-1 to 1",
        "Gould, Bonart 2016, Queue Imbalance as a One-Tick-Ahead Price Predictor",
        (),
        _QUOTE,
    ),
    Feature(
        "queue_imbalance_mean", "EW mean of queue_imbalance over time", "-1 to 1", "Gould, Bonart 2016", ("1s",), _QUOTE
    ),
    Feature(
        "microprice_offset",
        "(microprice - mid) / mid / (sigma sqrt(1 s)); microprice = (bid ask_size + ask bid_size) / both sizes. "
        "In spreads it would be half the queue imbalance and say nothing new",
        "standard deviations",
        "Gatheral, Oomen 2010, Zero-intelligence realized variance estimation; Stoikov 2018, The Micro-Price",
        (),
        _QUOTE,
    ),
    Feature("depth_ratio", "(bid size + ask size) / EW mean of it - 1", "ratio", _COMMON, ("30s",), _QUOTE),
    Feature(
        "signed_volume",
        "EW sum of side x size / EW sum of size; a side that is not given is inferred from quote and last trade",
        "-1 to 1",
        "Chordia, Roll, Subrahmanyam 2002, Order imbalance; sides: Lee, Ready 1991",
        ("1s", "10s", "30s"),
        _TRADE,
    ),
    Feature(
        "trade_flow",
        "EW sum of side over h / EW trades over 30 s; unlike signed_volume it fades while nobody trades",
        "ratio",
        "Hasbrouck 1991, Measuring the Information Content of Stock Trades",
        ("1s",),
        _TRADE,
    ),
    Feature(
        "vwap_offset",
        "(P - EW sum of price x size / EW sum of size) / EW mean of (ask - bid) over 30 s",
        "spreads",
        "Berkowitz, Logue, Noser 1988, The Total Cost of Transactions on the NYSE (volume-weighted mean price)",
        ("10s",),
    ),
    Feature("ofi", "EW sum of e_n / EW sum of |e_n|", "-1 to 1", _CKS, ("0.1s", "1s", "10s"), _QUOTE),
    Feature(
        "trade_intensity",
        "ln(EW trades per second)",
        "log 1/s",
        "Hawkes 1971 (exponential kernel)",
        ("10s",),
        _TRADE,
    ),
    Feature("quote_intensity", "ln(EW quotes per second)", "log 1/s", "Hawkes 1971", ("10s",), _QUOTE),
    Feature(
        "since_trade",
        "ln(1 + time since the last trade before this tick / 1 ms)",
        "log ms",
        "Engle, Russell 1998, Autoregressive Conditional Duration",
        (),
        _TRADE,
    ),
    Feature("last_trade_offset", "(last trade price - mid) / (ask - bid)", "spreads", _COMMON),
    Feature(
        "trade_streak",
        "side x ln(1 + n), n = trades in a row on the side of the last one",
        "log count",
        "Lillo, Farmer 2004, The Long Memory of the Efficient Market",
        (),
        _TRADE,
    ),
    Feature("trade_size", "ln(size of the last trade / EW mean size)", "log ratio", _COMMON, ("30s",), _TRADE),
    Feature("is_trade", "1 at a trade, 0 at a quote", "0 or 1", _COMMON, (), _EITHER),
)

SIGNED = frozenset(
    {
        "return", "mid_offset", "queue_imbalance", "queue_imbalance_mean", "microprice_offset", "signed_volume",
        "trade_flow", "vwap_offset", "ofi", "last_trade_offset", "trade_streak",
    }
)  # fmt: skip
"""Features that change sign, and nothing else, where the market is mirrored: falls for rises, bids for asks."""

CATALOGUE: dict[str, Feature] = {feature.name: feature for feature in _FEATURES}

DEFAULT_USE: tuple[str, ...] = tuple(
    name for name in CATALOGUE if name not in ("depth_ratio", "trade_flow", "trade_size", "vwap_offset", "is_trade")
)
"""What a pipeline uses that names no features: 22 columns that look back 30 s."""


def mirrored(names: Sequence[str]) -> Float32:
    """Return what mirroring the market multiplies each column by (F,): -1 where it is signed, else 1.

    >>> mirrored(["return:1s", "ewma_vol:30s"]).tolist()
    [-1.0, 1.0]
    """
    return np.array([-1.0 if name.partition(":")[0] in SIGNED else 1.0 for name in names], np.float32)
