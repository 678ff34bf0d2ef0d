"""Scores the rows of a batch with the model that serves their partition."""

import numpy as np

from data_io.topics.predictions import PredictionBatch
from ml_core.types import Bool, Float32, RowBatch
from model_ops_manager import scoring
from model_ops_manager.champion import Serving
from streams.partition_state import FeatureSetState

Windows = dict[int, tuple[Float32, Bool]]


def windows(rows: RowBatch, state: FeatureSetState) -> Windows:
    """Return the windows of ``rows`` (x_NTF, ready_N) for every length in use, and move the tails past them.

    Called for every batch, also while no model serves, so that a model swapped in finds its windows whole.
    """
    single = rows.x_NF[:, None, :], np.ones(len(rows), np.bool_)
    return {1: single, **{window: tail.windows(rows) for window, tail in state.tails.items()}}


def step(rows: RowBatch, windows_of: Windows, window: int, serving: Serving) -> PredictionBatch:
    """Return one prediction per row; rows that cannot be trusted or whose window is too short are not scored."""
    x_NTF, ready_N = windows_of[window]
    return scoring.score(rows, x_NTF, ready_N, serving.scorer)
