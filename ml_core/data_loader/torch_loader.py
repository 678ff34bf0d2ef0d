"""The same batches through torch's own DataLoader, for trainers that want one."""

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from ml_core.data_loader.arrays import Samples, gather
from ml_core.types import Int64


class SampleDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Chosen samples as a map-style dataset; an index may be a list, then a whole batch is gathered at once."""

    def __init__(self, samples: Samples, chosen_I: Int64) -> None:
        """Offer the samples with the numbers ``chosen_I``."""
        self._samples, self._chosen_I = samples, chosen_I

    def __len__(self) -> int:
        """Return the number of chosen samples."""
        return len(self._chosen_I)

    def __getitem__(self, index: int | list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (x, y, weight) of one sample, or of a list of samples with a batch axis in front."""
        x, y, weight = gather(self._samples, self._chosen_I[index])
        return torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(weight)


def torch_loader(
    samples: Samples, chosen_I: Int64, *, batch_size: int, seed: int = 0, shuffle: bool = True
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Return a DataLoader of (x_BTF, y_BH, weight_B); its seeded order is not that of ``Batches``."""
    dataset = SampleDataset(samples, chosen_I)
    generator = torch.Generator().manual_seed(seed)
    order: Sampler[int] = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    # the batch sampler stands where single samples usually do, so that one gather makes a whole batch
    return DataLoader(dataset, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None)
