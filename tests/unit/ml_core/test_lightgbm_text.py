"""LightGBM follows the indices of its text without looking, so each is looked at before it does."""

import re

import lightgbm
import numpy as np
import pytest

from ml_core.errors import ModelRefusedError
from ml_core.model.foreign.lightgbm_file import read_lightgbm
from ml_core.model.foreign.lightgbm_text import checked


@pytest.fixture(scope="module")
def lightgbm_text() -> str:
    x_NF = np.random.default_rng(1).standard_normal((800, 2))
    given = {"objective": "regression", "verbosity": -1, "num_threads": 1, "num_leaves": 4}
    return str(lightgbm.train(given, lightgbm.Dataset(x_NF, label=x_NF[:, 0]), 1).model_to_string())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("left_child", "0 -3 -2", "^unreadable: a tree has a child that is no node, or that has two parents"),
        ("left_child", "1 -1000000 -2", "^unreadable: a tree has a child that is no node, or that has two parents"),
        ("left_child", "1 -2", "^unreadable: a tree has columns of several lengths"),
        ("left_child", "1_1 0 0", "^unreadable: left_child is no list of whole numbers"),
        ("split_feature", "1000000 0 0", "^unreadable: a tree splits by a column that is none"),
        ("decision_type", "3 2 2", "^trees: a split by category"),
        ("num_cat", "1", "^trees: a split by category"),
        ("is_linear", "1", "^trees: leaves that are linear models"),
        ("leaf_value", "1 2", "^unreadable: a tree has columns of several lengths"),
        ("num_leaves", "4\nnum_leaves=5", "^unreadable: a line is none of LightGBM's, or stands there twice"),
        ("num_class", "9", "^unreadable: num_class and num_tree_per_iteration differ"),
        ("num_tree_per_iteration", "900000000", "^too_large: the model answers 900000000 numbers a row"),
    ],
)
def test_no_text_leads_lightgbm_astray(lightgbm_text, name, value, message):
    changed, count = re.subn(rf"^{name}=.*$", f"{name}={value}", lightgbm_text, count=1, flags=re.MULTILINE)
    assert count == 1
    with pytest.raises(ModelRefusedError, match=message):
        checked(changed)


def test_where_trees_begin_is_what_the_text_shows(lightgbm_text):
    changed = re.sub("(?m)^tree_sizes=.*$", "tree_sizes=99999999999", lightgbm_text)
    assert read_lightgbm(changed).splits() == read_lightgbm(lightgbm_text).splits() != []
