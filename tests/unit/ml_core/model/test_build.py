import pytest
import torch
from torch import nn

from ml_core import spec as pipelines
from ml_core.errors import SpecError, UnknownPartError
from ml_core.model.build import build, check_params

OWN = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self, features: int, outputs: int, *, scale: float = 1.0, mode: str = "a"):
        super().__init__()
        self.linear, self.scale = nn.Linear(features, outputs), scale

    def forward(self, x_BTF):
        return self.scale * self.linear(x_BTF.mean(1))

class Wrong(nn.Module):
    def __init__(self, features: int, outputs: int):
        super().__init__()

    def forward(self, x_BTF):
        return x_BTF

class Raises(nn.Module):
    def __init__(self, features, outputs):
        raise ValueError("five is right out")

class NoModule:
    pass
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "own.py").write_text(OWN)

    def make(kind, params, window=1):
        data = {"name": "demo", "features": {"window": window}, "model": {"kind": kind, "params": params}}
        return pipelines.parse(data, folder=tmp_path)

    return make


def shape(model: nn.Module, window: int) -> tuple[int, ...]:
    return tuple(model(torch.zeros(5, window, 7)).shape)


@pytest.mark.parametrize(
    ("kind", "window", "params"),
    [
        ("mlp", 1, {}),
        ("mlp", 8, {"hidden": [16], "dropout": 0.1}),
        ("mlp", 1, {"hidden": []}),
        ("linear", 8, {}),
        ("lstm", 8, {"width": 8, "layers": 2}),
        ("gru", 8, {"width": 8, "layers": 2}),
        ("tcn", 8, {"width": 8, "kernel": 2, "blocks": 4}),
        ("own:Mean", 3, {"scale": 2}),
    ],
)
def test_a_model_is_built_with_its_parameters(spec, kind, window, params):
    assert shape(build(spec(kind, params, window), features=7, outputs=3, seed=0), window) == (5, 3)


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone(spec):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = (build(spec("lstm", {}, 4), features=7, outputs=3, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.rand(1) == expected
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(
    ("kind", "params", "error", "message"),
    [
        ("mpl", {}, UnknownPartError, "'mpl' is not known; did you mean 'mlp'"),
        ("own:NoModule", {}, UnknownPartError, "is no torch.nn.Module"),
        ("own:Maen", {}, UnknownPartError, "did you mean 'Mean'"),
        ("mlp", {"hiden": [3]}, SpecError, "model.params.hiden: unknown parameter; did you mean 'hidden'"),
        ("mlp", {"hidden": "64"}, SpecError, "model.params.hidden: '64' does not fit"),
        ("mlp", {"hidden": [1.5]}, SpecError, "model.params.hidden: "),
        ("mlp", {"dropout": "0.1"}, SpecError, "model.params.dropout: '0.1' does not fit float"),
        ("mlp", {"dropout": 7.0}, SpecError, "cannot be built or called: ValueError: dropout"),
        ("mlp", {"window": 3}, SpecError, "model.params.window: unknown parameter"),
        ("lstm", {"features": 3}, SpecError, "model.params.features: unknown parameter"),
        ("own:Wrong", {"any": 1}, SpecError, "model.params.any: unknown parameter; Wrong takes none"),
        ("own:Wrong", {}, SpecError, r"returns shape \(2, 1, 7\) for 2 rows, it must return \(2, 3\)"),
        ("own:Raises", {}, SpecError, "ValueError: five is right out"),
    ],
)
def test_what_is_wrong_with_a_model_is_said_with_the_nearest_name(spec, kind, params, error, message):
    with pytest.raises(error, match=message):
        build(spec(kind, params), features=7, outputs=3, seed=0)


def test_a_list_becomes_the_tuple_that_the_constructor_declares():
    class Part:
        def __init__(self, features: int, outputs: int, *, sizes: tuple[int, ...], name: str | None = None) -> None:
            pass

    assert check_params(Part, {"sizes": [1, 2], "name": None}) == {"sizes": (1, 2), "name": None}
    with pytest.raises(SpecError, match="Part needs sizes"):
        check_params(Part, {})


def test_a_constructor_with_free_keywords_takes_any():
    class Part:
        def __init__(self, features: int, outputs: int, **more: int) -> None:
            pass

    assert check_params(Part, {"anything": 3}) == {"anything": 3}
