"""What is out is compared with what its ticks give, also around ticks that were skipped."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_io import log_reader
from data_io.topics import bars, predictions, rows
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import features
from ml_core.data_processor.features import KERNEL_VERSION, FeaturePlan, FeatureState
from ml_core.errors import InputError, ModelNotFoundError
from ml_core.spec import parse
from ml_core.types import OffsetRange, RowBatch, SymbolTable
from model_ops_manager import parity, parity_check, scoring
from model_ops_manager.compared import Compared
from model_ops_manager.parity import Parity
from model_ops_manager.parity_check import Check, Findings, Start
from model_ops_manager.scoring import Unscored
from model_ops_manager.shed import Shed
from model_ops_manager.subject import Committed, Subject
from tests.agents.in_memory import quote, quotes

SPEC = parse({"name": "demo"})
PLAN = FeaturePlan.from_spec(SPEC)
TICKS = [SimpleNamespace(offset=n, key=None, value=value, headers=()) for n, value in enumerate(quotes(100))]
SHED = Shed().add(30, 60)
NOTHING = Committed()


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    features.warm_up()


def published(*parts: tuple[int, int]) -> list[bytes]:
    """Rows of stretches of ticks, each from a state of its own."""
    values = []
    for start, end in parts:
        state = FeatureState(PLAN, SymbolTable())
        ticks, _ = TickDecoder().decode(log_reader.columns(TICKS[start:end]), state.symbols)
        made = features.step(ticks, state)
        values += [value for _, value, _ in rows.encode(made, PLAN.names, PLAN.hash, KERNEL_VERSION)]
    return values


class Scorer:
    """A model that is told apart by nothing."""

    contract = SimpleNamespace(horizons_ns=(10**9,))

    def scores(self, x_NTF):
        return np.zeros((len(x_NTF), 1), np.float32)


SERVING = SimpleNamespace(version=SimpleNamespace(version=1), scorer=Scorer())


def test_predictions_name_their_symbols_also_where_state_has_numbered_them_anew():
    first, second = ([quote(1_700_000_000 + n, symbol) for n in range(20)] for symbol in ("A", "B"))
    pairs = [[*pair] if n < 10 else [*reversed(pair)] for n, pair in enumerate(zip(first, second, strict=True))]
    values = [value for pair in pairs for value in pair]
    ticks = [SimpleNamespace(offset=n, key=None, value=value, headers=()) for n, value in enumerate(values)]
    findings, asked = Findings(), OffsetRange(partition=0, start=0, end=40)
    subject = Subject(SPEC, "id", asked, Shed().add(10, 20))
    check = Check(subject, Start.empty(SPEC, PLAN), lambda _: SERVING, findings)
    for start, end in ((0, 10), (20, 40)):
        state = FeatureState(PLAN, SymbolTable())
        made = features.step(TickDecoder().decode(log_reader.columns(ticks[start:end]), state.symbols)[0], state)
        unscored = Unscored(made, made.x_NF[:, None, :], np.ones(len(made), np.bool_))
        [scored] = scoring.score([unscored], SERVING.scorer)
        for _, value in predictions.encode(
            scored, topic_id="id", partition=0, horizons_ns=[10**9], model=SPEC.name, version=1
        ):
            check.add_predictions(value, ())

    check.recompute(ticks)

    found = findings.predictions
    assert (found.first, found.compared, found.shed) == (None, 30, 10)


def scored(start: int, end: int) -> list[bytes]:
    """Predictions of the ticks ``start`` to ``end``."""
    state = FeatureState(PLAN, SymbolTable())
    made = features.step(TickDecoder().decode(log_reader.columns(TICKS[:end]), state.symbols)[0], state)
    made = made.select(made.offset_N >= start)
    [batch] = scoring.score([Unscored(made, made.x_NF[:, None, :], np.ones(len(made), np.bool_))], SERVING.scorer)
    about = {"topic_id": "id", "partition": 0, "horizons_ns": [10**9], "model": SPEC.name, "version": 1}
    return [value for _, value in predictions.encode(batch, **about)]


def followed(
    *, rows_to: int, settled_to: int, predicted: tuple[int, int], start: int = 0, said: Committed = NOTHING
) -> tuple[Check, Findings]:
    """Compare from ``start`` on, as far as outputs reach, or checkpoints have ``said``."""
    findings, asked = Findings(), OffsetRange(partition=0, start=start, end=len(TICKS))
    subject = Subject(SPEC, "id", asked, committed=said)
    check = Check(subject, Start.empty(SPEC, PLAN), lambda _: SERVING, findings)
    made = rows.decode(published((0, rows_to))[0]).rows
    for part, is_settled in ((made.offset_N < settled_to, True), (made.offset_N >= settled_to, False)):
        for _, value, _ in rows.encode(made.select(part), PLAN.names, PLAN.hash, KERNEL_VERSION):
            check.add_rows(value, is_settled=is_settled)
    for value in scored(*predicted):
        check.add_predictions(value, ())
    check.leave_what_is_under_way()
    check.recompute(TICKS[: check.asked.end])
    check.end()
    return check, findings


def test_predictions_that_stopped_while_rows_went_on_are_missing_except_those_under_way():
    check, found = followed(rows_to=90, settled_to=80, predicted=(0, 40))
    assert (check.asked.end, found.rows.compared, found.rows.is_equal) == (80, 80, True)
    assert (found.predictions.compared, found.predictions.missing) == (40, 40)
    assert found.predictions.first["offset"] == 40


def test_what_is_under_way_is_left_out():
    check, found = followed(rows_to=90, settled_to=30, predicted=(0, 80))
    assert (check.asked.end, found.rows.compared, found.predictions.compared) == (80, 80, 80)
    assert found.rows.is_equal
    assert found.predictions.is_equal


def test_a_range_in_which_predictions_had_stopped_before_misses_all_that_are_not_under_way():
    check, found = followed(rows_to=90, settled_to=80, predicted=(0, 40), start=50)
    assert (check.asked.end, found.predictions.missing) == (80, 30)
    check, found = followed(rows_to=90, settled_to=0, predicted=(0, 40), start=50)
    assert (check.asked.end, found.predictions.missing) == (50, 0)


def test_rows_without_a_model_are_compared_to_their_end():
    check, found = followed(rows_to=90, settled_to=0, predicted=(0, 0))
    assert (check.asked.end, found.rows.compared, found.predictions.missing) == (90, 90, 0)


def test_what_a_checkpoint_says_is_out_and_is_not_is_missing() -> None:
    check, found = followed(rows_to=60, settled_to=0, predicted=(0, 0), said=Committed(position=80))
    assert (check.asked.end, found.rows.compared, found.rows.missing) == (80, 60, 20)
    check, found = followed(rows_to=60, settled_to=0, predicted=(0, 0), said=Committed(position=50))
    assert (check.asked.end, found.rows.is_equal) == (60, True)


def test_where_a_model_serves_and_no_prediction_is_out_those_from_its_first_tick_on_are_missing() -> None:
    _, found = followed(rows_to=90, settled_to=0, predicted=(0, 0), said=Committed(90, serves_from=40))
    assert (found.predictions.missing, found.predictions.first["offset"]) == (50, 40)
    assert found.predictions.unchecked == {"rows before the first prediction": 40}


@pytest.mark.parametrize("said", [Committed(90, serves_from=90), Committed(90, serves_from=30), Committed(90)])
def test_a_model_that_has_served_only_lately_has_made_no_earlier_predictions(said) -> None:
    _, found = followed(rows_to=90, settled_to=90, predicted=(30, 90), said=said)
    assert (found.predictions.is_equal, found.predictions.compared) == (True, 60)
    assert found.predictions.unchecked == {"rows before the first prediction": 30}


def test_behind_a_checkpoint_what_is_under_way_is_left_out_where_no_prediction_of_a_model_is_out() -> None:
    check, found = followed(rows_to=90, settled_to=0, predicted=(0, 0), said=Committed(40, serves_from=40))
    assert (check.asked.end, found.predictions.missing) == (40, 0)
    check, found = followed(rows_to=90, settled_to=60, predicted=(0, 0), said=Committed(40, serves_from=40))
    assert (check.asked.end, found.predictions.missing) == (60, 20)


def test_rows_before_the_oldest_one_that_is_kept_are_not_missing() -> None:
    findings, asked = Findings(), OffsetRange(partition=0, start=0, end=len(TICKS))
    subject = Subject(SPEC, "id", asked)
    check = Check(subject, Start.empty(SPEC, PLAN), lambda _: SERVING, findings, is_trimmed=True)
    made = rows.decode(published((0, 100))[0]).rows
    for _, value, _ in rows.encode(made.select(made.offset_N >= 30), PLAN.names, PLAN.hash, KERNEL_VERSION):
        check.add_rows(value)
    check.recompute(TICKS)
    assert (findings.rows.missing, findings.rows.compared) == (0, 70)
    assert findings.rows.unchecked == {"rows that retention has deleted": 30}


@pytest.mark.parametrize("version", [9, -3, 0, None, "new", True, [1], 2.5])
def test_predictions_of_a_version_that_cannot_be_had_are_not_proven(version) -> None:
    def load(number: int):
        if number != 1:
            raise ModelNotFoundError(f"there is no version {number}")
        return SERVING

    findings, asked = Findings(), OffsetRange(partition=0, start=0, end=len(TICKS))
    check = Check(Subject(SPEC, "id", asked), Start.empty(SPEC, PLAN), load, findings)
    check.add_rows(published((0, 100))[0])
    for n, value in enumerate(scored(0, 100)):
        check.add_predictions(value if n else json.dumps({**json.loads(value), "version": version}).encode(), ())
    check.recompute(TICKS)
    check.end()

    found = findings.predictions
    assert (found.is_equal, found.compared) == (True, 99)
    assert (found.unproven, found.unchecked.total()) == (found.unchecked, 1)
    report = Parity("demo", [], {}, findings.rows, found)
    assert report.unproven == {"predictions": found.unproven}
    assert report.as_dict()["is_proven"] is False


def test_beside_rows_of_other_features_predictions_of_ours_are_not_looked_for() -> None:
    def load(_number: int):
        raise ModelNotFoundError("trained on other features")

    findings, asked = Findings(), OffsetRange(partition=0, start=0, end=len(TICKS))
    check = Check(Subject(SPEC, "id", asked), Start.empty(SPEC, PLAN), load, findings)
    made = rows.decode(published((0, 100))[0]).rows
    for _, value, _ in rows.encode(made, PLAN.names, "other", KERNEL_VERSION):
        check.add_rows(value)
    for value in scored(0, 100):
        check.add_predictions(value, ())
    check.recompute(TICKS)

    of_others = {"rows of other features": 100}
    assert (findings.predictions.unchecked, findings.predictions.unproven) == (of_others, {})
    findings.bars.compared = 5
    report = Parity("demo", [], {}, findings.rows, findings.predictions, findings.bars)
    assert (report.is_empty, report.unproven) == (False, {"rows": of_others})


def test_rows_of_ticks_of_another_topic_are_passed_over() -> None:
    findings, asked = Findings(), OffsetRange(partition=0, start=0, end=len(TICKS))
    check = Check(Subject(SPEC, "id", asked), Start.empty(SPEC, PLAN), lambda _: SERVING, findings)
    made = rows.decode(published((0, 100))[0]).rows
    strange = RowBatch(**made._asdict() | {"mid_N": made.mid_N + 1})
    parts = [(made, 0, b"id"), (strange, 0, b"other"), (made, 50, None), (strange, 50, b"other"), (made, 50, b"id")]
    for each, first, topic_id in parts:
        part = each.select((each.offset_N >= first) & (each.offset_N < first + 50))
        for _, value, headers in rows.encode(part, PLAN.names, PLAN.hash, KERNEL_VERSION):
            named = [] if topic_id is None else [(rows.TOPIC_HEADER, topic_id)]
            check.add_rows(value, (*headers, *named), is_settled=topic_id != b"other")
    check.recompute(TICKS)
    check.end()
    assert (findings.rows.is_equal, findings.rows.compared, findings.rows.repeated) == (True, 100, 50)


def test_more_rows_or_predictions_than_memory_is_meant_for_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(parity_check, "MAX_COMPARED", 60)
    asked = OffsetRange(partition=0, start=0, end=1)  # offsets say little: a record holds many ticks
    made = rows.decode(published((0, 100))[0]).rows
    columns = {"index_N": made.offset_N.astype(np.int32), "offset_N": np.zeros_like(made.offset_N)}
    made = RowBatch(**made._asdict() | columns)

    def add(count: int, digest: str) -> None:
        for _, value, _ in rows.encode(made.select(slice(count)), PLAN.names, digest, KERNEL_VERSION):
            check.add_rows(value)

    for digest in (PLAN.hash, "other"):
        check = Check(Subject(SPEC, "id", asked), Start.empty(SPEC, PLAN), lambda _: SERVING, Findings())
        add(60, digest)
        add(60, digest)
        with pytest.raises(InputError, match="60 rows that are compared at once: name a range"):
            add(61, digest)

    wide = Subject(SPEC, "id", OffsetRange(partition=0, start=0, end=100))
    check = Check(wide, Start.empty(SPEC, PLAN), lambda _: SERVING, Findings())
    for value in scored(0, 60):
        check.add_predictions(value, ())
    with pytest.raises(InputError, match="60 predictions that are compared at once: name a range"):
        check.add_predictions(scored(60, 61)[0], ())


def compared(values: list[bytes], *, shed: Shed, step: int = 7) -> Compared:
    findings = Findings()
    asked = OffsetRange(partition=0, start=0, end=len(TICKS))

    def load(_version: int):
        raise AssertionError

    check = Check(Subject(SPEC, "id", asked, shed), Start.empty(SPEC, PLAN), load, findings)
    for value in values:
        check.add_rows(value)
    for first in range(0, len(TICKS), step):
        check.recompute(TICKS[first : first + step])
    check.end()
    return findings.rows


@pytest.mark.parametrize("step", [1, 7, 30, 100])
def test_behind_what_was_skipped_state_starts_empty(step):
    found = compared(published((0, 30), (60, 100)), shed=SHED, step=step)
    assert (found.is_equal, found.compared, found.shed) == (True, 70, 30)


def test_what_was_out_before_its_ticks_were_skipped_is_compared_too():
    values = published((0, 40), (60, 100))
    found = compared(values, shed=SHED)
    assert (found.is_equal, found.compared, found.shed) == (True, 80, 20)


def test_a_state_that_went_on_over_a_gap_is_found():
    state_went_on = rows.decode(published((0, 100))[0]).rows
    values = published((0, 30))
    made = state_went_on.select(state_went_on.offset_N >= 60)
    values += [value for _, value, _ in rows.encode(made, PLAN.names, PLAN.hash, KERNEL_VERSION)]
    found = compared(values, shed=SHED)
    assert found.different > 0
    assert found.first["offset"] == 60


def test_without_a_word_about_it_what_was_skipped_is_missing():
    found = compared(published((0, 30), (60, 100)), shed=Shed())
    assert (found.missing, found.first["offset"]) == (30, 30)


def test_what_was_skipped_before_the_first_tick_there_is_makes_no_unknown_row_a_known_one():
    findings, asked = Findings(), OffsetRange(partition=0, start=70, end=len(TICKS))
    start = Start.empty(SPEC, PLAN, 70, is_cut=True)
    check = Check(Subject(SPEC, "id", asked, SHED), start, lambda _: SERVING, findings)
    for value in published((0, 30), (60, 100)):
        check.add_rows(value)

    check.recompute(TICKS[70:])

    assert findings.rows.compared < findings.rows.unchecked["looks back to before the first tick"]
    assert findings.rows.different == 0


def test_where_the_oldest_outputs_were_deleted_a_checkpoint_says_nothing_of_the_first_one_that_is_out() -> None:
    spec = parse({"name": "demo", "bars": {"by": ["time:1s"], "price": "mid"}})
    said = Committed(9, serves_from=3, bars_from=2)
    assert parity._still_out(spec, said, {rows.name(spec.feature_set)}) == said
    assert parity._still_out(spec, said, {predictions.name("demo")}) == Committed(9, None, 2)
    assert parity._still_out(spec, said, {bars.name(spec.feature_set)}) == Committed(9, 3, None)
