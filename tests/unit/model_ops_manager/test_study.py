"""A study is judged by validation rows, and one that was interrupted ends as it would have."""

import json
import tomllib

import numpy as np
import pytest

from api import cli
from data_io.data_fetcher.sources import open_source
from ml_core.fit import fit, prepare, try_out
from ml_core.spec import load, parse
from model_ops_manager import study
from model_ops_manager.search_space import applied
from model_ops_manager.study import StudyFile

SOURCE = "synthetic:symbols=2,ticks=4000,rate=50,seed=3,edge=3"
FILE = """
name = "demo"
features = { use = ["queue_imbalance"] }
label = { horizons = ["1s"] }
model = { kind = "boosting", params = { rounds = 3 } }
train = { min_rows = 100 }
[tune]
trials = 5
[tune.space]
"model.params.num_leaves" = "int 2..9"
"model.params.learning_rate" = "float 0.1..1"
"model.params.max_bin" = "choice 15 | 255"
"""
SPEC = parse(tomllib.loads(FILE))
OWN = """
import torch

class Loss:
    def __init__(self, model):
        self.model = model

    def loss(self, batch):
        return {} * torch.nn.functional.cross_entropy(self.model(batch.x_BTF), batch.y_BH[:, 0], reduction="none")
"""


@pytest.fixture(scope="module")
def ticks():
    return open_source(SOURCE).fetch()


@pytest.fixture(scope="module")
def processed(ticks):
    return prepare(ticks, SPEC)


@pytest.fixture(scope="module")
def undisturbed(processed, tmp_path_factory):
    return study.run(SPEC, processed, StudyFile(tmp_path_factory.mktemp("study") / "trials.json"))


def test_a_trial_has_the_losses_of_the_training_of_its_values(ticks, undisturbed) -> None:
    trial = undisturbed[3]
    losses = [epoch["validation_loss"] for epoch in fit(ticks, applied(SPEC, trial.values)).model.report["epochs"]]

    assert trial.losses == losses
    assert len(losses) == 4


def test_a_network_is_tried_out_as_it_is_trained(processed) -> None:
    spec, told = parse({**tomllib.loads(FILE), "model": {"kind": "mlp"}, "train": {"epochs": 2, "min_rows": 100}}), []

    report = try_out(processed, spec, progress=told.append)

    assert report.history == told
    assert [each.epoch for each in told] == [0, 1, 2]
    assert told == try_out(processed, spec).history
    assert told != try_out(processed, spec, seed=1).history


def test_hold_out_rows_decide_nothing(processed, undisturbed, tmp_path) -> None:
    dataset = processed.dataset
    y_NH, x_MF = dataset.y_NH.copy(), dataset.x_MF.copy()
    y_NH[processed.holdout_I] = 2 - y_NH[processed.holdout_I]
    seen_M = np.zeros(len(x_MF), bool)
    seen_M[dataset.idx_NT[np.concatenate([processed.train_I, processed.validation_I])]] = True
    x_MF[~seen_M] = 0
    other = processed._replace(dataset=dataset._replace(y_NH=y_NH, x_MF=x_MF))

    assert study.run(SPEC, other, StudyFile(tmp_path / "trials.json")) == undisturbed


@pytest.mark.parametrize("number", [0, 2])
def test_a_study_that_was_killed_goes_on_where_it_was(processed, undisturbed, tmp_path, monkeypatch, number) -> None:
    store, tried, told = StudyFile(tmp_path / "study" / "trials.json"), [], []

    def killed(trial, _progress):
        if trial == number + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(SPEC, processed, store, progress=killed)
    monkeypatch.setattr(study, "try_out", lambda *args, **how: tried.append(args) or try_out(*args, **how))

    assert study.run(SPEC, processed, store, told=told.append) == undisturbed == told
    assert len(tried) == len(undisturbed) - number - 1


def test_a_study_of_more_trials_goes_on_from_a_shorter_one(processed, undisturbed, tmp_path, monkeypatch) -> None:
    store, tried = StudyFile(tmp_path / "trials.json"), []
    shorter = SPEC.model_copy(update={"tune": SPEC.tune.model_copy(update={"trials": 2})})
    monkeypatch.setattr(study, "try_out", lambda *args, **how: tried.append(args) or try_out(*args, **how))

    assert study.run(shorter, processed, store) == undisturbed[:2]
    assert study.run(SPEC, processed, store) == undisturbed
    assert len(tried) == len(undisturbed)
    assert study.run(shorter, processed, store) == undisturbed[:2]


@pytest.mark.parametrize("damage", ["", "{}", '{"format": 1, "study": "of others", "trials": [%s]}'])
def test_trials_of_another_study_are_passed_over(processed, undisturbed, tmp_path, damage) -> None:
    store, better = StudyFile(tmp_path / "trials.json"), undisturbed[0]._replace(losses=[0.0])
    store.save((damage % json.dumps(better._asdict()) if "%s" in damage else damage).encode())

    assert study.run(SPEC, processed, store) == undisturbed


def test_a_trial_by_an_own_part_that_was_changed_since_is_run_again(processed, tmp_path) -> None:
    data = {**tomllib.loads(FILE), "model": {"kind": "mlp"}}
    data["train"] = {"epochs": 1, "min_rows": 100, "loss": "own:Loss"}
    data["tune"] = {"trials": 1, "space": {"train.learning_rate": "float 0.01..0.1"}}
    spec, store, losses = parse(data, folder=tmp_path), StudyFile(tmp_path / "trials.json"), []
    for factor in (1, 1, 2):
        (tmp_path / "own.py").write_text(OWN.format(factor))
        losses.append(study.run(spec, processed, store)[0].losses)

    assert losses[0] == losses[1]
    assert losses[2][0] == pytest.approx(2 * losses[0][0])


def test_the_command_tells_what_the_source_could_not_use(tmp_path, capsys) -> None:
    (tmp_path / "demo.toml").write_text(FILE)
    (tmp_path / "bad.csv").write_text("ts_ns,symbol,price,size\n1,A,1,1\n2,,1,1\n")
    with pytest.raises(SystemExit):
        cli.main(["tune", str(tmp_path / "demo.toml"), "--history", str(tmp_path / "bad.csv")])

    assert "  skipped as unusable: 1 x no symbol\n" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train", "--pipeline"], ["tune"]])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_learned(tmp_path, capsys, words) -> None:
    file = tmp_path / "demo.toml"
    file.write_text(FILE)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, str(file), "--history", "synthetic:ticks=9", "--out", str(file)])

    assert stopped.value.code == 2
    assert f"cannot write to {file}: File exists" in capsys.readouterr().err


def test_the_command_prints_the_best_sections_and_they_are_some(undisturbed, tmp_path, capsys) -> None:
    (tmp_path / "demo.toml").write_text(FILE)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", str(tmp_path / "demo.toml"), "--history", SOURCE, "--out", str(out), "--json"])
    answer = json.loads(capsys.readouterr().out)

    assert stopped.value.code == 0
    assert [each["losses"] for each in answer["trials"]] == [trial.losses for trial in undisturbed]
    least = min(undisturbed, key=lambda trial: trial.loss)
    assert answer["best"] == {"trial": least.number, "validation_loss": least.loss, "values": least.values}
    best = tomllib.loads((out / "best.toml").read_text())
    assert best == {"model": {"params": {name.rpartition(".")[2]: value for name, value in least.values.items()}}}
    assert load(tmp_path / "demo.toml").name == "demo"
