"""What is asked of `tickwise verify parity`."""

import time
from collections import Counter

import pytest
from typer.testing import CliRunner

from api.cli import ranges as ranges_of
from api.cli import verify
from ml_core.errors import InputError
from ml_core.types import OffsetRange
from model_ops_manager.compared import Compared
from model_ops_manager.parity import Arrival, Parity
from model_ops_manager.shed import Shed
from model_ops_manager.subject import Committed
from streams.checkpoints import Checkpoints

TEN_MS = 1_795_946_400_000  # 2026-11-29T10:00 UTC


@pytest.fixture
def _far_from_greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_far_from_greenwich")
@pytest.mark.parametrize(
    ("ranges", "since", "until", "expected"),
    [
        (None, None, None, None),
        (["1:5-9"], None, None, {1: (5, 10)}),
        (None, "2026-11-29T10:00", None, Arrival(TEN_MS, None)),
        (None, None, "2026-11-29T11:00+01:00", Arrival(None, TEN_MS)),
        (None, "2026-11-29T10:00", "2026-11-29T10:00:00.25Z", Arrival(TEN_MS, TEN_MS + 250)),
    ],
)
def test_ticks_are_named_by_offsets_or_by_times_of_arrival(ranges, since, until, expected):
    assert ranges_of.asked_for(ranges, since, until) == expected


@pytest.mark.parametrize(
    ("ranges", "since", "until", "word"),
    [
        (["0:1-2"], "2026-11-29T10:00", None, "one of both"),
        (None, "2026-11-29T10:00", "2026-11-29T10:00", "not before"),
        (None, None, "10 o'clock", "--to: .* is no time"),
        (None, "1969-12-31", None, "--from: .* lies before 1970"),
    ],
)
def test_what_means_nothing_is_refused(ranges, since, until, word):
    with pytest.raises(InputError, match=word):
        ranges_of.asked_for(ranges, since, until)


def test_bars_are_told_beside_rows_where_there_are_any(capsys):
    bars = Compared(compared=9, repeated=2, misplaced=1)
    bars.differs(0, (5, 0), [("close", 1.5, 1.25)], of="id-0-A-time:1s-7-0")
    without, with_bars = Parity("p", [], {}, Compared(), Compared()), Parity("p", [], {}, Compared(), Compared(), bars)

    for report in (without, with_bars):
        verify._tell(report)

    assert capsys.readouterr().out.splitlines()[4:] == [
        "bars: 9 compared, 1 misplaced, 2 repeated, 1 differ in close, "
        "first: close of id-0-A-time:1s-7-0 at 0/5/0 is 1.5 instead of 1.25"
    ]
    assert (without.is_equal, with_bars.is_equal) == (True, False)
    assert "bars" not in without.as_dict()
    assert with_bars.as_dict()["bars"]["mismatches"] == {"close": 1}


@pytest.mark.parametrize(
    ("ranges", "compared", "code", "words"),
    [
        ([OffsetRange(partition=0, start=0, end=9)], 9, 0, ""),
        ([OffsetRange(partition=0, start=5, end=5)], 0, verify.DIFFERENT, "nothing was compared"),
        ([], 0, 0, "holds no ticks"),
    ],
)
def test_where_ticks_have_no_outputs_nothing_is_proven_and_the_command_fails(
    monkeypatch, tmp_path, ranges, compared, code, words
):
    async def verified(*_):
        return Parity("one", ranges, {}, Compared(compared=compared), Compared(), not_out={0: (5, 9)})

    (tmp_path / "one.toml").write_text('name = "one"')
    monkeypatch.setattr(verify.checked, "verify", verified)

    words_given = ["parity", "one", "--shed", "0:0-0"]
    result = CliRunner().invoke(verify.app, words_given, env={"TICKWISE_PIPELINES": str(tmp_path)})

    assert result.exit_code == code
    assert words in result.stderr
    assert "partition 0: offsets 5 to 8 have no outputs yet" in result.stdout


RANGES = [OffsetRange(partition=0, start=0, end=9)]
UNPROVEN = Counter({"there is no version 9": 4})
BEFORE = Counter({"rows before the first prediction": 9})


@pytest.mark.parametrize(
    ("said", "found", "code", "words"),
    [
        ({}, Compared(compared=9), 0, "no checkpoint of group 'mine' was read about partition 0"),
        ({0: Committed(9)}, Compared(unchecked=BEFORE), 0, ""),
        ({0: Committed(9, 9)}, Compared(unchecked=BEFORE), 0, "from offset 9 of partition 0 on; whether one served"),
        ({0: Committed(9, 0)}, Compared(missing=9), verify.DIFFERENT, ""),
        (
            {0: Committed(9, 0)},
            Compared(compared=5, unchecked=UNPROVEN, unproven=UNPROVEN),
            verify.DIFFERENT,
            "not proven: 4 predictions could not be compared (there is no version 9)",
        ),
    ],
)
def test_what_checkpoints_say_reaches_the_comparison_and_what_is_not_proven_fails(
    monkeypatch, tmp_path, said, found, code, words
):
    skipped = Shed().add(1, 2)

    async def read(_kafka, group, _spec):
        assert group == "mine"
        return {number: Checkpoints(skipped, each) for number, each in said.items()}

    async def verified(_kafka, _spec, _models, _asked, shed, committed):
        assert (shed, committed) == (dict.fromkeys(said, skipped), said)
        return Parity("one", RANGES, {}, Compared(compared=9), found)

    (tmp_path / "one.toml").write_text('name = "one"')
    monkeypatch.setattr(verify.checked, "verify", verified)
    monkeypatch.setattr(verify.checkpoints, "read", read)

    given = ["parity", "one", "--group", "mine"]
    result = CliRunner().invoke(verify.app, given, env={"TICKWISE_PIPELINES": str(tmp_path)})

    assert (result.exit_code, type(result.exception)) == (code, SystemExit if code else type(None))
    assert words in " ".join(result.stderr.split()) if words else not result.stderr
