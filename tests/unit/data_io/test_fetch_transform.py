from pathlib import Path

import pytest

from data_io.data_fetcher import transform
from data_io.data_fetcher.port import join
from data_io.data_fetcher.synthetic import Market, Synthetic
from ml_core.errors import InputError, SchemaMismatchError, UnknownPartError

PARTS = """
def trades(frame):
    return frame[frame["type"] == "trade"]

def in_cents(frame):
    frame[["price", "bid", "ask"]] *= 100
    return frame

def change(frame):
    frame["size"] = frame["size"].diff()
    return frame

def centred(frame):
    frame["size"] -= frame["size"].mean()
    return frame

def dropped(frame):
    return frame.drop(columns="seq")

def forgetful(frame):
    return frame.drop(columns="offset")

def backward(frame):
    return frame[::-1]

def failing(frame):
    return frame["nothing"]

def counting(frame):
    return len(frame)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_ticks.py").write_text(PARTS)
    return tmp_path


def applied(name: str, folder: Path) -> list[int]:
    market = Synthetic(Market(ticks=500))
    return join(transform.find(f"my_ticks:{name}", folder).apply(market.chunks()))["offset"].tolist()


def test_rows_may_be_left_out_and_changed_and_the_source_stays_as_it_is(folder: Path) -> None:
    frame = Synthetic(Market(ticks=500)).fetch()
    before = frame.copy()

    (kept,) = transform.find("my_ticks:trades", folder).apply([frame])
    (cents,) = transform.find("my_ticks:in_cents", folder).apply([frame])

    assert kept["offset"].tolist() == frame[frame["type"] == "trade"]["offset"].tolist()
    assert cents["bid"].dropna().tolist() == (frame["bid"] * 100).dropna().tolist()
    assert frame.equals(before)


@pytest.mark.parametrize("name", ["change", "centred"])
def test_what_looks_at_other_rows_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="may depend on one row alone"):
        applied(name, folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dropped", "no ticks frame: no column 'seq'"),
        ("forgetful", "lost the column offset"),
        ("backward", "or its order"),
        ("counting", "int, no DataFrame"),
    ],
)
def test_what_is_no_ticks_frame_is_refused(folder: Path, name: str, reason: str) -> None:
    with pytest.raises(SchemaMismatchError, match=reason):
        applied(name, folder)


def test_one_that_fails_is_told_with_its_error(folder: Path) -> None:
    with pytest.raises(InputError, match="'my_ticks:failing' failed: KeyError: 'nothing'"):
        applied("failing", folder)


def test_the_hash_is_that_of_the_code(folder: Path) -> None:
    before = transform.find("my_ticks:trades", folder).code_hash
    assert transform.find("my_ticks:in_cents", folder).code_hash == before
    (folder / "my_ticks.py").write_text(PARTS.replace("100", "1000"))
    assert transform.find("my_ticks:trades", folder).code_hash != before


def test_the_hash_is_that_of_the_file_that_is_named_also_where_the_function_comes_from_elsewhere(folder: Path) -> None:
    (folder / "mine.py").write_text("from shutil import copyfile as own")
    before = transform.find("mine:own", folder).code_hash
    (folder / "mine.py").write_text("from shutil import copymode as own")
    assert transform.find("mine:own", folder).code_hash != before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("my_ticks", "names no function"),
        ("my_ticks:trade", "did you mean 'trades'"),
        ("no_such_module:f", "is not found; tried the file"),
    ],
)
def test_one_that_is_not_there_is_told_with_what_was_tried(folder: Path, text: str, reason: str) -> None:
    with pytest.raises(UnknownPartError, match=reason):
        transform.find(text, folder)
