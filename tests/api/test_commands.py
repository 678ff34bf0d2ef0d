"""The commands jobs, models and pipelines, run as a user runs them; they need no server."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from api.cli import main
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.scaling_kernel import scale_rows
from ml_core.spec import find, format_duration, load_all
from ml_core.types import JobState
from model_ops_manager.champion import load_serving, must_fit
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import MlflowAgent
from tests.api.model_lab import make_model


@pytest.fixture
def settings(make_settings, monkeypatch):
    settings = make_settings()
    monkeypatch.setenv("TICKWISE_HOME", str(settings.home))
    monkeypatch.setenv("TICKWISE_PIPELINES", str(settings.pipelines))
    return settings


@pytest.fixture
def tickwise(capsys):
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def run(*words):
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def test_a_job_is_submitted_listed_shown_and_cancelled(settings, tickwise):
    _, out, _ = tickwise("jobs", "submit", "--pipeline", "demo", "--seed", 3, "--priority", -2, "--json")
    job = json.loads(out)
    _, listed, _ = tickwise("jobs", "list", "--json")
    _, table, _ = tickwise("jobs", "list", "--state", "queued")
    _, shown, _ = tickwise("jobs", "show", job["id"])
    code, cancelled, _ = tickwise("jobs", "cancel", job["id"], "--json")

    assert (job["state"], job["trigger"], job["seed"], job["priority"]) == ("queued", "cli", 3, -2)
    assert json.loads(listed) == [job]
    assert job["id"] in table
    assert "pipeline" in table.splitlines()[0]
    assert f"id           {job['id']}" in shown
    assert (code, json.loads(cancelled)["state"]) == (0, "cancelled")
    assert tickwise("jobs", "list", "--state", "queued")[1] == "no jobs\n"


def test_a_study_is_submitted_as_a_job(settings, tickwise, tmp_path):
    file = tmp_path / "demo.toml"
    file.write_text('name = "demo"\n[tune.space]\n"train.batch_size" = "int 16..64"\n')
    _, out, _ = tickwise("tune", file, "--seed", 3, "--job", "--json")
    code, _, told = tickwise("tune", file, "--job", "--history", "synthetic:")
    file.write_text('name = "demo"')
    empty, _, why = tickwise("tune", file, "--job")

    job = json.loads(out)
    assert (job["kind"], job["seed"], job["trigger"], job["state"]) == ("tune", 3, "cli", "queued")
    assert (code, "a job takes ticks of the topic" in told) == (2, True)
    assert (empty, "tune.space is empty" in why) == (2, True)


def test_a_prediction_is_submitted_as_a_job(settings, tickwise):
    words = ("predict", "demo", "--out", "past.parquet", "--job", "--json")
    _, by_time, _ = tickwise(*words, "--from", "2026-11-29T10:00", "--version", 2)
    _, by_offset, _ = tickwise(*words, "--range", "0:100-199")
    code, _, told = tickwise("predict", "demo", "--out", "folder/past.parquet", "--job")
    wrong, _, why = tickwise("jobs", "submit", "--pipeline", "demo", "--kind", "predict")

    asked = json.loads(by_time)
    assert (asked["kind"], asked["trigger"], asked["ranges"], asked["state"]) == ("predict", "cli", None, "queued")
    assert asked["predict"] == {
        "to": "past.parquet", "source": None, "since": "2026-11-29T10:00:00Z", "until": None, "version": 2
    }  # fmt: skip
    assert json.loads(by_offset)["ranges"] == [{"partition": 0, "start": 100, "end": 200}]
    assert (code, told.startswith("tickwise: predict.to: ")) == (2, True)
    assert (wrong, "tickwise predict PIPELINE --out OUT --job" in why) == (2, True)


@pytest.mark.parametrize(("state", "expected"), [(JobState.SUCCEEDED, 0), (JobState.FAILED, 4)])
def test_waiting_ends_with_the_job_and_its_success(settings, tickwise, state, expected):
    store = JobStore(settings.job_store_url)

    def run_the_job():
        while (job := store.lease("runner", 30)) is None:
            time.sleep(0.02)
        store.progress(job, epoch=1)
        store.finish(job, state, result={"version": 1}, error="no ticks" if expected else None)

    runner = threading.Thread(target=run_the_job, name="runner of this test")
    runner.start()
    code, out, told = tickwise("jobs", "submit", "--pipeline", "demo", "--wait", "--timeout", 20, "--json")
    runner.join(10)
    store.close()

    assert code == expected
    assert json.loads(out)["state"] == str(state)
    assert "queued" in told or "running" in told


def test_waiting_without_a_runner_ends_in_time_and_says_what_is_missing(settings, tickwise):
    code, _, told = tickwise("jobs", "submit", "--pipeline", "demo", "--wait", "--timeout", 0.2)

    assert code == 3
    assert "still queued after 0.2 s and goes on; is a runner up (tickwise runner)?" in told


def test_unknown_names_are_told_with_the_nearest_one(settings, tickwise):
    code, _, told = tickwise("jobs", "submit", "--pipeline", "dmeo")
    assert (code, told) == (2, "tickwise: no pipeline 'dmeo'; did you mean 'demo'?\n")

    code, out, _ = tickwise("jobs", "show", "train-nothing", "--json")
    assert (code, json.loads(out)["error"]) == (2, "JobNotFoundError")


def test_models_are_listed_shown_and_promoted(settings, tickwise):
    _, listed, _ = tickwise("models", "list", "--json")
    _, table, _ = tickwise("models", "list", "demo")
    code, told, _ = tickwise("models", "promote", "demo", 2, "--reason", "a better night's sleep")
    _, shown, _ = tickwise("models", "show", "demo", 2, "--json")
    missing, _, why = tickwise("models", "promote", "demo", 9)

    found = {(row["pipeline"], row["version"]): row["champion"] for row in json.loads(listed)}
    assert found == {("demo", 2): False, ("demo", 1): True, ("windows", 1): True}
    assert "0.9 (prior 1)" in table
    assert (code, told) == (0, "version 2 of demo is champion\n")
    assert json.loads(shown)["champion"] is True
    assert json.loads(shown)["decision"]["reason"] == "a better night's sleep"
    assert missing == 2
    assert "no version 9 of demo" in why


@pytest.mark.parametrize("alias", ["challenger", "champion"])
def test_a_model_trained_elsewhere_is_registered_and_serves_where_asked_to(settings, tickwise, tmp_path, alias):
    leaf = {"split_indices": [0], "split_conditions": [0.25], "left_children": [-1], "right_children": [-1]}
    trees = [{**leaf, "default_left": [0], "tree_param": {}}]
    learner = {
        "gradient_booster": {"name": "gbtree", "model": {"trees": trees, "tree_info": [2]}},
        "learner_model_param": {"base_score": "5E-1", "num_class": "3", "num_feature": "1"},
        "objective": {"name": "multi:softprob"},
    }
    (tmp_path / "model.json").write_text(json.dumps({"learner": learner}))
    spec = find(load_all(settings.pipelines), "demo")
    (tmp_path / "signature.toml").write_text(
        f"""
        features = [{FeaturePlan.from_spec(spec).names[0]!r}]
        label = "direction"
        horizons = ["{format_duration(spec.label.horizons[0])}"]
        outputs = "probabilities"
        dead_zone = [1e-5]
        inputs = "raw"
        missing = "nan"
        trained_to = 2026-11-01T00:00:00Z
        """
    )
    words = ["--pipeline", settings.pipelines / "demo.toml", "--signature", tmp_path / "signature.toml", "--json"]

    code, out, _ = tickwise("models", "import", tmp_path / "model.json", *words, "--alias", alias)

    told, agent = json.loads(out), MlflowAgent(settings.tracking_uri, settings.home)
    assert (code, told["version"], told["alias"]) == (0, 3, alias)
    assert agent.champion("demo").version == (3 if alias == "champion" else 1)
    assert agent.client().get_model_version("demo", "3").aliases == [alias]
    plan = FeaturePlan.from_spec(spec)
    serving = load_serving(agent, "demo", 3, must_fit(plan.hash, spec.features.window), scale_rows)
    logits_3 = [0.5, 0.5, 0.75]
    x_BTF = np.zeros((1, 1, len(plan.names)), np.float32)
    np.testing.assert_allclose(serving.scorer.outputs(x_BTF), [logits_3], rtol=1e-6)
    assert serving.scorer.contract.trained_to_ns == 1793491200 * 10**9
    code, _, why = tickwise("reproduce", "models:/demo/3")
    assert (code, "version 3 of demo was trained elsewhere" in why) == (2, True)


def test_a_good_pipeline_file_is_fine(settings, tickwise):
    code, out, _ = tickwise("pipelines", "check", settings.pipelines)

    assert code == 0
    assert "demo: 2 features, window 1, mlp: fine" in out
    assert "note:" not in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\n[features]\nwindw = 3', "features.windw: unknown name; did you mean 'window'?"),
        ('name = "x"\n[features]\nuse = ["retrun:1s"]', "did you mean 'return'"),
        ('name = "x"\n[model]\nkind = "mpl"', "did you mean 'mlp'"),
        ('name = "x"\n[model]\nparams = { hiden = 3 }', "hiden"),
        ('name = "x"\n[features]\nuse = ["no_such_module:Gap"]', "no_such_module"),
        ("name = ", "is not valid TOML"),
    ],
)
def test_a_typo_in_a_pipeline_file_is_told_with_the_nearest_name(tickwise, tmp_path, text, words):
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('name = "good"')
    bad.write_text(text)

    code, out, told = tickwise("pipelines", "check", bad, good)
    _, as_json, _ = tickwise("pipelines", "check", bad, good, "--json")

    assert code == 2
    assert words in told
    assert "good:" in out
    assert [("error" in report) for report in json.loads(as_json)] == [True, False]


def test_every_file_of_a_folder_is_told_with_what_is_wrong_with_it(tickwise, tmp_path):
    for name, text in {
        "a": 'name = "a"\n[model]\nkind = "mpl"',
        "b": 'name = "b"',
        "c": 'name = "c"\n[retrian]',
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)

    code, out, told = tickwise("pipelines", "check", tmp_path)

    assert code == 2
    assert "b: " in out
    assert f"{tmp_path / 'a.toml'}: model.kind: 'mpl' is not known; did you mean 'mlp'?" in told
    assert "did you mean 'retrain'?" in told


def test_a_missing_file_an_empty_folder_and_a_doubled_name_are_told(tickwise, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    empty = tickwise("pipelines", "check", folder)
    for name in ("a", "b"):
        (folder / f"{name}.toml").write_text('name = "same"')
    doubled, missing = tickwise("pipelines", "check", folder), tickwise("pipelines", "check", tmp_path / "none.toml")

    assert (empty[0], doubled[0], missing[0]) == (2, 2, 2)
    assert "no pipeline file" in empty[2]
    assert "are both named 'same'" in doubled[2]
    assert "cannot read the pipeline file" in missing[2]


def test_pipelines_are_shown_with_their_defaults(settings, tickwise):
    _, out, _ = tickwise("pipelines", "show", "windows", "--json")
    _, text, _ = tickwise("pipelines", "show")

    assert json.loads(out)[0]["spec"]["train"]["batch_size"] == 1024
    assert text.count("feature_set") == 3


def test_the_archive_is_shown_also_while_kafka_is_away(settings, tickwise, monkeypatch, tmp_path):
    monkeypatch.setenv("TICKWISE_KAFKA", settings.kafka)
    assert tickwise("archive", "status", "--archive", tmp_path / "none")[:2] == (0, "nothing is archived\n")
    folder = tmp_path / "kept" / "ticks" / "an-id" / "0"
    folder.mkdir(parents=True)
    for start, end in ((0, 10), (10, 25), (30, 40)):
        (folder / f"{start:020}-{end - 1:020}.parquet").write_bytes(b"12345")
    (folder / ".00000000000000000040.tmp").touch()

    _, out, told = tickwise("archive", "status", "--archive", tmp_path / "kept", "--json")
    _, table, _ = tickwise("archive", "status", "--archive", tmp_path / "kept")

    assert json.loads(out) == [
        {"topic": "ticks", "topic_id": "an-id", "partition": 0, "start": 0, "end": 40, "files": 3, "bytes": 15}
        | {"holes": [[25, 30]], "lag": None}
    ]
    assert "lag is not known: Kafka at 127.0.0.1:1" in told
    assert " 25-29 " in table


def test_an_archive_without_a_folder_says_which_setting_is_missing(settings, tickwise):
    code, _, told = tickwise("archive", "status")
    assert (code, "TICKWISE_ARCHIVE is not set" in told) == (2, True)


def test_look_ahead_compares_scores_of_the_champion_or_of_a_folder_and_says_where_there_is_no_model(
    settings, tickwise, tmp_path
):
    few = ("--source", "synthetic:symbols=2,ticks=2000,rate=50", "--cuts", 3)
    model = make_model(find(load_all(settings.pipelines), "untrained"))
    replace(model, contract=model.scorer().contract).save(tmp_path / "model")

    code, out, _ = tickwise("verify", "look-ahead", "windows", *few, "--json")
    _, of_folder, _ = tickwise("verify", "look-ahead", "untrained", *few, "--model", tmp_path / "model", "--json")
    _, without, _ = tickwise("verify", "look-ahead", "untrained", *few)
    misfit, _, told = tickwise("verify", "look-ahead", "windows", *few, "--model", tmp_path / "model")

    assert (code, json.loads(out)["leaks"]) == (0, [])
    assert json.loads(out)["scored"] > 100
    assert json.loads(of_folder)["scored"] > 100
    assert "no predictions (there is no champion)" in without
    assert (misfit, "schema: trained on features" in told) == (2, True)


def test_look_ahead_over_ticks_of_other_symbols_proves_nothing_and_fails(settings, tickwise, tmp_path, monkeypatch):
    (tmp_path / "one.toml").write_text('name = "one"\n[source]\nsymbols = ["BTCUSDT"]')
    monkeypatch.setenv("TICKWISE_PIPELINES", str(tmp_path / "one.toml"))

    code, _, told = tickwise("verify", "look-ahead", "one")

    assert (code, "nothing was compared: of 20000 ticks 0 make a row" in told) == (2, True)
