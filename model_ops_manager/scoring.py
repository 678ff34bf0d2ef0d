"""The one way from rows to predictions, for the stream and for HTTP: equal rows get equal answers.

Shapes: N rows, M rows of all partitions, T rows of a window, F features, H horizons.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np

from data_io.topics.prediction_batch import REASONS
from data_io.topics.predictions import PredictionBatch
from ml_core.model.runtime import Scorer
from ml_core.types import Bool, Float32, RowBatch, RowFlag

# A row with one of these is not scored: the prediction abstains and says why.
ABSTAIN: RowFlag = reduce(or_, REASONS)
_ABSTAIN = np.uint8(ABSTAIN)


class Unscored(NamedTuple):
    """Rows of one partition that a model is asked about."""

    rows: RowBatch
    x_NTF: Float32  # windows of the rows, oldest row first
    ready_N: Bool  # False where the window is too short


def score(unscored: Sequence[Unscored], scorer: Scorer) -> list[PredictionBatch]:
    """Return one prediction per row; rows that cannot be trusted or whose window is too short are not scored.

    All are scored as if they were one batch, which changes no bit of any.
    """
    scored = [ready_N & ((rows.flags_N & _ABSTAIN) == 0) for rows, _, ready_N in unscored]
    parts = [
        x_NTF if scored_N.all() else x_NTF[scored_N] for (_, x_NTF, _), scored_N in zip(unscored, scored, strict=True)
    ]
    score_MH = scorer.scores(parts[0] if len(parts) == 1 else np.concatenate(parts))
    answers, at = [], 0
    for (rows, _, ready_N), scored_N, part in zip(unscored, scored, parts, strict=True):
        score_NH = score_MH[at : at + len(part)]
        at += len(part)
        if len(part) < len(rows):
            known_NH, score_NH = score_NH, np.full((len(rows), score_MH.shape[1]), np.nan, np.float32)
            score_NH[scored_N] = known_NH
        answers.append(_prediction(rows, score_NH, ready_N))
    return answers


def _prediction(rows: RowBatch, score_NH: Float32, ready_N: Bool) -> PredictionBatch:
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
