import numpy as np
import torch

from ml_core.data_loader.arrays import Samples, gather
from ml_core.data_loader.torch_loader import torch_loader

RNG = np.random.default_rng(0)
DATA = Samples(
    RNG.standard_normal((30, 2)).astype(np.float32),
    (np.arange(25)[:, None] + np.arange(4)).astype(np.int32),
    np.arange(25)[:, None],
    np.ones(25, np.float32),
)


def test_the_torch_loader_gives_the_same_samples_as_the_gather():
    chosen = np.arange(3, 20)
    seen = []
    for x, y, weight in torch_loader(DATA, chosen, batch_size=5, seed=1):
        numbers = y[:, 0].numpy()
        expected = gather(DATA, numbers)
        assert torch.equal(x, torch.from_numpy(expected.x_BTF))
        assert torch.equal(weight, torch.from_numpy(expected.weight_B))
        seen += numbers.tolist()
    assert sorted(seen) == chosen.tolist()
    assert seen != chosen.tolist()


def test_its_order_follows_from_the_seed():
    def order(seed: int) -> list[int]:
        return [int(n) for _, y, _ in torch_loader(DATA, np.arange(25), batch_size=4, seed=seed) for n in y[:, 0]]

    assert order(1) == order(1) != order(2)


def test_without_shuffling_samples_come_in_order_and_one_by_one_too():
    loader = torch_loader(DATA, np.array([7, 3, 5]), batch_size=2, shuffle=False)
    assert [y[:, 0].tolist() for _, y, _ in loader] == [[7, 3], [5]]
    x, y, _ = loader.dataset[1]
    assert x.shape == (4, 2)
    assert y.tolist() == [3]
