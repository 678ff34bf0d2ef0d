"""The work of a job in this process: what stands in its way, and what it leaves behind then."""

import asyncio
import os
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from data_io.data_fetcher.sources import open_source
from data_io.feeds import gaps
from data_io.feeds.gaps import Gap
from data_io.publisher import publish
from data_io.topics.admin import ensure_topics
from data_io.topics.ticks import topic_spec
from ml_core.errors import (
    InputError,
    KafkaUnavailableError,
    LeaseLostError,
    NotEnoughDataError,
    SpecError,
    TrainingCancelledError,
)
from ml_core.spec import parse
from ml_core.types import JobKind, JobSpec, JobState, OffsetRange
from model_ops_manager import card
from model_ops_manager.jobs import training
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.jobs.works.train import Train
from model_ops_manager.jobs.works.tune import Tune
from model_ops_manager.study_runs import KIND_TAG, PARENT_TAG, TRIAL_TAG, StudyRuns

pytestmark = pytest.mark.integration

TICKS = 24_000


@pytest.fixture(scope="module")
def topic(kafka):
    name = f"ticks-{os.urandom(4).hex()}"

    async def fill():
        await ensure_topics(kafka, [topic_spec(name, 1), topic_spec(f"{name}-empty", 1)])
        source = open_source(f"synthetic:symbols=4,ticks={TICKS},rate=100,seed=7,edge=3")
        await publish(source, bootstrap=kafka, topic=name)
        await ensure_topics(kafka, [gaps.topic_spec(1)._replace(name=f"{name}-gaps")])
        middle_ns = int(source.fetch()["ts_ns"].iloc[4000])
        key, value = gaps.encode(Gap("SYN00", "any", middle_ns, middle_ns, "started"))
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        await producer.send_and_wait(f"{name}-gaps", value, key=key)
        await producer.stop()

    asyncio.run(fill())
    return name


class Bench:
    def __init__(self, kafka, topic, home, agent):
        self.settings = RunnerSettings.read(kafka=kafka, home=home, max_ticks=100_000, model_cards=False)
        self.topic, self.agent = topic, agent
        self.store = JobStore(self.settings.job_store_url)
        self.passed: list[str] = []

    def pipeline(self, folder=None, **parts):
        return parse(
            {
                "name": "demo",
                "source": {"topic": parts.pop("topic", self.topic), "gaps": f"{self.topic}-gaps"},
                "features": {"use": ["queue_imbalance", "queue_imbalance_mean:1s"]},
                "label": {"horizons": ["1s"]},
                "train": {"epochs": 3, "min_rows": 500},
                **parts,
            },
            folder=folder,
        )

    def lease(self, pipeline=None, **job):
        pipeline = pipeline or self.pipeline()
        self.store.submit(JobSpec(pipeline=pipeline.name, **job), pipeline)
        return self.store.lease("test", 600)

    def run(self, job, on_point_of_no_return=lambda: None, work=Train, **settings):
        given = self.settings.model_copy(update=settings)
        return work(job, self.store, self.agent, given).run(on_point_of_no_return)


@pytest.fixture
def bench(kafka, topic, tmp_path, model_store):
    bench = Bench(kafka, topic, tmp_path, model_store(tmp_path))
    yield bench
    bench.store.close()


def part(start, end, partition=0):
    return OffsetRange(partition=partition, start=start, end=end)


@pytest.mark.parametrize(
    ("job", "error", "said"),
    [
        ({"ranges": [part(3, 3)]}, NotEnoughDataError, "is empty"),
        ({"ranges": [part(0, 10**9)]}, InputError, "at most 100000"),
        ({"ranges": [part(0, TICKS + 1)]}, InputError, f"ends at offset {TICKS}"),
        ({"ranges": [part(0, 10, partition=9)]}, InputError, "none of number 9"),
        ({"ranges": [part(0, 100)]}, NotEnoughDataError, r"train\.min_rows asks for 500"),
        ({"kind": JobKind.INCREMENTAL}, InputError, "no champion to go on from"),
        ({"params": {"no_such": 1}}, SpecError, "no_such"),
    ],
)
def test_what_cannot_be_done_is_an_error_and_registers_nothing(bench, job, error, said):
    with pytest.raises(error, match=said):
        bench.run(bench.lease(**job))
    assert bench.agent.versions("demo") == []


LOSS = """
class NoNumber:
    def __init__(self, model):
        self.model = model

    def loss(self, batch):
        return self.model(batch.x_BTF).sum(dim=1) * (float("nan") if self.model.training else 1.0)
"""


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ({"features": {"use": ["queue_imbalence"]}}, "SpecError", "did you mean 'queue_imbalance'"),
        ({"model": {"kind": "broken:Net"}}, "UnknownPartError", "ZeroDivisionError"),
        (
            {"label": {"horizons": ["1s"], "dead_zone": "100 spread"}},
            "NotEnoughDataError",
            "rows to train on are 'flat'",
        ),
        ({"train": {"min_rows": 500, "loss": "losses:NoNumber"}}, "InputError", "training stopped at epoch 1"),
    ],
)
def test_a_job_of_bad_input_has_failed_with_its_reason_and_registers_nothing(bench, tmp_path, parts, error, said):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "losses.py").write_text(LOSS)
    job = bench.lease(bench.pipeline(tmp_path, **parts), ranges=[part(0, 8000)])

    assert training._run(job, bench.store, bench.settings) == 1

    failed = bench.store.get(job.id)
    assert (failed.state, failed.error_type) == (JobState.FAILED, error)
    assert said in failed.error
    assert bench.agent.versions("demo") == []


def test_an_empty_topic_and_a_kafka_that_is_away_are_told_apart(bench):
    with pytest.raises(NotEnoughDataError, match="holds no ticks"):
        bench.run(bench.lease(bench.pipeline(topic=f"{bench.topic}-empty")))
    with pytest.raises(KafkaUnavailableError):
        bench.run(bench.lease(), kafka="127.0.0.1:1")


def test_a_job_of_exact_ranges_tells_its_progress_and_uses_just_these(bench, monkeypatch):
    monkeypatch.setattr("model_ops_manager.jobs.works.base.PROGRESS_S", 0.0)
    job, told, tell = bench.lease(ranges=[part(1000, 9000)]), [], bench.store.progress
    monkeypatch.setattr(bench.store, "progress", lambda job, **how: told.append(how) or tell(job, **how))

    result = bench.run(job)

    assert (result["version"], result["ticks"]) == (1, 8000)
    assert result["ranges"] == [{"partition": 0, "start": 1000, "end": 9000}]
    assert bench.agent.versions("demo")[0].tags["tickwise.ranges"] == "0:1000-9000"
    made = bench.agent.load_fitted(bench.agent.version("demo", 1))
    assert made.contract.gap_ranges == (part(0, 1),)
    assert made.report["processing"]["rows_dropped"]["gap_mark"] > 0
    assert bench.store.get(job.id).settled["mark_ranges"] == [{"partition": 0, "start": 0, "end": 1}]
    assert [how["stage"] for how in told] == ["fetch"] + ["train"] * (len(told) - 1)
    assert [how["epoch"] for how in told[2:5]] == [0, 1, 2]
    assert told[2]["train_loss"] is None
    stored = bench.store.get(job.id)
    assert (stored.state, stored.progress) == (JobState.RUNNING, {"stage": "register", "ticks": 8000})


def test_without_ranges_the_last_span_is_used_and_manual_approval_moves_no_alias(bench):
    train = {"epochs": 3, "min_rows": 500, "span": "200s"}
    result = bench.run(bench.lease(bench.pipeline(train=train, gate={"approve": "manual"})))

    assert result["ticks"] == pytest.approx(20_000, rel=0.05)
    assert result["ranges"] == [{"partition": 0, "start": TICKS - result["ticks"], "end": TICKS}]
    assert result["decision"]["reason"].startswith("better, awaiting approval")
    assert bench.agent.champion("demo") is None
    assert bench.agent.versions("demo")[0].decision["figures"]["passed"]


def test_cancelled_at_the_last_moment_registers_nothing(bench):
    job = bench.lease()
    with pytest.raises(TrainingCancelledError):
        bench.run(job, lambda: bench.store.request_cancel(job.id))
    assert bench.agent.versions("demo") == []


def test_an_attempt_that_was_taken_over_does_not_go_on(bench):
    job = bench.lease()
    bench.store.give_back(job)
    assert bench.store.lease("other", 60).attempt == 2

    with pytest.raises(LeaseLostError):
        bench.run(job)


def test_a_champion_made_meanwhile_is_the_new_rival_unless_it_answers_another_question(bench):
    made = []

    def another_job_is_faster():
        made.append(bench.run(bench.lease(seed=2)))

    result = bench.run(bench.lease(seed=1), another_job_is_faster)

    assert made[0]["decision"]["promote"]
    assert result["version"] == 2
    assert result["decision"]["figures"]["rival"] == "version 1"

    champion = bench.agent.champion("demo").version
    changed = bench.run(bench.lease(bench.pipeline(features={"use": ["queue_imbalance", "return:1s"]})))

    reason = f"version {champion} answers another question (feature_hash changed); as a first model"
    assert changed["decision"]["reason"].startswith(reason)
    assert changed["decision"]["figures"]["rival"] == "the prior"


def test_an_attempt_after_one_that_was_killed_past_its_registration_gives_the_same_answer(bench):
    job = bench.lease()
    first = bench.run(job)
    bench.store.retry(job, "killed")

    again = bench.run(bench.store.lease("test", 60))

    assert again == first
    assert first["decision"]["promote"]
    assert [each.version for each in bench.agent.versions("demo")] == [1]
    assert bench.agent.versions("demo")[0].decision == first["decision"]


def test_an_attempt_goes_on_from_the_version_and_the_ticks_of_the_one_before(bench):
    bench.run(bench.lease())
    job = bench.lease(kind=JobKind.INCREMENTAL)
    ranges = [{"partition": 0, "start": 15_000, "end": 22_000}]  # the first one has learned what is before 20,400
    bench.store.settle(job, ranges=ranges, origin=1)
    bench.store.retry(job, "killed")
    taken = bench.store.lease("test", 60)
    bench.agent.set_champion("demo", bench.run(bench.lease(seed=9))["version"], reason="by hand")

    result = bench.run(taken)

    assert (result["parent"], result["ranges"]) == ("demo/1", ranges)
    assert 500 < result["metrics"]["new_rows"] < 1700


@pytest.mark.parametrize("fails", [False, True])
def test_the_run_of_a_model_holds_its_card_and_no_job_fails_for_want_of_one(bench, monkeypatch, fails):
    if fails:
        monkeypatch.setattr(card, "plots", lambda *_: 1 / 0)
    pipeline = bench.pipeline(model={"kind": "boosting", "params": {"rounds": 2}})
    result = bench.run(bench.lease(pipeline), model_cards=True)

    client, version = bench.agent.client(), bench.agent.version("demo", result["version"])
    kept = {Path(file.path).name for file in client.list_artifacts(version.run_id, "card")}
    assert client.get_run(version.run_id).info.status == "FINISHED"
    if fails:
        assert kept == set()
        return
    assert kept == {"card.md", *(f"card_{what}.png" for what in ("calibration", "cumulative-ic", "cumulative-edge"))}
    text = Path(client.download_artifacts(version.run_id, "card/card.md")).read_text()
    [row] = [line for line in text.splitlines() if line.startswith("| boosting |")]
    assert f"{result['metrics']['holdout_ic']:.3f}" in row
    assert "| ridge |" in text


def test_a_study_that_was_killed_ends_with_the_trials_of_an_undisturbed_one_and_one_run_each(bench, monkeypatch):
    tune = {"trials": 4, "space": {"model.params.num_leaves": "int 2..9", "model.params.learning_rate": "float 0.1..1"}}
    pipeline = bench.pipeline(model={"kind": "boosting", "params": {"rounds": 2}}, tune=tune)
    calm = bench.run(bench.lease(pipeline, kind=JobKind.TUNE), work=Tune)
    job, log = bench.lease(pipeline, kind=JobKind.TUNE), StudyRuns.log

    def killed(runs, trial):
        if trial.number == 2:  # kept already, and half written
            runs._create("trial-2", {PARENT_TAG: runs.run_id, KIND_TAG: "trial", TRIAL_TAG: "2"})
            raise KeyboardInterrupt
        log(runs, trial)

    with monkeypatch.context() as patch:
        patch.setattr(StudyRuns, "log", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(job, work=Tune)
    bench.store.retry(job, "killed")
    result = bench.run(bench.store.lease("test", 60), work=Tune)

    assert {**result, "run_id": ""} == {**calm, "run_id": ""}
    assert result["trials"] == {"complete": 4, "pruned": 0, "failed": 0}
    for run_id in (calm["run_id"], result["run_id"]):
        study = bench.agent.client().get_run(run_id)
        found = f"tags.`{PARENT_TAG}` = '{run_id}'"
        runs = bench.agent.client().search_runs([study.info.experiment_id], found, order_by=["start_time ASC"])
        assert [run.data.tags[TRIAL_TAG] for run in runs] == ["0", "1", "2", "3"]
        assert {run.info.status for run in (study, *runs)} == {"FINISHED"}
        best = runs[result["best"]["trial"]].data
        assert best.params.items() <= study.data.params.items()
        assert best.metrics["lowest_validation_loss"] == result["best"]["validation_loss"]
        assert min(run.data.metrics["lowest_validation_loss"] for run in runs) == result["best"]["validation_loss"]
    assert bench.agent.versions("demo") == []
