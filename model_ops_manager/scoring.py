"""The one way from rows to predictions, for the stream and for HTTP: equal rows get equal answers.

Shapes: N rows, T rows of a window, F features, H horizons.
"""

import numpy as np

from data_io.topics.predictions import PredictionBatch
from ml_core.model.runtime import Scorer
from ml_core.types import Bool, Float32, RowBatch, RowFlag

# A row with one of these is not scored: the prediction abstains and says why.
ABSTAIN = RowFlag.WARM_UP | RowFlag.GAP | RowFlag.NO_PRICE | RowFlag.STALE


def score(rows: RowBatch, x_NTF: Float32, ready_N: Bool, scorer: Scorer) -> PredictionBatch:
    """Return one prediction per row; rows that cannot be trusted or whose window is too short are not scored.

    Args:
        rows: Feature rows.
        x_NTF: Their windows, oldest row first.
        ready_N: False where the window is too short.
        scorer: The model.
    """
    scored_N = ready_N & ((rows.flags_N & ABSTAIN) == 0)
    if scored_N.all():
        score_NH = scorer.scores(x_NTF)
    else:
        score_NH = np.full((len(rows), len(scorer.contract.horizons_ns)), np.nan, np.float32)
        if scored_N.any():
            score_NH[scored_N] = scorer.scores(x_NTF[scored_N])
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
