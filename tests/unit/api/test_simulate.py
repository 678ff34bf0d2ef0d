"""`tickwise simulate` as a user runs it."""

import json

import pyarrow.parquet as pq
import pytest

from api.cli import main
from data_io.data_fetcher.sources import open_source
from model_ops_manager.prediction_run import of_source

PIPELINE = """
name = "demo"
[features]
use = ["queue_imbalance"]
[label]
horizons = ["500ms"]
[model]
kind = "boosting"
params = { rounds = 10 }
[train]
min_rows = 100
holdout = 0.45
[retrain]
when = ["every 20s"]
cooldown = "1s"
"""


@pytest.fixture
def tickwise(tmp_path, monkeypatch, capsys):
    """Return a function that simulates the pipeline with more words and returns exit code, stdout and stderr."""
    monkeypatch.setenv("TICKWISE_HOME", str(tmp_path / "home"))
    (tmp_path / "demo.toml").write_text(PIPELINE)

    def run(*words):
        code = 0
        try:
            main(["simulate", str(tmp_path / "demo.toml"), *map(str, words)])
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return run


def test_a_simulation_is_told_in_words_and_in_json_and_kept_in_files(tickwise, tmp_path) -> None:
    source, out = str(tmp_path / "ticks.parquet"), tmp_path / "out"
    open_source("synthetic:symbols=2,ticks=4000,rate=80,seed=1,edge=5").fetch().to_parquet(source)

    code, told, noted = tickwise("--history", source, "--training-takes", "2s", "--out", out)

    report = json.loads(told.splitlines()[-1])
    assert code == 0
    assert report == json.loads((out / "simulation.json").read_text())
    assert report["source"] == source
    first = report["versions"][0]
    assert first["promoted"]
    assert f"version 1, promoted: {first['reason']}" in told
    assert "schedule: version 1 takes over" in noted
    predictions = pq.read_table(out / "predictions.parquet")
    assert predictions.num_rows == report["rows"] - report["rows_without_model"] > 0
    # named as `tickwise predict` names those of equal rows
    assert predictions["topic_id"].unique().to_pylist() == [of_source(source).topic_id]

    # a span of it, before the first trigger: only its ticks are read, and nothing scores them
    span = ("--from", "2024-01-02T14:30:10", "--to", "2024-01-02T14:30:20")
    code, told, _ = tickwise("--history", source, *span, "--out", out, "--json")
    part = json.loads(told)
    assert (code, part["versions"]) == (0, [])
    assert 0 < part["ticks"] == part["rows_without_model"] < report["ticks"] / 3
    assert [file.name for file in out.iterdir()] == ["simulation.json"]


def test_what_is_wrong_is_told_and_no_file_begun_is_left(tickwise, tmp_path) -> None:
    code, _, told = tickwise("--history", "synthetic:tikcs=300", "--out", tmp_path / "out")

    assert (code, "did you mean 'ticks'" in told) == (2, True)
    assert list((tmp_path / "out").iterdir()) == []
    assert "none whose time is sure" in tickwise("--history", "synthetic:ticks=3")[2]
    assert tickwise()[0] == 2
    (tmp_path / "bad.csv").write_text("ts_ns,symbol,price,size\n1,A,1,1\n2,,1,1\n")
    assert "  skipped as unusable: 1 x no symbol\n" in tickwise("--history", tmp_path / "bad.csv")[2]
    assert tickwise("--history", "synthetic", "--training-takes", "soon")[0] == 2
    (tmp_path / "demo.toml").write_text('name = "demo"')
    assert "nothing would score" in tickwise("--history", "synthetic")[2]
