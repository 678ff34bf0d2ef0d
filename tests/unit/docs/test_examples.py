import json
import re
from pathlib import Path

import pytest

from api import cli
from data_io.data_fetcher.sources import open_source
from ml_core.data_processor.bars import BarPlan, BarState, step
from ml_core.model.fitted import FittedModel
from ml_core.spec import load
from ml_core.types import SymbolTable

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "docs" / "examples"


def test_the_own_model_trains_from_the_command_line_and_beats_the_prior(tmp_path, capsys):
    out = tmp_path / "model"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--pipeline", str(EXAMPLES / "own-model.toml"), "--out", str(out), "--json"])
    assert stopped.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["folder"] == str(out)
    assert answer["metrics"]["holdout_log_loss"] < answer["metrics"]["prior_log_loss"]
    ends = answer["intervals"]["holdout_ic"]
    assert ends["low"] < answer["metrics"]["holdout_ic"] < ends["high"]
    contract = FittedModel.load(out).contract
    assert (contract.model_kind, contract.window, contract.metrics) == ("my_models:TinyConv", 16, answer["metrics"])


def test_the_notebook_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102  # the point of the test
    assert names["scores"].shape == (5, 1)
    assert (tmp_path / "models" / "own-model" / "model.onnx").is_file()
    assert "against" in capsys.readouterr().out


def test_the_example_of_bars_makes_bars_of_every_kind():
    pipeline = load(EXAMPLES / "bars.toml")
    state, kinds = BarState(BarPlan.from_spec(pipeline), SymbolTable()), set()
    for batch in open_source(pipeline.source.history).stream():
        for symbol in batch.symbols:
            state.symbols.add(symbol)
        made = step(batch, state)
        kinds |= {made.kinds[kind] for kind in made.kind_B.tolist()}
    assert kinds == set(pipeline.bars.by)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--pipeline", "nowhere.toml"], 2, "cannot read the pipeline file"),
        (["--pipeline", str(EXAMPLES / "own-model.toml"), "--history", "nowhere.csv"], 2, "nowhere.csv"),
        (["--pipeline", str(EXAMPLES / "own-model.toml"), "--start", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_is_missing_is_named_with_an_exit_code(tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *words])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
