import pytest
import torch

from ml_core.model.tcn import TCN

WINDOW, FEATURES = 12, 3


def seen_by(net: TCN, row: int) -> list[int]:
    """Return the rows of a window on which the state at ``row`` depends."""
    x_BTF = torch.randn(4, WINDOW, FEATURES, requires_grad=True)
    net.states(x_BTF)[:, :, row].sum().backward()
    return torch.flatten(x_BTF.grad.abs().sum(dim=(0, 2)).nonzero()).tolist()


@pytest.mark.parametrize("row", [0, 5, WINDOW - 1])
def test_a_state_depends_on_no_later_row_and_on_every_earlier_one_within_reach(row):
    torch.manual_seed(0)
    assert seen_by(TCN(FEATURES, 2, width=32, kernel=3, blocks=3), row) == list(range(row + 1))


def test_the_reach_is_that_of_the_dilations():
    torch.manual_seed(0)
    assert seen_by(TCN(FEATURES, 2, width=32, kernel=2, blocks=3), WINDOW - 1) == list(range(WINDOW - 8, WINDOW))
