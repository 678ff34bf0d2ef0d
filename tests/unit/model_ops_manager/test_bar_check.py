"""Bars that are out are compared with those that their ticks give, each field to the bit."""

import random
from types import SimpleNamespace

import msgspec
import pytest

from data_io import log_reader
from data_io.topics import bars as topic
from data_io.topics.ticks import TickDecoder
from ml_core.data_processor import bars, features
from ml_core.data_processor.bars import BarPlan, BarState
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import InputError
from ml_core.spec import parse
from ml_core.types import SECOND_NS, OffsetRange, SymbolTable
from model_ops_manager import bar_check
from model_ops_manager.compared import Compared
from model_ops_manager.parity_check import Check, Findings, Start
from model_ops_manager.shed import Shed
from model_ops_manager.subject import Committed, Subject
from tests.agents.in_memory import quote

SPEC = parse({"name": "demo", "bars": {"by": ["time:1s", "ticks:7"], "price": "mid"}, "features": {"gap": "5s"}})
PLAN = FeaturePlan.from_spec(SPEC)
START_NS = 1_700_000_000 * SECOND_NS
COUNT, NOTHING = 400, Shed()
KINDS = {kind: {"by": [kind], "price": "mid"} for kind in ("time:1s", "ticks:7")}


def _market() -> list[SimpleNamespace]:
    """Quotes of two symbols, eight a second, some of them up to 3 s late."""
    rng, records = random.Random(7), []
    for n in range(COUNT):
        late_ns = rng.choice([0, 0, 0, rng.randrange(3 * SECOND_NS)])
        value = quote(START_NS + n * SECOND_NS // 8 - late_ns, rng.choice("AB"), bid=rng.randrange(900, 1100) / 100)
        records.append(record(n, value))
    return records


def record(offset: int, value: bytes) -> SimpleNamespace:
    return SimpleNamespace(offset=offset, key=None, value=value, headers=())


TICKS = _market()


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    features.warm_up()


def published(first: int = 0, *, renumber: tuple[int, int] = (COUNT, 0)) -> list[bytes]:
    """All bars of the ticks from ``first`` on, from a state of their own; from a tick on with a revision of its own."""
    state, decoder, (at, revision) = BarState(BarPlan.from_spec(SPEC), SymbolTable()), TickDecoder(), renumber
    before, _ = decoder.decode(log_reader.columns(TICKS[first:at]), state.symbols)
    found = topic.encode(bars.step(before, state), topic_id="id", partition=0)
    if TICKS[at:]:
        state.base = revision
        state.renumber()
        behind, _ = decoder.decode(log_reader.columns(TICKS[at:]), state.symbols)
        found += topic.encode(bars.step(behind, state), topic_id="id", partition=0)
    return [value for _, value, _ in found]


ALL = published()


def changed(record: bytes, **fields) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(topic.decode(record), **fields))


def compared(
    values: list[bytes], *, start=0, end=COUNT, cut=0, shed=NOTHING, spec=SPEC, is_open=False, bars_from=None
) -> Compared:
    """What is found of ``[start, end)`` where ticks before ``cut`` are gone, and more may come where it is open."""
    findings, asked = Findings(), OffsetRange(partition=0, start=start, end=end)
    begin = Start.empty(spec, PLAN, cut, is_cut=cut > 0)
    subject = Subject(spec, "id", asked, shed, Committed(bars_from=bars_from))
    check = Check(subject, begin, lambda _: None, findings)
    for value in values:
        check.add_bars(value)
    if is_open:
        check._bars.end_at(end)
    for first in range(cut, end, 29):
        check.recompute(TICKS[first : min(first + 29, end)])
    check.end()
    return findings.bars


def offset(value: bytes) -> int:
    return topic.decode(value).offset or 0


def test_what_is_as_it_must_be_is_equal_and_provisional_bars_and_those_of_other_topics_are_passed_over() -> None:
    shown = changed(ALL[9], id=None, status="provisional", revision=-1, offset=None, index=None, close=1.0)
    others = [changed(ALL[9], id=topic.decode(ALL[9]).id.replace("id-0-", prefix)) for prefix in ("older-0-", "id-1-")]
    found = compared([*ALL[:10], shown, *others, *ALL[10:]])

    assert (found.is_equal, found.compared, found.unchecked.total()) == (True, len(ALL), 0)
    assert {topic.decode(value).status for value in ALL} == {"final", "revised"}


@pytest.mark.parametrize("field", [name for name in topic.Bar.__struct_fields__ if name not in ("id", "kind")])
def test_every_field_is_compared_to_the_bit(field) -> None:
    before = getattr(topic.decode(ALL[40]), field)
    other = {
        bool: lambda: not before,
        int: lambda: before + 1,
        float: lambda: -before if before == 0.0 else before * (1 + 2**-52),
        str: lambda: before + "x",
        type(None): lambda: 1.0,
    }[type(before)]()

    found = compared([*ALL[:40], changed(ALL[40], **{field: other}), *ALL[41:]])

    assert dict(found.mismatches) == {field: 1}
    assert not found.is_equal
    assert (found.first["of"], found.first["offset"]) == (topic.decode(ALL[40]).id, offset(ALL[40]))


def test_what_is_lost_is_missing_also_where_it_is_the_last() -> None:
    assert compared(ALL[:50] + ALL[51:]).missing == 1
    assert compared(ALL[:-1]).missing == 1


def test_what_no_tick_gave_is_unexpected_and_a_name_with_two_values_is_conflicting() -> None:
    strange = changed(ALL[50], id=topic.decode(ALL[50]).id + "9")
    found = compared([*ALL[:51], strange, *ALL[51:]])
    assert (found.unexpected, found.conflicting, found.is_equal) == (1, 0, False)

    found = compared([*ALL, changed(ALL[-1], high=9.9)])
    assert (found.unexpected, found.conflicting, found.is_equal) == (0, 1, False)


@pytest.mark.parametrize(
    ("values", "repeated", "misplaced"),
    [
        (ALL[:60] + ALL[40:], 20, 0),
        (ALL[:60] + ALL[40:50] + ALL[30:], 40, 0),  # a second crash in the tail of the first
        (ALL[:60] + ALL[40:45] + ALL[46:], 19, 1),
        (ALL[:60] + ALL[40:45] + ALL[60:], 5, 0),  # other features since: bars go on behind what is out
        (ALL[:60] + ALL[40:45] + ALL[50:], 15, 1),  # the tail was not repeated as a whole
        ([*ALL[:30], ALL[31], ALL[30], *ALL[32:]], 0, 1),
        (ALL[:30] + ALL[31:40] + ALL[20:], 19, 1),  # lost, and there only when the tail was repeated
    ],
)
def test_only_a_whole_tail_may_repeat(values, repeated, misplaced) -> None:
    found = compared(values)

    assert (found.repeated, bool(found.misplaced), found.is_equal) == (repeated, bool(misplaced), not misplaced)
    assert (found.missing, found.unexpected, found.conflicting) == (0, 0, 0)


@pytest.mark.parametrize(("start", "end"), [(0, 100), (133, 134), (100, 300), (399, 400)])
def test_a_range_judges_the_bars_that_its_ticks_had_written_whenever_they_began(start, end) -> None:
    inside = [value for value in ALL if start <= offset(value) < end]
    found = compared(ALL, start=start, end=end)
    assert (found.is_equal, found.compared) == (True, len(inside))

    assert compared([value for value in ALL if value not in inside[-1:]], start=start, end=end).missing == len(
        inside[-1:]
    )


def test_where_older_ticks_are_gone_only_bars_are_judged_that_cannot_hold_them() -> None:
    found = compared(ALL, start=150, cut=150)

    inside = [topic.decode(value) for value in ALL if offset(value) >= 150]
    by_ticks = [bar for bar in inside if bar.kind == "ticks:7"]
    young = [bar for bar in inside if bar.kind == "time:1s" and bar.start_ns <= START_NS + 150 * SECOND_NS // 8]
    assert found.is_equal
    assert found.unchecked["numbered from ticks that are gone"] == len(by_ticks)
    assert found.unchecked["may hold ticks that are gone"] > len(young) > 0
    assert found.compared == len(inside) - found.unchecked.total() > 50

    last = [n for n, value in enumerate(ALL) if topic.decode(value).kind == "time:1s"][-1]
    assert compared(ALL[:last] + ALL[last + 1 :], start=150, cut=150).missing == 1
    assert compared([*ALL, changed(ALL[last], id=topic.decode(ALL[last]).id + "9")], start=150, cut=150).unexpected == 1


def test_revisions_that_may_go_on_from_before_the_first_tick_say_nothing() -> None:
    restarted = [
        changed(value, id=f"{bar.id.rpartition('-')[0]}-{bar.revision + 3}", revision=bar.revision + 3)
        for value in ALL
        if (bar := topic.decode(value)).kind == "time:1s"
    ]
    found = compared(restarted, start=150, cut=150)

    assert (found.is_equal, found.renumbered) == (True, found.compared)
    assert found.compared > 50
    assert compared([*restarted[:-1], changed(restarted[-1], high=9.9)], start=150, cut=150).mismatches == {"high": 1}


@pytest.mark.parametrize("start", [0, 250, 350])
@pytest.mark.parametrize("revision", [3, 1000])
def test_bars_that_went_on_with_other_revisions_when_state_was_rebuilt_are_renumbered(start, revision) -> None:
    renumbered = published(renumber=(200, revision))
    behind = [value for value in renumbered if offset(value) >= 200]
    found = compared(renumbered, start=start)

    assert (found.is_equal, found.missing, found.unexpected, found.misplaced) == (True, 0, 0, 0)
    assert found.compared == len([value for value in renumbered if offset(value) >= start])
    assert found.renumbered == len([value for value in behind if offset(value) >= start]) > 20

    assert compared([*renumbered[:-1], changed(renumbered[-1], low=0.1)], start=start).mismatches == {"low": 1}
    assert compared(renumbered[:-2] + renumbered[-1:], start=start).missing == 1


def test_a_bar_with_a_lower_revision_is_another_one() -> None:
    place, bar = next((n, bar) for n in range(150, len(ALL)) if (bar := topic.decode(ALL[n])).revision == 1)
    lower = changed(ALL[place], id=f"{bar.id.rpartition('-')[0]}-0", revision=0)

    found = compared([*ALL[:place], lower, *ALL[place + 1 :]], start=bar.offset)

    assert (found.missing, found.unexpected, found.renumbered) == (1, 1, 0)


@pytest.mark.parametrize(("off_s", "least"), [(3600, 0), (-3600, 20), (7, 10)])
def test_where_the_first_tick_that_is_kept_is_misdated_no_bar_counts_as_wrong(off_s, least, monkeypatch) -> None:
    ticks = []
    for n in range(COUNT):
        late_s = 2 * (n % 5 == 1) - off_s * (n == 150)
        ts_ns = START_NS + n * SECOND_NS // 8 - late_s * SECOND_NS
        ticks.append(record(n, quote(ts_ns, "A", bid=9 + n % 100 / 100)))
    monkeypatch.setattr(f"{__name__}.TICKS", ticks)

    found = compared(published(), start=150, cut=150)

    assert found.is_equal
    assert found.compared >= least


def test_more_bars_than_memory_is_meant_for_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(bar_check, "MAX_COMPARED", 99)

    assert compared(ALL[:99] + ALL[50:99]).repeated == 49
    with pytest.raises(InputError, match="name a range"):
        compared(ALL[:100])


def test_where_no_bar_is_out_all_are_missing() -> None:
    found = compared([])

    assert (found.is_equal, found.missing, found.unchecked) == (False, len(ALL), {})


def test_bars_behind_the_newest_one_may_be_under_way_where_the_range_is_open() -> None:
    found = compared(ALL[:-3], is_open=True)
    assert (found.is_equal, found.unchecked) == (True, {"may be under way": 3})

    assert compared(ALL[:-3] + ALL[-1:], is_open=True).missing == 2
    assert compared([], is_open=True).missing == len(ALL)


@pytest.mark.parametrize("kind", ["time:1s", "ticks:7"])
def test_bars_of_a_kind_begin_with_the_first_one_and_other_kinds_are_not_judged(kind) -> None:
    spec = SPEC.model_copy(update={"bars": parse({"name": "demo", "bars": KINDS[kind]}).bars})
    of_kind = [value for value in ALL if topic.decode(value).kind == kind]

    found = compared([*ALL[:20], *ALL[20:]], spec=spec)
    assert (found.compared, found.unchecked) == (len(of_kind), {"bars of another kind": len(ALL) - len(of_kind)})

    found = compared(of_kind[9:], spec=spec)
    assert (found.is_equal, found.unchecked) == (True, {"before the first bar of its kind": 9})


def test_a_kind_of_bars_that_checkpoints_say_is_written_is_missing_where_none_of_it_is_out() -> None:
    by_time = [value for value in ALL if topic.decode(value).kind == "time:1s"]
    by_ticks = [value for value in ALL if topic.decode(value).kind == "ticks:7"]
    behind = [value for value in by_ticks if offset(value) >= 200]

    assert compared(by_time).unchecked == {"before the first bar of its kind": len(by_ticks)}
    found = compared(by_time, bars_from=200)
    assert (found.compared, found.missing) == (len(by_time), len(behind))
    assert found.unchecked == {"before the first bar of its kind": len(by_ticks) - len(behind)}
    assert compared(ALL, bars_from=0).is_equal


def test_behind_what_was_skipped_state_starts_empty_and_nothing_before_it_is_judged() -> None:
    before, behind = [value for value in ALL if offset(value) < 100], published(200)

    found = compared(before + behind, shed=Shed().add(100, 200))

    assert (found.is_equal, found.compared) == (True, len(behind))
    assert found.unchecked == {"before ticks that were skipped": len(before)}
