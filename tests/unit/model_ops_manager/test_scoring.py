"""A row is scored exactly where its prediction is published with a score."""

import numpy as np

from data_io.topics.prediction_batch import STATE_OF_FLAGS
from ml_core.types import RowBatch
from model_ops_manager.scoring import Unscored, score


class Scorer:
    """Takes down how many rows it was asked for."""

    def scores(self, x_NTF):
        self.asked = len(x_NTF)
        return np.ones((len(x_NTF), 2), np.float32)


def test_a_row_that_is_published_with_a_reason_is_not_scored() -> None:
    count, scorer = 256, Scorer()
    flags_N = np.arange(count, dtype=np.uint8)  # every flag alone and with every other one
    long_N, int_N, float_N = np.arange(count), np.zeros(count, np.int32), np.ones(count)
    x_NF = np.ones((count, 3), np.float32)
    rows = RowBatch(long_N, int_N, int_N, long_N, float_N, float_N, x_NF, flags_N, ["A"])

    [scored] = score([Unscored(rows, x_NF[:, None, :], np.ones(count, np.bool_))], scorer)

    assert np.isfinite(scored.score_NH).all(axis=1).tolist() == (STATE_OF_FLAGS == 0).tolist()
    assert scorer.asked == np.count_nonzero(STATE_OF_FLAGS == 0)
