"""The command predict, run as a user runs it."""

from dataclasses import replace

import pytest

from api.cli import main
from ml_core.spec import load
from tests.api.model_lab import make_model


def test_predictions_are_written_to_parquet_under_no_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "demo", "--out", "predictions.csv"])
    assert stop.value.code == 2
    assert "'predictions.csv' is no target" in capsys.readouterr().err


def test_a_folder_of_a_model_made_for_something_else_is_refused(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "p.toml"
    file.write_text('name = "demo"')
    model = make_model(load(file))
    replace(model, contract=model.scorer().contract).save(tmp_path / "model")
    monkeypatch.setenv("TICKWISE_PIPELINES", str(file))
    words = ("--out", str(tmp_path / "out.parquet"), "--model", str(tmp_path / "model"), "--source", "nowhere.csv")

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
