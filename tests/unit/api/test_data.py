"""The command data, run as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from api.cli import main

SYNTHETIC = "synthetic:symbols=2,ticks=300"
LEAN = Path(__file__).parents[2] / "data" / "lean"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Return a function that runs `tickwise data` in an empty folder and returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["data", *words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_a_data_set_is_imported_listed_shown_and_exported(data: Run, tmp_path: Path) -> None:
    _, imported, _ = data("import", SYNTHETIC, "--name", "syn")
    _, listed, _ = data("list", "--json")
    _, table, _ = data("list")
    _, shown, _ = data("show", "syn@1", "--json")
    _, exported, _ = data("export", "syn@1", "--out", "out/lake/")
    _, again, _ = data("import", "out/lake", "--name", "syn")

    manifest = json.loads(shown)
    assert imported == f"syn@1: 300 rows (quotes and trades) of 2 symbols, hash {manifest['content_hash'][:16]}\n"
    assert json.loads(listed)[0]["data set"] == "syn@1"
    assert "syn@1" in table
    assert (manifest["rows"], manifest["source"], manifest["transform"]) == (300, SYNTHETIC, None)
    assert exported == "syn@1: 300 rows written to out/lake/\n"
    assert again == "syn@1 holds the same 300 rows already\n"
    assert (tmp_path / ".tickwise" / "datasets" / "syn" / "1" / "manifest.json").is_file()


def test_what_a_source_leaves_out_is_told_and_kept(data: Run) -> None:
    _, _, told = data("import", str(LEAN), "--name", "lean")
    _, shown, _ = data("show", "lean", "--json")
    left_out = json.loads(shown)["left_out"]
    assert left_out["suspicious"] > 0
    assert f"left out: {left_out['suspicious']} x suspicious" in told


def test_the_first_places_that_cannot_be_used_are_told(data: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ts_ns,symbol,price,size\n1,A,1,1\n2,A,-1,1\n3,,1,1\n")
    _, imported, told = data("import", "a.csv", "--name", "a")
    assert "a@1: 1 rows" in imported
    assert "  skipped as unusable: 1 x no symbol\n" in told
    assert "  a.csv, row 2: price is not positive and finite\n  a.csv, row 3: no symbol\n" in told


def test_times_of_a_unit_that_nobody_named_are_told_from_times(data: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,s,p,q\n1764460800000,A,1.5,2\n1764460800001,A,1.5,2\n")
    columns = "symbol=s,price=p,size=q,ts=t"

    assert "2 times lie in 1970: is the unit ms?" in data("import", "a.csv", "--name", "a", "--map", columns)[2]
    assert "1970" not in data("import", "a.csv", "--name", "a", "--map", f"{columns}:ms", "--json")[2]


def test_a_range_of_time_is_imported_and_exported(data: Run) -> None:
    data("import", SYNTHETIC, "--name", "syn", "--to", "2024-01-02T14:30:00.3Z")
    _, shown, _ = data("show", "syn", "--json")
    _, exported, _ = data("export", "syn", "--out", "a.csv", "--from", "2024-01-02T14:30:00.2+00:00", "--json")
    assert 0 < json.loads(exported)["rows"] < json.loads(shown)["rows"] < 300


def test_an_own_function_changes_the_rows_and_is_noted(data: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def trades(frame):\n    return frame[frame['type'] == 'trade']\n")
    _, imported, _ = data("import", SYNTHETIC, "--name", "syn", "--transform", "mine:trades", "--json")
    manifest = json.loads(imported)
    assert manifest["kinds"] == ["trade"]
    assert manifest["transform"]["part"] == "mine:trades"
    assert len(manifest["transform"]["code_hash"]) == 64


def test_a_copy_names_the_version_it_was_made_of(data: Run) -> None:
    data("import", SYNTHETIC, "--name", "syn")
    _, imported, _ = data("import", "dataset:syn", "--name", "copy", "--json")
    assert json.loads(imported)["source"] == "dataset:syn@1"


def test_a_damaged_version_is_listed_as_such(data: Run, tmp_path: Path) -> None:
    data("import", SYNTHETIC, "--name", "syn")
    (tmp_path / ".tickwise" / "datasets" / "syn" / "1" / "manifest.json").unlink()
    _, listed, _ = data("list", "--json")
    code, _, error = data("show", "syn")
    assert json.loads(listed) == [{"data set": "syn@1", "kinds": "damaged"}]
    assert code == 2
    assert "data set syn@1 is damaged" in error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["show", "nothing"], "there is no data set 'nothing'"),
        (["import", "nothing.csv", "--name", "a"], "no file or folder 'nothing.csv'"),
        (["import", SYNTHETIC, "--name", "../a"], "names no data set"),
        (["import", SYNTHETIC, "--name", "a", "--transform", "mine"], "names no function"),
        (["import", SYNTHETIC, "--name", "a", "--from", "soon"], "no time such as"),
        (["import", SYNTHETIC, "--name", "a", "--to", "2020-01-01"], "gave no row"),
    ],
)
def test_what_is_wrong_ends_with_2_and_its_reason(data: Run, words: list[str], reason: str) -> None:
    code, _, error = data(*words)
    assert code == 2
    assert reason in error
