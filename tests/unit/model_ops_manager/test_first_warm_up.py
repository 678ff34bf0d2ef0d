"""Where older ticks are gone, only what may look back to them is left out: later rows are judged, new sessions too."""

from types import SimpleNamespace

import numpy as np
import pytest

from data_io import log_reader
from data_io.topics import predictions, rows
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import KERNEL_VERSION, FeaturePlan, FeatureState
from ml_core.data_processor.kernels import RESYNC_TICKS
from ml_core.data_processor.windows import Tail
from ml_core.spec import PipelineSpec, parse
from ml_core.types import SECOND_NS, OffsetRange, SymbolTable
from model_ops_manager import first_warm_up, scoring
from model_ops_manager.parity_check import Check, Findings, Start
from model_ops_manager.scoring import Unscored
from model_ops_manager.subject import Subject
from tests.agents.in_memory import quote

BEFORE, DECAYS = "looks back to before the first tick", "holds what has not decayed of ticks that are gone"
SHORT = {"use": ["ofi:2s", "quote_intensity:2s"], "window": 3, "gap": "60s"}
PLAIN = parse({"name": "demo", "features": SHORT})
NEW_YORK = parse({"name": "demo", "features": SHORT, "source": {"calendar": "XNYS"}})
LOOK_BACK_S = 2
FIRST = RESYNC_TICKS + LOOK_BACK_S  # rows of a symbol, one a second, before the first that is known
CUT = 50
MONDAY_S = 1_700_506_800  # 2023-11-20T19:00 UTC, an hour before the close is two
HOUR_S = 3600


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    features.warm_up()


class Scorer:
    """A model of the sum of all values of a window."""

    contract = SimpleNamespace(horizons_ns=(10**9,))

    def scores(self, x_NTF):
        return np.nan_to_num(x_NTF).sum(axis=(1, 2), dtype=np.float32)[:, None]


SERVING = SimpleNamespace(version=SimpleNamespace(version=1), scorer=Scorer())


def ticks(times_s) -> list[SimpleNamespace]:
    values = [quote(int(time_s * SECOND_NS), bid=10 + n * n % 7 / 10) for n, time_s in enumerate(times_s)]
    return [SimpleNamespace(offset=n, key=None, value=value, headers=()) for n, value in enumerate(values)]


def found(spec: PipelineSpec, records, *, change=lambda made: made) -> Findings:
    """Compare what all ticks give, ``change``d, with what those from CUT on give."""
    plan, findings = FeaturePlan.from_spec(spec), Findings()
    asked = OffsetRange(partition=0, start=CUT, end=len(records))
    start = Start.empty(spec, plan, CUT, is_cut=True)
    check = Check(Subject(spec, "id", asked), start, lambda _: SERVING, findings)
    state = FeatureState(plan, SymbolTable())
    made = features.step(TickDecoder().decode(log_reader.columns(records), state.symbols)[0], state)
    made = change(made)
    for _, value, _ in rows.encode(made, plan.names, plan.hash, KERNEL_VERSION):
        check.add_rows(value)
    [scored] = scoring.score([Unscored(made, *Tail(3, len(plan.names)).windows(made))], SERVING.scorer)
    about = {"topic_id": "id", "partition": 0, "horizons_ns": [10**9], "model": spec.name, "version": 1}
    for _, value in predictions.encode(scored, **about):
        check.add_predictions(value, ())
    for first in range(CUT, len(records), 17):
        check.recompute(records[first : first + 17])
    check.end()
    return findings


def two_sessions():
    """A minute and a half on Monday and a minute from the opening on Tuesday on."""
    opens_s = MONDAY_S + 19 * HOUR_S + HOUR_S // 2
    return ticks([*range(MONDAY_S, MONDAY_S + CUT + 90), *range(opens_s, opens_s + 60)])


def test_the_first_rows_of_a_later_session_are_judged_to_the_bit() -> None:
    records = two_sessions()
    tuesday = CUT + 90

    whole = found(NEW_YORK, records)

    assert whole.rows.is_equal
    assert whole.predictions.is_equal
    assert whole.rows.unchecked[BEFORE] == FIRST
    assert whole.predictions.unchecked[BEFORE] == FIRST + 2  # a window holds three rows

    def wrong(made):
        made.x_NF[tuesday + 1, 1] += 1.0
        return made.select(made.offset_N != tuesday)

    broken = found(NEW_YORK, records, change=wrong)
    assert (broken.rows.missing, broken.rows.different) == (1, 1)
    assert broken.rows.first["offset"] == tuesday


def test_what_decays_says_nothing_until_it_has_decayed_and_all_else_is_judged() -> None:
    records = ticks(range(MONDAY_S, MONDAY_S + CUT + FIRST + 40 * LOOK_BACK_S + 50))

    whole = found(PLAIN, records)

    assert whole.rows.is_equal
    assert whole.predictions.is_equal
    assert whole.rows.unchecked[DECAYS] > 5
    assert whole.rows.compared == len(records) - CUT - FIRST - whole.rows.unchecked[DECAYS]

    def wrong(place: int, column: str):
        def change(made):
            getattr(made, column)[place] += 1
            return made

        return change

    assert found(PLAIN, records, change=wrong(CUT + FIRST, "mid_N")).rows.mismatches["mid"] == 1
    assert found(PLAIN, records, change=wrong(CUT + FIRST + 1, "x_NF")).rows.is_equal
    assert found(PLAIN, records, change=wrong(len(records) - 40, "x_NF")).rows.different == 1


def test_a_clock_that_is_set_back_later_begins_rows_that_are_judged() -> None:
    good = list(range(MONDAY_S, MONDAY_S + CUT + 30))
    back = list(range(MONDAY_S - HOUR_S, MONDAY_S - HOUR_S + 30))  # for good: the clock was wrong until then
    records = ticks(good + back)

    def wrong(made):
        made.x_NF[len(good) + RESYNC_TICKS, 1] += 1.0  # flagged WARM_UP
        return made

    assert found(PLAIN, records).rows.is_equal
    assert found(PLAIN, records, change=wrong).rows.first["offset"] == len(good) + RESYNC_TICKS


@pytest.mark.parametrize("off_s", [-HOUR_S, -LOOK_BACK_S, HOUR_S])
def test_where_the_first_tick_that_is_kept_is_misdated_no_row_counts_as_wrong(off_s) -> None:
    times = [MONDAY_S + n + (off_s if n == CUT else 0) for n in range(CUT + 200)]

    whole = found(PLAIN, ticks(times))

    assert (whole.rows.first, whole.predictions.first) == (None, None)
    assert whole.rows.compared > 100


def test_a_silence_before_the_first_tick_that_is_kept_makes_no_row_wrong() -> None:
    times = [MONDAY_S + n + (HOUR_S if n >= CUT else 0) for n in range(CUT + 200)]

    whole = found(PLAIN, ticks(times))

    assert (whole.rows.first, whole.predictions.first) == (None, None)
    assert whole.rows.compared > 100


def test_what_is_kept_of_a_symbol_goes_when_all_of_it_is_known() -> None:
    follower = first_warm_up.FirstWarmUp(LOOK_BACK_S * SECOND_NS, 1)
    state = FeatureState(FeaturePlan.from_spec(PLAIN), SymbolTable())
    records = ticks(range(MONDAY_S, MONDAY_S + 120))

    made = features.step(TickDecoder().decode(log_reader.columns(records), state.symbols)[0], state)
    known = follower.known(made)

    assert np.flatnonzero(known.row_N)[0] == np.flatnonzero(known.window_N)[0] == FIRST
    assert np.flatnonzero(known.exact_N)[0] == RESYNC_TICKS + 40 * LOOK_BACK_S
    assert follower._symbols == {}
