"""Scores the rows of a batch with the model that serves their partition."""

import numpy as np
from model_ops_manager.champion import Serving

from data_io.topics.predictions import PredictionBatch
from ml_core.types import Bool, Float32, RowBatch, RowFlag
from streams.partition_state import FeatureSetState

# A row with one of these is not scored: the prediction abstains and says why.
ABSTAIN = RowFlag.WARM_UP | RowFlag.GAP | RowFlag.NO_PRICE | RowFlag.STALE


def windows(rows: RowBatch, state: FeatureSetState) -> dict[int, tuple[Float32, Bool]]:
    """Return the windows of ``rows`` for every length in use and move the tails past them.

    Called for every batch, also while no model serves, so that a model swapped in finds its windows whole.
    """
    return {window: tail.windows(rows) for window, tail in state.tails.items()}


def step(rows: RowBatch, x_NTF: Float32, ready_N: Bool, serving: Serving) -> PredictionBatch:
    """Return one prediction per row; rows that cannot be trusted or whose window is too short are not scored."""
    scored_N = ready_N & ((rows.flags_N & ABSTAIN) == 0)
    score_NH = np.full((len(rows), len(serving.scorer.contract.horizons_ns)), np.nan, np.float32)
    if scored_N.any():
        score_NH[scored_N] = serving.scorer.scores(np.ascontiguousarray(x_NTF[scored_N]))
    return PredictionBatch(
        offset_N=rows.offset_N,
        index_N=rows.index_N,
        symbol_N=rows.symbol_N,
        ts_ns_N=rows.ts_ns_N,
        score_NH=score_NH,
        flags_N=rows.flags_N,
        window_ok_N=ready_N,
        symbols=rows.symbols,
    )
