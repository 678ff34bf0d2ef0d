"""A version says what it was made by, and is reproduced by nothing else."""

import pytest

from ml_core.errors import ModelRefusedError, UnknownPartError
from ml_core.parts import files_of
from ml_core.spec import parse
from model_ops_manager.recipe import Recipe

PART = "import torch\n\n\nclass Mine(torch.nn.Linear):\n    pass\n"


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "mine.py").write_text(PART)
    return parse({"name": "demo", "model": {"kind": "mine:Mine"}}, folder=tmp_path)


def read(recipe):
    return Recipe.read(recipe.model_dump_json().encode(), "version 1 of demo")


def test_a_recipe_holds_the_pipeline_and_the_own_parts_that_it_names(spec, tmp_path) -> None:
    (tmp_path / "other.py").write_text("")

    recipe = read(Recipe.of(spec))

    assert recipe.parts == {"mine.py": PART}
    assert read(Recipe.of(spec, threads=3)).threads == 3
    again = recipe.spec(tmp_path)
    assert (again, again.folder) == (spec, tmp_path)


def test_a_recipe_holds_an_own_loss_too(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(PART)
    spec = parse({"name": "demo", "train": {"loss": "mine:Mine"}}, folder=tmp_path)

    assert Recipe.of(spec).parts == {"mine.py": PART}


def test_a_part_that_was_edited_since_is_not_run_in_place_of_the_original(spec, tmp_path) -> None:
    recipe = Recipe.of(spec)
    (tmp_path / "mine.py").write_text(PART + "# edited\n")

    with pytest.raises(UnknownPartError, match=r"mine\.py in .* differ from what the model was trained with"):
        recipe.spec(tmp_path)


def test_recorded_parts_can_be_run_where_the_originals_are_gone(spec, tmp_path) -> None:
    recipe, folder = Recipe.of(spec), tmp_path / "unpacked"

    recipe.unpack(folder)

    assert recipe.spec(folder).hash == spec.hash


def test_a_recipe_that_leaves_a_part_to_a_package_runs_no_file_of_that_name(spec, tmp_path) -> None:
    recipe = Recipe(pipeline=Recipe.of(spec).pipeline)

    with pytest.raises(UnknownPartError, match=r"mine\.py in .* differ"):
        recipe.spec(tmp_path)


@pytest.mark.parametrize("kind", ["..:X", "/etc/passwd:X", "../mine:Mine"])
def test_a_recipe_leads_to_no_file_outside_the_folder_of_parts(kind, tmp_path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "mine.py").write_text(PART)

    assert files_of([kind], inside) == {}


@pytest.mark.parametrize("name", ["/etc/evil.py", "../evil.py", "evil.sh", "a\\u0000.py", ".py", "a//b.py"])
def test_a_recipe_never_writes_outside_its_folder(name) -> None:
    with pytest.raises(ModelRefusedError, match=r"unreadable: recipe\.json of version 1 of demo"):
        Recipe.read(f'{{"pipeline": {{"name": "demo"}}, "parts": {{"{name}": ""}}}}'.encode(), "version 1 of demo")
