"""The command predict, run as a user runs it."""

from dataclasses import replace

import pytest

from api.cli import main
from data_io.data_fetcher.sources import open_source
from ml_core.spec import load, parse
from tests.api.model_lab import make_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a model of the pipeline demo."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model(parse({"name": "demo"}))
    replace(model, contract=model.scorer().contract).save(folder)
    return folder


def test_predictions_are_written_to_parquet_under_no_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "demo", "--out", "predictions.csv"])
    assert stop.value.code == 2
    assert "'predictions.csv' is no target" in capsys.readouterr().err


def test_ticks_are_not_replaced_by_their_predictions(made, tmp_path, monkeypatch, capsys) -> None:
    file, ticks = tmp_path / "p.toml", tmp_path / "lake" / "ticks.parquet"
    file.write_text('name = "demo"')
    ticks.parent.mkdir()
    open_source("synthetic:ticks=50").fetch().to_parquet(ticks)
    before = ticks.read_bytes()
    monkeypatch.setenv("TICKWISE_PIPELINES", str(file))
    for source in (ticks, ticks.parent):
        with pytest.raises(SystemExit) as stop:
            main(["predict", "demo", "--source", str(source), "--out", str(ticks), "--model", str(made)])
        assert stop.value.code == 2
        assert "which would be lost" in capsys.readouterr().err
        assert ticks.read_bytes() == before


def test_a_folder_of_a_model_made_for_something_else_is_refused(made, tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "p.toml"
    file.write_text('name = "demo"')
    monkeypatch.setenv("TICKWISE_PIPELINES", str(file))
    words = ("--out", str(tmp_path / "out.parquet"), "--model", str(made), "--source", "nowhere.csv")

    for text, told in (
        ('name = "other"', "pipeline 'demo', not 'other'"),
        ('name = "demo"\n[label]\nhorizons = ["20s"]', "horizons ['10s'], not ['20s']"),
        ('name = "demo"\n[label]\nkind = "return"', "label 'direction', not 'return'"),
        ('name = "demo"', "nowhere.csv"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit) as stop:
            main(["predict", load(file).name, *words])
        assert stop.value.code == 2
        assert told in capsys.readouterr().err
