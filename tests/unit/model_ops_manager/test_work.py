"""Where a job has its ticks from, and what it makes of a job store that is away."""

from types import SimpleNamespace

import pytest

from data_io.data_fetcher.kafka_range import Fetched
from ml_core import frames
from ml_core.errors import JobStoreUnavailableError
from ml_core.spec import parse
from ml_core.types import JobSpec, OffsetRange
from model_ops_manager.jobs import patience
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.works import base, train
from model_ops_manager.jobs.works.train import Train

RANGE = OffsetRange(partition=0, start=0, end=9)


@pytest.mark.parametrize("asked", [(RANGE,), None])
def test_a_job_reads_the_archive_of_its_runner(monkeypatch, tmp_path, asked):
    given = []

    async def newest_ranges(*_args):
        given.append(_args[3])
        return (RANGE,)

    async def fetch_ranges(*_args, archive, **_):
        given.append(archive)
        return Fetched(frames.empty(), (RANGE,), {})

    monkeypatch.setattr(base, "newest_ranges", newest_ranges)
    monkeypatch.setattr(base, "fetch_ranges", fetch_ranges)
    monkeypatch.setattr(base, "within_span", lambda fetched, _: fetched)
    spec = parse({"name": "demo"})
    job = SimpleNamespace(
        id="train-1", attempt=1, settled=None, pipeline_spec=lambda: spec, spec=JobSpec(pipeline="demo", ranges=asked)
    )

    Train(job, None, None, RunnerSettings(archive=tmp_path)).fetch()

    assert set(given) == {tmp_path}


def test_an_attempt_reads_the_offsets_that_the_one_before_found(monkeypatch):
    async def fetch_ranges(_kafka, _topic, ranges, _decoder, *, limit, **_):
        assert limit is None
        return Fetched(frames.empty(), tuple(ranges), {})

    monkeypatch.setattr(base, "fetch_ranges", fetch_ranges)
    spec, settled = parse({"name": "demo"}), {"ranges": [RANGE.model_dump()], "origin": None}
    job = SimpleNamespace(
        id="train-1", attempt=2, settled=settled, pipeline_spec=lambda: spec, spec=JobSpec(pipeline="demo")
    )

    assert Train(job, None, None, RunnerSettings()).fetch().ranges == (RANGE,)


class Away:
    """A job store that does not answer the first ``times``."""

    def __init__(self, times):
        self.left, self.told = times, []

    def progress(self, _job, **progress):
        if self.left:
            self.left -= 1
            raise JobStoreUnavailableError("away")
        self.told.append(progress)
        return True

    begin_registering = progress


@pytest.fixture
def work_on(monkeypatch, tmp_path):
    monkeypatch.setattr(patience, "_RETRY_S", 0.0)
    job = SimpleNamespace(id="train-1", attempt=1, settled=None, pipeline_spec=lambda: parse({"name": "demo"}))
    return lambda store: Train(job, store, None, RunnerSettings(home=tmp_path))


def test_progress_that_cannot_be_told_ends_no_training(work_on):
    store = Away(1)
    work = work_on(store)
    work.tell(epoch=1)
    work.tell(epoch=2)
    assert store.told == [{"epoch": 2}]


def test_what_was_trained_waits_for_a_store_that_comes_back(work_on, monkeypatch):
    store = Away(3)
    work_on(store).begin_registering(lambda: None, stage="register")
    assert store.told == [{"stage": "register"}]
    monkeypatch.setattr(patience, "PATIENCE_S", -1.0)
    with pytest.raises(JobStoreUnavailableError):
        work_on(Away(3)).begin_registering(lambda: None, stage="register")


def test_a_recipe_is_taken_before_there_is_time_to_edit_an_own_part(work_on, monkeypatch):
    class StopError(Exception):
        pass

    def fetch():
        raise StopError

    taken = []
    monkeypatch.setattr(train, "check", lambda _: None)
    monkeypatch.setattr(train, "end_leftovers", lambda *_: None)
    monkeypatch.setattr(train, "Recipe", SimpleNamespace(of=lambda spec, threads: taken.append((spec, threads))))
    work = work_on(Away(0))
    work.agent = SimpleNamespace(champion=lambda _: None)
    work.job.spec = JobSpec(pipeline="demo")
    work.fetch = fetch

    with pytest.raises(StopError):
        work.run(lambda: None)
    assert taken == [(work.pipeline, work.settings.job_threads)]
