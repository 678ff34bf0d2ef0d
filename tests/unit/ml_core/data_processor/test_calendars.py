import numpy as np
import pytest

from ml_core.data_processor.calendars import edges, is_open
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import SpecError
from tests.unit.ml_core.data_processor.market import pipeline

MINUTE_NS = 60 * 10**9


@pytest.mark.parametrize(
    ("utc", "is_in"),
    [
        ("2013-10-07T13:29:59", False),  # New York is 4 h behind in summer
        ("2013-10-07T13:30:00", True),
        ("2013-10-07T20:00:00", True),
        ("2013-10-07T20:00:01", False),
        ("2024-01-02T13:45:00", False),  # and 5 h in winter
        ("2024-01-02T14:30:00", True),
        ("2024-03-09T15:00:00", False),  # a Saturday
        ("2024-03-10T15:00:00", False),  # a Sunday
        ("2024-03-11T13:30:00", True),  # the Monday after the clock change
        ("2024-07-03T17:00:00", True),  # half a day
        ("2024-07-03T17:00:01", False),
        ("2024-07-04T15:00:00", False),  # a holiday
    ],
)
def test_new_york_is_open_in_the_hours_of_its_trading_days(utc: str, is_in: bool) -> None:
    ts_ns = np.array([np.datetime64(utc, "ns").astype(np.int64)])
    assert is_open(ts_ns, "XNYS").tolist() == [is_in]
    assert is_open(ts_ns, "24x7").tolist() == [True]


def ns(utc: str) -> int:
    return int(np.datetime64(utc, "ns").astype(np.int64))


def test_a_break_is_closed_time() -> None:
    day = [each for each in edges("XTKS").tolist() if ns("2024-01-05T00:00") <= each < ns("2024-01-06T00:00")]
    assert [(each - ns("2024-01-05T00:00")) // MINUTE_NS for each in day] == [0, 150, 210, 360]


def test_sessions_without_closed_time_between_them_are_one() -> None:
    week = [each for each in edges("CMES").tolist() if ns("2024-01-07T00:00") <= each < ns("2024-01-14T00:00")]
    assert week == [ns("2024-01-07T23:00"), ns("2024-01-12T23:00") + 1]


def test_an_unknown_calendar_is_told_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="'XLONN' is not known; did you mean 'XLON'"):
        FeaturePlan.from_spec(pipeline(source={"calendar": "XLONN"}))


def test_features_that_look_back_longer_than_any_session_are_refused() -> None:
    with pytest.raises(SpecError, match="no session of XNYS is longer than"):
        FeaturePlan.from_spec(pipeline(["vol_ratio:2h"], source={"calendar": "XNYS"}))


def test_the_hash_of_rows_follows_the_sessions_and_not_the_name_for_always() -> None:
    plans = [FeaturePlan.from_spec(pipeline(source={"calendar": name})) for name in ("24x7", "XNYS")]
    assert plans[0].hash == FeaturePlan.from_spec(pipeline()).hash != plans[1].hash
    assert (np.diff(edges("XNYS")) > 0).all()
