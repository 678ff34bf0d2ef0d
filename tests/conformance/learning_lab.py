"""Tasks for learners, of plain arrays instead of ticks."""

from typing import Any

import numpy as np

from ml_core.contract import ModelContract
from ml_core.data_loader.arrays import Samples
from ml_core.data_processor.dataset import Dataset, Processed
from ml_core.learners.port import Task
from ml_core.spec import PipelineSpec
from ml_core.trainer.loop import Hooks


def task_of(
    spec: PipelineSpec,
    contract: ModelContract,
    samples: Samples,
    train_I: np.ndarray,
    validation_I: np.ndarray,
    **changes: Any,
) -> Task:
    """Return the task to learn ``contract`` from the samples at ``train_I``, stopped by those at ``validation_I``."""
    count, horizons = samples.y_NH.shape
    dataset = Dataset(
        x_MF=samples.x_MF,
        idx_NT=samples.idx_NT,
        ts_ns_N=np.arange(count),
        end_ns_NH=np.zeros((count, horizons), np.int64),
        return_NH=np.zeros((count, horizons)),
        y_NH=samples.y_NH,
        weight_N=samples.weight_N,
        symbol_N=np.zeros(count, np.int32),
        symbols=("A",),
    )
    none_I = np.empty(0, np.int64)
    processed = Processed(dataset, train_I, validation_I, none_I, contract.scaler, (), contract.prior, None, {})
    task = Task(spec, contract, processed, start=None, seed=0, threads=1, hooks=Hooks())
    return task._replace(**changes)
