"""The command predict, run as a user runs it."""

import pytest

from api.cli import main


def test_predictions_are_written_to_parquet_under_no_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", "demo", "--out", "predictions.csv"])
    assert stop.value.code == 2
    assert "'predictions.csv' is no target" in capsys.readouterr().err
