"""A study is a function of its pipeline and of its finished trials."""

import math
from typing import Any

import pytest

from ml_core import spec as pipelines
from ml_core.errors import InputError, SpecError, TrainingCancelledError
from ml_core.fit import Progress
from ml_core.spec import PipelineSpec
from model_ops_manager.search_space import STARTUP_TRIALS, Trial, applied, best, check_space, search

SPACE = {
    "train.learning_rate": "float 1e-4..1e-1 log",
    "model.params.dropout": "float 0..0.5",
    "train.batch_size": "int 16..256 log",
    "model.params.hidden": "choice [8] | [16, 8]",
}


def pipeline(**tune: Any) -> PipelineSpec:
    return pipelines.parse({"name": "demo", "tune": {"space": SPACE, "trials": 14, **tune}})


def loss_of(spec: PipelineSpec) -> float:
    dropout, wide = float(spec.model.params["dropout"]), spec.model.params["hidden"] == [16, 8]
    return 0.5 + (math.log10(spec.train.learning_rate) + 2) ** 2 + dropout + (0.1 if wide else 0.0)


def pretend(spec: PipelineSpec, note, ended) -> None:
    """Stand for a training of six epochs that comes nearer to what the values allow."""
    for epoch in range(7):
        if ended():
            raise TrainingCancelledError
        note(Progress(epoch, 6, 0.0, loss_of(spec) + 2.0**-epoch, 0))


def test_a_study_finds_better_values_than_its_first_trials():
    trials = search(pipeline(trials=30, prune=False), pretend)
    assert [trial.number for trial in trials] == list(range(30))
    assert {trial.state for trial in trials} == {"complete"}
    assert best(trials).number >= STARTUP_TRIALS
    assert 1e-4 <= best(trials).values["train.learning_rate"] <= 1e-1
    assert all(len(trial.losses) == 7 and 16 <= trial.values["train.batch_size"] <= 256 for trial in trials)


def test_a_study_that_was_interrupted_ends_with_the_same_trials():
    undisturbed = search(pipeline(), pretend)
    heard: list[Trial] = []
    asked = 0

    def killed() -> bool:
        nonlocal asked
        asked += 1
        return asked in (30, 75)

    for _ in range(2):
        with pytest.raises(TrainingCancelledError):
            search(pipeline(), pretend, finished=list(heard), told=heard.append, cancelled=killed)
    assert 0 < len(heard) < 14
    assert search(pipeline(), pretend, finished=heard) == undisturbed
    assert search(pipeline(seed=1), pretend) != undisturbed


def test_a_hopeless_trial_is_pruned():
    trials = search(pipeline(trials=25), pretend)
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned
    assert all(3 <= len(trial.losses) < 7 and trial.number >= STARTUP_TRIALS for trial in pruned)
    assert best(trials).state == "complete"


def test_a_trial_that_cannot_learn_is_failed_and_the_study_goes_on():
    def fit_once(spec: PipelineSpec, note, ended) -> None:
        if spec.train.learning_rate > 1e-2:
            raise InputError("loss nan")
        pretend(spec, note, ended)

    trials = search(pipeline(), fit_once)
    failed = [trial for trial in trials if trial.state == "failed"]
    assert 0 < len(failed) < len(trials) == 14
    assert {trial.error for trial in failed} == {"loss nan"}
    assert best(trials).values["train.learning_rate"] <= 1e-2
    with pytest.raises(InputError, match="no trial was completed: loss nan"):
        best(failed)


def test_values_take_their_place_in_the_pipeline():
    changed = applied(pipeline(), {"model.params.hidden": [9], "train.optimizer": "sgd", "model.kind": "lstm"})
    assert (changed.model.params, changed.train.optimizer, changed.model.kind) == ({"hidden": [9]}, "sgd", "lstm")
    assert applied(pipeline(), {}) == pipeline()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.learning_rat": "float 0.1..0.2"}, r"cannot be searched; did you mean 'train.learning_rate'\?"),
        ({"train.holdout": "float 0.1..0.2"}, "'train.holdout' cannot be searched"),
        ({"train.epochs": "in 1..2"}, "did you mean 'int'"),
        ({"train.epochs": "int 1-2"}, "is not a range such as"),
        ({"train.epochs": "int 5..2"}, "the first end must lie below"),
        ({"train.weight_decay": "float 0..0.1 log"}, "and above 0"),
        ({"train.optimizer": "choice adamw"}, "two or more"),
    ],
)
def test_a_space_that_is_wrong_is_refused_when_the_file_is_loaded(space, message):
    with pytest.raises(SpecError, match=message):
        pipelines.parse({"name": "demo", "tune": {"space": space}})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "tune.space is empty"),
        ({"train.epochs": "int 0..5"}, "train.epochs = 0"),
        ({"train.optimizer": "choice adam | sgd"}, "did you mean 'adamw'"),
        ({"model.params.hiden": "int 1..2"}, "did you mean 'hidden'"),
    ],
)
def test_ends_of_ranges_that_the_pipeline_does_not_take_are_refused_before_a_study(space, message):
    with pytest.raises(SpecError, match=message):
        check_space(pipelines.parse({"name": "demo", "tune": {"space": space}}))
