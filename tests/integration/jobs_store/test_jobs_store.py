"""The job store on the databases it is made for; one set of promises, kept by both."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ml_core.errors import (
    IdempotencyConflictError,
    InputError,
    JobNotFoundError,
    JobStateError,
    LeaseLostError,
    QueueFullError,
)
from ml_core.spec import parse
from ml_core.types import SECOND_NS, JobKind, JobSpec, JobState, OffsetRange
from model_ops_manager.jobs import store as store_module
from model_ops_manager.jobs.quotas import Quotas

PIPELINE = parse({"name": "demo", "model": {"kind": "mlp", "params": {"width": 8}}})
OTHER = parse({"name": "other"})
SPEC = JobSpec(pipeline="demo")


def test_a_job_is_kept_as_it_was_submitted(store, url, open_store, clock):
    spec = JobSpec(
        pipeline="demo",
        kind=JobKind.INCREMENTAL,
        ranges=(OffsetRange(partition=0, start=5, end=9),),
        seed=3,
        params={"width": 16},
    )
    made = store.submit(spec, PIPELINE, "key")

    found = open_store(url).get(made.id)

    assert found == made
    assert (found.spec, found.state, found.attempt, found.trigger) == (spec, JobState.QUEUED, 0, "api")
    assert found.created_at.timestamp() == pytest.approx(clock.now_ns / SECOND_NS)
    assert found.pipeline_spec().model.params == {"width": 16}
    assert (found.progress, found.result, found.error, found.started_at, found.finished_at) == (None,) * 5
    assert store.list(kinds=[JobKind.BATCH]) == []
    assert store.list(kinds=[JobKind.BATCH, JobKind.INCREMENTAL]) == [found]


def test_the_folder_of_own_parts_travels_with_the_job(store, tmp_path):
    made = store.submit(SPEC, parse({"name": "demo"}, folder=tmp_path))
    assert store.get(made.id).pipeline_spec().folder == tmp_path


def test_a_job_for_another_pipeline_than_given_is_refused(store):
    with pytest.raises(InputError, match=r"'demo'.*'other'"):
        store.submit(SPEC, OTHER)


def test_an_unknown_job_is_not_found(store):
    with pytest.raises(JobNotFoundError, match="train-nothing"):
        store.get("train-nothing")
    with pytest.raises(JobNotFoundError):
        store.request_cancel("train-nothing")
    with pytest.raises((JobNotFoundError, InputError)):  # which PostgreSQL cannot even be asked for
        store.get("train-\0")


def test_the_same_key_and_payload_give_the_first_job(store):
    first = store.submit(SPEC, PIPELINE, "key")
    leased = store.lease("runner", 10)
    assert leased.id == first.id

    assert store.submit(SPEC, PIPELINE, "key") == leased
    assert store.submit(JobSpec(pipeline="other"), OTHER, "key").id != first.id
    assert store.submit(SPEC, PIPELINE).id != first.id
    with pytest.raises(IdempotencyConflictError, match=first.id):
        store.submit(JobSpec(pipeline="demo", seed=1), PIPELINE, "key")


def test_many_threads_with_one_key_make_one_job(url, open_store):
    stores = [open_store(url) for _ in range(4)]
    gate = threading.Barrier(8)

    def submit(number):
        gate.wait(20)
        return stores[number % 4].submit(SPEC, PIPELINE, "key").id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(submit, range(8)))

    assert len(ids) == 1
    assert [job.id for job in stores[0].list()] == list(ids)


def test_a_full_queue_refuses_new_jobs_and_repeats_old_ones(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_QUEUED", 2)
    first = store.submit(SPEC, PIPELINE, "key")
    store.submit(SPEC, PIPELINE)

    with pytest.raises(QueueFullError, match="2 jobs wait"):
        store.submit(SPEC, PIPELINE)
    assert store.submit(SPEC, PIPELINE, "key") == first
    store.lease("runner", 10)
    store.submit(SPEC, PIPELINE)


def test_a_pipeline_that_fills_its_part_of_the_queue_leaves_room_for_others(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_QUEUED_PER_PIPELINE", 2)
    for _ in range(2):
        store.submit(SPEC, PIPELINE)

    with pytest.raises(QueueFullError, match="2 jobs of pipeline 'demo' wait"):
        store.submit(SPEC, PIPELINE)
    store.submit(JobSpec(pipeline="other"), OTHER)


def test_jobs_are_listed_newest_first_page_by_page(store):
    ids = [store.submit(SPEC, PIPELINE).id for _ in range(5)]
    other = store.submit(JobSpec(pipeline="other"), OTHER).id
    running = store.lease("runner", 10)

    assert [job.id for job in store.list()] == [other, *reversed(ids)]
    assert [job.id for job in store.list(limit=2)] == [other, ids[4]]
    assert [job.id for job in store.list(limit=2, before=ids[4])] == [ids[3], ids[2]]
    assert [job.id for job in store.list(pipeline="other")] == [other]
    assert store.list(state=JobState.RUNNING) == [running]
    assert [job.id for job in store.list(state=JobState.QUEUED, pipeline="demo", limit=1)] == [ids[4]]
    assert store.list(before=ids[0]) == []


def test_jobs_are_leased_in_the_order_they_came_and_each_once(store):
    ids = [store.submit(SPEC, PIPELINE).id for _ in range(2)]

    leased = [store.lease("a", 10), store.lease("b", 10), store.lease("a", 10)]

    assert [job and job.id for job in leased] == [*ids, None]
    assert [(job.state, job.attempt, job.runner) for job in leased[:2]] == [("running", 1, "a"), ("running", 1, "b")]
    assert leased[0].started_ns is not None
    assert leased[0].lease_until_ns - leased[0].started_ns == 10 * SECOND_NS


def test_runners_that_ask_at_once_never_get_the_same_job(url, open_store):
    submitter = open_store(url)
    ids = {submitter.submit(SPEC, PIPELINE).id for _ in range(12)}
    gate = threading.Barrier(4)

    def take_all(name):
        store = open_store(url)
        gate.wait(20)
        taken = []
        while (job := store.lease(name, 60)) is not None:
            taken.append(job.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [job for part in pool.map(take_all, "abcd") for job in part]

    assert len(taken) == 12
    assert set(taken) == ids


def test_a_higher_priority_goes_first_and_equal_ones_go_by_age_whoever_was_lost_meanwhile(store, clock):
    low, first, second, high = (
        store.submit(JobSpec(pipeline="demo", priority=priority), PIPELINE).id for priority in (-1, 0, 0, 10)
    )

    lost = store.lease("lost", 10)
    clock.pass_s(11)

    assert lost.id == high
    assert [store.lease("next", 10).id for _ in range(4)] == [high, first, second, low]
    assert store.get(high).spec.priority == 10


def test_a_job_past_a_quota_waits_and_lets_others_pass_until_there_is_room(store):
    quotas = Quotas(per_pipeline=2, per_kind={JobKind.INCREMENTAL: 1})
    ids = [store.submit(SPEC, PIPELINE).id for _ in range(3)]
    others = [store.submit(JobSpec(pipeline="other", kind=JobKind.INCREMENTAL), OTHER).id for _ in range(2)]

    leased = [store.lease("runner", 10, quotas) for _ in range(4)]

    assert [job and job.id for job in leased] == [*ids[:2], others[0], None]
    store.finish(leased[2], JobState.SUCCEEDED, result={})
    assert store.lease("runner", 10, quotas).id == others[1]
    store.give_back(leased[0])
    assert store.lease("runner", 10, quotas).id == ids[0]
    assert store.lease("runner", 10, quotas) is None
    assert store.lease("runner", 10).id == ids[2]


def test_runners_that_ask_at_once_stay_within_a_quota_together(url, open_store):
    submitter = open_store(url)
    for name in ("demo", "other") * 4:
        submitter.submit(JobSpec(pipeline=name), parse({"name": name}))
    gate = threading.Barrier(4)

    def take_all(name):
        store = open_store(url)
        gate.wait(20)
        taken = []
        while (job := store.lease(name, 60, Quotas(per_pipeline=1))) is not None:
            taken.append(job.spec.pipeline)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [pipeline for part in pool.map(take_all, "abcd") for pipeline in part]

    assert sorted(taken) == ["demo", "other"]


def test_what_an_attempt_settled_is_known_to_the_next_one(store):
    store.submit(SPEC, PIPELINE)
    first = store.lease("runner", 10)
    store.settle(first, ranges=[[0, 5]], origin=None)
    store.give_back(first)

    second = store.lease("runner", 10)

    assert (first.settled, second.settled) == (None, {"ranges": [[0, 5]], "origin": None})
    with pytest.raises(LeaseLostError):
        store.settle(first, ranges=[])


def test_a_job_whose_process_was_killed_waits_again_twice_and_then_has_failed(store):
    store.submit(SPEC, PIPELINE)
    ended = []
    for _ in range(3):
        job = store.lease("runner", 10)
        ended.append(store.retry(job, "killed"))

    assert [(each.state, each.losses) for each in ended] == [
        (JobState.QUEUED, 1), (JobState.QUEUED, 2), (JobState.FAILED, 3),
    ]  # fmt: skip
    assert ended[-1].error == "killed; 3 attempts were lost"
    with pytest.raises(LeaseLostError):
        store.retry(job, "killed")


def test_a_job_that_was_killed_while_it_registered_cannot_be_cancelled_any_more(store):
    store.submit(SPEC, PIPELINE)
    job = store.lease("runner", 10)
    store.begin_registering(job)
    store.retry(job, "killed")

    with pytest.raises(JobStateError, match="is registering"):
        store.request_cancel(job.id)


def test_a_heartbeat_prolongs_the_lease_and_progress_is_replaced(store, clock):
    store.submit(SPEC, PIPELINE)
    job = store.lease("runner", 10)
    clock.pass_s(8)

    beaten = store.heartbeat(job, 10)
    store.progress(job, stage="fetch")
    told = store.progress(job, stage="train", epoch=1)
    clock.pass_s(8)

    assert beaten.lease_until_ns > job.lease_until_ns
    assert told.progress == {"stage": "train", "epoch": 1}
    assert store.lease("other", 10) is None


def test_a_job_ends_with_its_result_and_no_second_time(store):
    store.submit(SPEC, PIPELINE)
    job = store.lease("runner", 10)

    done = store.finish(job, JobState.SUCCEEDED, result={"version": 1, "metrics": {"loss": 0.5}})

    assert (done.state, done.result, done.error, done.lease_until_ns) == (
        JobState.SUCCEEDED, {"version": 1, "metrics": {"loss": 0.5}}, None, None,
    )  # fmt: skip
    assert done.finished_ns >= done.started_ns
    with pytest.raises(LeaseLostError):
        store.finish(job, JobState.FAILED, error="late")
    assert store.get(job.id) == done


def test_a_failed_job_keeps_its_reason_within_bounds(store):
    store.submit(SPEC, PIPELINE)
    failed = store.finish(store.lease("r", 10), JobState.FAILED, error="x" * 10_000, error_type="NotEnoughDataError")
    assert (failed.state, len(failed.error), failed.error_type) == (JobState.FAILED, 4000, "NotEnoughDataError")


def test_a_runner_whose_lease_ran_out_can_change_nothing(store, clock):
    store.submit(SPEC, PIPELINE)
    lost = store.lease("slow", 10)
    clock.pass_s(11)
    taken = store.lease("fast", 10)
    assert (taken.id, taken.attempt, taken.runner) == (lost.id, 2, "fast")

    for act in (
        lambda: store.heartbeat(lost, 10),
        lambda: store.progress(lost, stage="train"),
        lambda: store.begin_registering(lost),
        lambda: store.finish(lost, JobState.SUCCEEDED, result={}),
        lambda: store.give_back(lost),
    ):
        with pytest.raises(LeaseLostError, match="attempt 1"):
            act()
    assert store.get(lost.id) == taken


def test_a_job_that_loses_its_runner_three_times_has_failed(store, clock):
    store.submit(SPEC, PIPELINE)
    attempts = []
    for _ in range(3):
        attempts.append(store.lease("doomed", 10).attempt)
        clock.pass_s(11)

    assert store.lease("next", 10) is None
    job = store.list()[0]
    assert attempts == [1, 2, 3]
    assert (job.state, job.attempt) == (JobState.FAILED, 3)
    assert job.error == "its runner was lost while it ran; 3 attempts were lost"


def test_a_waiting_job_is_cancelled_at_once(store):
    waiting = store.submit(SPEC, PIPELINE)

    cancelled = store.request_cancel(waiting.id)

    assert (cancelled.state, cancelled.finished_ns is not None) == (JobState.CANCELLED, True)
    assert store.request_cancel(waiting.id) == cancelled
    assert store.lease("runner", 10) is None


def test_a_running_job_is_asked_to_stop_and_cannot_register_any_more(store):
    store.submit(SPEC, PIPELINE)
    job = store.lease("runner", 10)

    asked = store.request_cancel(job.id)

    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert store.request_cancel(job.id) == asked
    assert store.heartbeat(job, 10).cancel_requested
    assert not store.begin_registering(job)
    assert store.finish(job, JobState.CANCELLED).state is JobState.CANCELLED


def test_a_job_that_registers_or_is_done_cannot_be_cancelled(store):
    store.submit(SPEC, PIPELINE)
    job = store.lease("runner", 10)
    assert store.begin_registering(job, stage="register")

    with pytest.raises(JobStateError, match="is registering"):
        store.request_cancel(job.id)
    store.finish(job, JobState.SUCCEEDED, result={})
    with pytest.raises(JobStateError, match="has succeeded"):
        store.request_cancel(job.id)


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(store, clock):
    store.submit(SPEC, PIPELINE)
    job = store.lease("lost", 10)
    store.request_cancel(job.id)
    clock.pass_s(11)

    assert store.lease("next", 10) is None
    assert store.get(job.id).state is JobState.CANCELLED


def test_a_job_given_back_waits_again_unless_it_was_to_be_cancelled(store):
    store.submit(SPEC, PIPELINE)
    first = store.lease("stopping", 10)

    assert store.give_back(first).state is JobState.QUEUED
    second = store.lease("next", 10)
    assert (second.id, second.attempt, second.progress) == (first.id, 2, None)
    store.request_cancel(second.id)
    assert store.give_back(second).state is JobState.CANCELLED
