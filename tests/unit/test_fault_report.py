"""The fault bench says what was measured, and nothing else."""

import random

import pytest

from tests.faults import repeats
from tests.faults.__main__ import page, run, summary
from tests.faults.bench import Bench
from tests.faults.repeats import Jump
from tests.faults.waiting import FellShortError

COUNTED = {"lost": 3, "conflicting": 0, "repeats": 7, "acknowledged_lost": 0}


async def test_a_fault_that_falls_short_keeps_what_was_counted(monkeypatch, tmp_path) -> None:
    async def falls_short(_bench):
        raise FellShortError("rows are gone", COUNTED)

    monkeypatch.setattr("tests.faults.__main__.scenarios", lambda: {"gone": falls_short})
    found = await run(Bench(tmp_path, None, "", 1, True, 0.0), ["gone"], "on one core")

    assert found["gone"].items() >= {**COUNTED, "fell_short": "rows are gone", "note": "on one core"}.items()
    assert summary(found)["lost"] == 3


def test_what_was_not_counted_is_not_said_to_be_nothing() -> None:
    told = summary({"kills": {"lost": 0, "kills": 50}, "zombie": {"fell_short": "not consuming"}, "disk": {}})

    assert (told["lost"], told["conflicting"], told["kills"]) == (None, None, 50)
    assert summary({"kills": {"lost": 0}, "disk": {}})["lost"] == 0


def test_a_result_on_the_page_has_its_commit_its_time_and_its_note() -> None:
    found = {"kills": {"commit": "abc1234", "at": "2026-01-02T03:04Z", "note": "a | b", "fell_short": "x\ny"}}
    [line] = [line for line in page(found).splitlines() if line.startswith("| kills")]

    assert line == "| kills | x y |  |  |  |  | note a \\| b | abc1234 2026-01-02T03:04Z |"


def test_rows_of_a_partition_begin_again_at_most_as_often_as_somebody_was_killed() -> None:
    kills = [{0: 10, 1: 10}, {0: 20, 1: 20}]
    found = [Jump(0, 12, 5), Jump(1, 21, 5), Jump(0, 25, 5)]
    assert repeats.of_kills(found, kills) == [found[:1], found[1:]]

    often = [Jump(0, 12, 1), Jump(0, 22, 1), Jump(0, 23, 1)]
    for too_many, said in (([Jump(0, 9, 1)], "before any kill"), (often, "3} times by partition, of 2 kills")):
        with pytest.raises(FellShortError, match=said):
            repeats.of_kills(random.sample(too_many, len(too_many)), kills)
