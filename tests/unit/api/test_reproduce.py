"""The command reproduce, with a model store and a training that are played."""

import json
from types import SimpleNamespace

import pytest

from api.cli import main
from api.cli import reproduce as command
from ml_core.spec import parse
from model_ops_manager.mlflow_agent import ModelVersion
from model_ops_manager.recipe import Recipe
from model_ops_manager.reproduction import Reproduction

NEW, OTHER, OLD = "2:" + 64 * "a", "2:" + 64 * "b", 64 * "c"


@pytest.fixture
def reproduce(monkeypatch, tmp_path, capsys):
    """Return a function that runs the command on a version of a recorded hash; exit code, stdout and threads."""
    monkeypatch.setenv("TICKWISE_HOME", str(tmp_path))
    monkeypatch.setenv("TICKWISE_PIPELINES", str(tmp_path))
    monkeypatch.setenv("TICKWISE_JOB_THREADS", "2")
    monkeypatch.setattr(command, "MlflowAgent", lambda *_: SimpleNamespace(version=lambda *_: None))

    def run(recorded, *words, threads=None):
        asked = {}
        recipe = Recipe.of(parse({"name": "demo"}), threads=threads)
        version = ModelVersion("demo", 1, "run", "place")

        def train_again(*_, **how):
            asked.update(how)
            return Reproduction(version, 10, recorded, NEW, [], same_weights=True)

        monkeypatch.setattr(command, "load", lambda *_: (None, recipe))
        monkeypatch.setattr(command, "train_again", train_again)
        with pytest.raises(SystemExit) as stop:
            main(["reproduce", "demo/1", *words])
        return stop.value.code or 0, capsys.readouterr().out, asked["threads"]

    return run


def test_it_trains_with_the_recorded_threads_and_where_none_are_recorded_with_the_settings(reproduce) -> None:
    assert reproduce(NEW, threads=3)[2] == 3
    assert reproduce(NEW)[2] == 2


@pytest.mark.parametrize(
    ("recorded", "code", "words"),
    [(NEW, 0, "data: the same"), (OTHER, 5, "data: OTHER"), (OLD, 0, "of an older form"), (None, 0, "not recorded")],
)
def test_data_are_called_other_only_where_the_hashes_compare(reproduce, recorded, code, words) -> None:
    found, told, _ = reproduce(recorded)
    assert (found, words in told) == (code, True)
    same = json.loads(reproduce(recorded, "--json")[1])["same_data"]
    assert same == {NEW: True, OTHER: False}.get(recorded)
