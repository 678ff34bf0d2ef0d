"""What a learner is given, and what it gives."""

from typing import Any, NamedTuple

import numpy.typing as npt

from ml_core.contract import ModelContract
from ml_core.data_processor.dataset import Processed
from ml_core.model.fitted import FittedModel
from ml_core.spec import PipelineSpec
from ml_core.trainer.checkpoint import CheckpointStore
from ml_core.trainer.loop import Hooks, TrainReport


class Task(NamedTuple):
    """Learn a model of ``spec`` on the training rows of ``processed``, stop by its validation rows."""

    spec: PipelineSpec
    contract: ModelContract  # of the model to be; the learner settles ``block`` and ``runtime_version``
    processed: Processed
    start: FittedModel | None  # go on from this model instead of starting afresh
    seed: int
    threads: int
    hooks: Hooks
    checkpoint: CheckpointStore | None = None  # where a training that was interrupted goes on from


class Learned(NamedTuple):
    """A model that has passed its probes."""

    onnx: bytes  # with its contract inside
    weights: dict[str, npt.NDArray[Any]]  # what an incremental job goes on from; ``optimizer.*`` are no weights
    report: TrainReport
    calibration: list[float]  # how far the logits may stray from the log prior, a horizon; numbers have none
