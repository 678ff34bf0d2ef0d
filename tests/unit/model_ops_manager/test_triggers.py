"""In virtual time jobs start when they would have started by the clock of the ticks, however these are cut."""

from itertools import pairwise

import numpy as np

from ml_core.spec import parse
from ml_core.types import RowBatch, RowFlag
from model_ops_manager.triggers import VirtualClock, VirtualTriggers, is_cool

S = 10**9


def spec_of(*when, cooldown="10s", horizon="5s"):
    retrain = {"when": list(when), "cooldown": cooldown}
    return parse({"name": "demo", "label": {"horizons": [horizon]}, "retrain": retrain})


def rows_at(seconds, symbols="A", flags=0):
    n, names = len(seconds), sorted(set(symbols))
    index_N = np.array([names.index(name) for name in symbols] if len(symbols) == n else [0] * n, np.int32)
    ts_ns_N, nothing_N = (np.array(seconds) * S).astype(np.int64), np.zeros(n)
    flags_N = np.broadcast_to(np.array(flags, np.uint8), n)
    return RowBatch(np.arange(n), index_N, index_N, ts_ns_N, nothing_N, nothing_N, np.zeros((n, 0)), flags_N, names)


def jobs(spec, seconds, *, takes_s=0.0, cut=1):
    """(second, trigger) of every job while the clock goes over ``seconds``, taken in ``cut`` rows at a time."""
    triggers, found = VirtualTriggers(spec), []
    clock_N = (np.array(seconds) * S).astype(np.int64)
    for start in range(0, len(clock_N), cut):
        part_N = clock_N[start : start + cut]
        triggers.observe(part_N)
        while (event := triggers.next()) is not None and event[0] <= part_N[-1]:
            found.append((event[0] / S, event[1]))
            triggers.started(event[0], event[0] + int(takes_s * S))
    return found


def test_a_schedule_starts_at_multiples_since_the_epoch_behind_the_first_tick() -> None:
    assert jobs(spec_of("every 20s"), np.arange(25, 90)) == [(40, "schedule"), (60, "schedule"), (80, "schedule")]


def test_a_slot_at_which_a_job_is_under_way_passes_without_one() -> None:
    found = jobs(spec_of("every 20s"), np.arange(25, 130), takes_s=30)

    assert found == [(40, "schedule"), (80, "schedule"), (120, "schedule")]


def test_rows_start_a_job_when_their_labels_are_known_and_the_pipeline_is_cool() -> None:
    # one row a second from second 1 on: the 10th is made at second 10 and has its label at 15, the 20th at 25
    seconds = np.arange(1, 60)
    assert jobs(spec_of("rows 10"), seconds)[:3] == [(15, "rows"), (25, "rows"), (35, "rows")]
    # a cooldown of 17 s: what was full meanwhile starts one job, as soon as it may
    assert jobs(spec_of("rows 10", cooldown="17s"), seconds)[:3] == [(15, "rows"), (32, "rows"), (49, "rows")]


def test_no_cut_of_the_rows_moves_a_job() -> None:
    rng = np.random.default_rng(0)
    seconds = np.concatenate([np.zeros(7), np.sort(rng.uniform(100, 400, 500))])  # the clock does not run at first
    spec = spec_of("rows 23", "every 30s", cooldown="11s")
    whole = jobs(spec, seconds, cut=1000, takes_s=4)

    assert len({trigger for _, trigger in whole}) == 2
    assert all(jobs(spec, seconds, cut=cut, takes_s=4) == whole for cut in (1, 6, 7, 22, 23, 24))


def test_every_job_starts_when_the_worker_would_call_the_pipeline_cool() -> None:
    found = jobs(spec_of("rows 7", "every 13s"), np.arange(1, 300), takes_s=12)

    for (before_s, _), (start_s, _) in pairwise(found):
        is_over = start_s >= before_s + 12
        assert is_cool(int(start_s * S), int(before_s * S), is_over=is_over, cooldown_ns=10 * S)


def test_the_clock_goes_by_times_that_are_sure_and_never_back() -> None:
    clock = VirtualClock()
    ahead, late = int(RowFlag.AHEAD), int(RowFlag.LATE)

    # a symbol's first row is not confirmed by anything
    assert (clock.times(rows_at([50, 10, 11], "ABB")) // S).tolist() == [0, 0, 11]
    more = rows_at([5, 12, 90, 14, 13], flags=[late, 0, ahead, 0, 0])
    assert (clock.times(more) // S).tolist() == [11, 12, 12, 14, 14]
    assert (clock.times(rows_at([12, 15])) // S).tolist() == [14, 15]
    assert clock.now_ns == 15 * S
