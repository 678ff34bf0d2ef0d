from pathlib import Path

import pytest

from ml_core.errors import InvalidSettingsError
from model_ops_manager.jobs.job import new_id
from model_ops_manager.jobs.quotas import Quotas
from model_ops_manager.jobs.settings import RunnerSettings


def test_a_child_reads_the_settings_of_its_runner(monkeypatch, tmp_path):
    given = RunnerSettings.read(
        kafka="127.0.0.1:7",
        home=tmp_path / "home",
        jobs_url="postgresql://u:p@h/d",
        max_parallel=3,
        job_memory_mb=99,
        max_per_kind={"batch": 2},
        prediction_topics=["past.btc", "past.eth"],
        runner_executor="ray",
    )
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)

    read = RunnerSettings.read()

    assert read.archive is None
    assert read.job_store_url == given.job_store_url == "postgresql://u:p@h/d"
    assert (read.kafka, read.home, read.max_parallel, read.job_memory_mb) == ("127.0.0.1:7", tmp_path / "home", 3, 99)
    assert read.tracking_uri == given.tracking_uri
    assert read.prediction_topics == ["past.btc", "past.eth"]
    assert (read.quotas, read.runner_executor) == (Quotas(0, {"batch": 2}), "ray")


def test_a_relative_home_is_the_same_folder_for_a_child(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    environment = RunnerSettings.read(home=Path("here"), archive=Path("kept"), history=Path("old")).environment()
    assert environment["TICKWISE_HISTORY"] == str(tmp_path / "old")
    assert "TICKWISE_PREDICTIONS" not in environment
    assert environment["TICKWISE_ARCHIVE"] == str(tmp_path / "kept")
    assert environment["TICKWISE_HOME"] == str(tmp_path / "here")
    assert environment["TICKWISE_MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path / 'here' / 'mlflow.db'}"


@pytest.mark.parametrize("name", ["max_parallel", "lease_s", "runner_poll_s", "job_timeout_s", "job_threads"])
def test_limits_are_checked(name):
    with pytest.raises(InvalidSettingsError, match=name.upper()):
        RunnerSettings.read(**{name: 0})


@pytest.mark.parametrize("name", ["TICKWISE_PREDICTION_TOPICS", "TICKWISE_MAX_PER_KIND"])
def test_a_list_that_is_no_json_is_refused_by_name_without_being_told(monkeypatch, name):
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(InvalidSettingsError, match=f"^{name}: the value is no JSON") as told:
        RunnerSettings.read()
    assert "hunter2" not in str(told.value)


def test_ids_sort_as_jobs_were_made():
    times = [0, 1, 10**6 - 1, 10**6, 1_700_000_000_000_000_000, 1_700_000_000_000_000_001, 2**62]
    ids = [new_id(now_ns) for now_ns in times]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {32}
