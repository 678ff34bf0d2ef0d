import sys

import pytest

from ml_core.errors import UnknownPartError
from ml_core.parts import find_part


def test_a_file_beside_the_pipeline_comes_before_an_installed_module(tmp_path):
    (tmp_path / "json.py").write_text("class JSONDecoder:\n    own = True\n")
    assert find_part("json:JSONDecoder", tmp_path, key="model.kind").own
    import json

    assert find_part("json:JSONDecoder", None, key="model.kind") is json.JSONDecoder
    assert find_part("json.decoder:JSONDecoder", tmp_path, key="model.kind") is json.JSONDecoder


def test_two_folders_may_have_a_file_of_the_same_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"class Part:\n    where = {name!r}\n")
    before = list(sys.path)
    assert [find_part("mine:Part", tmp_path / name, key="model.kind").where for name in ("a", "b")] == ["a", "b"]
    assert sys.path == before
    assert "mine" not in sys.modules


def test_an_edited_file_is_loaded_anew_and_an_unchanged_one_is_not(tmp_path):
    (tmp_path / "mine.py").write_text("class Part:\n    n = 1\n")
    first = find_part("mine:Part", tmp_path, key="model.kind")
    assert find_part("mine:Part", tmp_path, key="model.kind") is first
    (tmp_path / "mine.py").write_text("class Part:\n    n = 2\n")
    assert find_part("mine:Part", tmp_path, key="model.kind").n == 2


def test_a_dotted_module_is_a_file_in_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.py").write_text("class Part:\n    pass\n")
    assert find_part("deep.mine:Part", tmp_path, key="model.kind").__name__ == "Part"


def test_dataclasses_in_an_own_file_work(tmp_path):
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text = head + "@dataclass\nclass Part:\n    n: int = 1\n"
    (tmp_path / "mine.py").write_text(text)
    assert find_part("mine:Part", tmp_path, key="model.kind")().n == 1


@pytest.mark.parametrize("text", ["mine", "mine:", ":Part", "mi ne:Part", "../mine:Part", "mine:Part:x", "mine:a.b"])
def test_what_is_no_name_of_a_part_is_refused(tmp_path, text):
    with pytest.raises(UnknownPartError, match="write module:Class"):
        find_part(text, tmp_path, key="model.kind")


def test_a_part_that_is_not_found_tells_what_was_tried(tmp_path):
    with pytest.raises(UnknownPartError, match=r"tried the file .*mine\.py and the installed module 'mine'"):
        find_part("mine:Part", tmp_path, key="model.kind")


def test_a_wrong_class_is_answered_with_the_nearest_of_the_file(tmp_path):
    (tmp_path / "mine.py").write_text("from pathlib import Path\nclass TinyConv:\n    pass\nvalue = 3\n")
    with pytest.raises(UnknownPartError, match="no class 'TinyCovn'; did you mean 'TinyConv'"):
        find_part("mine:TinyCovn", tmp_path, key="model.kind")
    with pytest.raises(UnknownPartError, match="no class 'value'"):
        find_part("mine:value", tmp_path, key="model.kind")


def test_a_file_that_fails_tells_where_and_why_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(UnknownPartError, match="ZeroDivisionError"):
        find_part("mine:Part", tmp_path, key="model.kind")
    assert not {name for name in set(sys.modules) - before if "mine" in name}


def test_a_file_that_needs_an_absent_package_names_it(tmp_path):
    (tmp_path / "mine.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(UnknownPartError, match="no_such_package_at_all"):
        find_part("mine:Part", tmp_path, key="model.kind")
