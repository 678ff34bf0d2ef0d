"""The place of a job's checkpoint: whole or absent, and nobody's but the newest attempt's."""

import os

import pytest

from model_ops_manager.jobs.checkpoints import JobCheckpoint, job_ids, remove


@pytest.fixture
def attempt(tmp_path):
    return lambda number: JobCheckpoint(tmp_path, "train-1", number)


def test_nothing_was_saved_before_the_first_time(attempt, tmp_path):
    assert attempt(1).load() is None
    assert job_ids(tmp_path) == []


def test_what_was_saved_last_is_loaded_by_this_attempt_and_by_later_ones(attempt):
    attempt(1).save(b"one")
    attempt(1).save(b"two")

    assert [attempt(number).load() for number in (1, 2, 11)] == [b"two"] * 3


def test_an_attempt_that_was_taken_over_overwrites_nothing(attempt):
    attempt(9).save(b"first")
    attempt(10).save(b"ours")

    attempt(9).save(b"zombie")

    assert attempt(10).load() == attempt(11).load() == b"ours"


def test_a_later_save_removes_what_attempts_before_left(attempt, tmp_path):
    for number in (1, 2, 3):
        attempt(number).save(b"x")
    assert [path.name for path in (tmp_path / "jobs" / "train-1").iterdir()] == ["attempt-000003.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_is_cut_short_leaves_the_one_before(attempt, monkeypatch, step):
    attempt(1).save(b"whole")

    def cut(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", cut) if step == "fsync" else monkeypatch.setattr("pathlib.Path.replace", cut)
    attempt(1).save(b"half")
    monkeypatch.undo()

    assert attempt(1).load() == b"whole"


def test_the_bytes_are_on_the_disk_before_their_name_is(attempt, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append("fsync") or sync(number))
    monkeypatch.setattr("pathlib.Path.replace", lambda path, to: done.append("rename") or replace(path, to))

    attempt(1).save(b"x")

    assert done == ["fsync", "rename", "fsync"]


def test_a_job_that_is_over_keeps_nothing(attempt, tmp_path):
    attempt(1).save(b"x")
    assert job_ids(tmp_path) == ["train-1"]

    remove(tmp_path, "train-1")
    remove(tmp_path, "train-1")

    assert job_ids(tmp_path) == []
