"""Scores the rows of a round of batches, each with the model that serves its partition."""

from collections.abc import Sequence

import numpy as np

from data_io.topics.predictions import PredictionBatch
from ml_core.types import Bool, Float32, RowBatch
from model_ops_manager import scoring
from model_ops_manager.champion import Serving
from model_ops_manager.scoring import Unscored
from streams.partition_state import FeatureSetState

Windows = dict[int, tuple[Float32, Bool]]


def windows(rows: RowBatch, state: FeatureSetState) -> Windows:
    """Return the windows of ``rows`` (x_NTF, ready_N) for every length in use, and move the tails past them.

    Called for every batch, also while no model serves, so that a model swapped in finds its windows whole.
    """
    single = rows.x_NF[:, None, :], np.ones(len(rows), np.bool_)
    return {1: single, **{window: tail.windows(rows) for window, tail in state.tails.items()}}


def step(unscored: Sequence[tuple[Unscored, Serving]]) -> list[PredictionBatch]:
    """Return one prediction per row; those of one model are made together."""
    places: dict[int, list[int]] = {}
    for place, (_, serving) in enumerate(unscored):
        places.setdefault(id(serving.scorer), []).append(place)
    answers: dict[int, PredictionBatch] = {}
    for asked in places.values():
        scorer = unscored[asked[0]][1].scorer
        answers.update(zip(asked, scoring.score([unscored[place][0] for place in asked], scorer), strict=True))
    return [answers[place] for place in range(len(unscored))]
