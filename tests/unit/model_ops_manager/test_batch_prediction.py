"""Past ticks get the predictions that a worker would have given them, wherever they are cut and wherever they go."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_io.data_fetcher.sources import open_source
from data_io.topics.predictions import PredictionEncoder
from ml_core.data_processor import features
from ml_core.data_processor.windows import Tail
from ml_core.errors import InputError
from ml_core.fit import fit
from ml_core.spec import parse
from ml_core.types import SymbolTable
from model_ops_manager import batch_prediction, prediction_sinks, scoring
from model_ops_manager.batch_prediction import Replay, of_file, predict
from model_ops_manager.prediction_sinks import ParquetSink
from model_ops_manager.scoring import Unscored

SOURCE = "synthetic:symbols=3,ticks=6000,rate=100,seed=3"
SPEC = parse(
    {
        "name": "demo",
        "features": {"use": ["queue_imbalance", "return:1s"], "window": 4},
        "label": {"horizons": ["1s", "2s"], "kind": "return"},
        "train": {"epochs": 1, "min_rows": 100},
    }
)
ABOUT = {"topic_id": "T", "horizons_ns": SPEC.label.horizons, "model": "demo", "version": 3}


@pytest.fixture(scope="module")
def scorer():
    return fit(open_source(SOURCE).fetch(), SPEC).model.scorer()


def at_once(scorer):
    """All ticks in one batch, without anything of what is tested here."""
    plan = features.FeaturePlan.from_spec(SPEC)
    [ticks] = open_source(SOURCE).stream(10_000)
    rows = features.step(ticks, features.FeatureState(plan, SymbolTable(ticks.symbols)))
    x_NTF, ready_N = Tail(SPEC.features.window, len(plan.names)).windows(rows)
    [made] = scoring.score([Unscored(rows, x_NTF, ready_N)], scorer)
    return [json.loads(value) for _, value in PredictionEncoder(partition=0, **ABOUT).values(made)]


def fields(row):
    scores = None if row["scores"] is None else {k: v and np.float32(v) for k, v in row["scores"].items()}
    return row | {"score": row["score"] and np.float32(row["score"]), "scores": scores}


async def test_predictions_in_parquet_equal_those_of_a_worker_wherever_the_ticks_are_cut(
    scorer, tmp_path, monkeypatch
) -> None:
    expected = at_once(scorer)
    for chunk in (997, 6000):
        monkeypatch.setattr(batch_prediction, "CHUNK_TICKS", chunk)
        file = tmp_path / f"{chunk}.parquet"

        found = await predict(of_file(open_source(SOURCE), SPEC, scorer), ParquetSink(file, **ABOUT))

        rows = pq.read_table(file).to_pylist()
        for row in rows:
            row["id"] = f"{row.pop('topic_id')}-{row.pop('partition')}-{row.pop('offset')}-{row.pop('index')}"
        assert [fields(row) for row in rows] == [fields(each) for each in expected]
        assert found == (6000, len(expected), sum(each["status"] == "ok" for each in expected))
        assert 0 < found.scored < found.rows
        assert list(tmp_path.glob(".*")) == []


async def test_a_file_has_equal_bytes_wherever_the_ticks_are_cut(scorer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prediction_sinks, "GROUP_ROWS", 1000)
    files = []
    for chunk in (997, 6000):
        monkeypatch.setattr(batch_prediction, "CHUNK_TICKS", chunk)
        files.append(tmp_path / f"{chunk}.parquet")
        await predict(of_file(open_source(SOURCE), SPEC, scorer), ParquetSink(files[-1], **ABOUT))

    groups = pq.ParquetFile(files[0]).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)][:2] == [1000, 1000]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ticks_before_the_asked_ones_only_move_the_state(scorer) -> None:
    def made(first):
        replay = Replay(SPEC, scorer, first=first)
        [ticks] = open_source(SOURCE).stream(10_000)
        for name in ticks.symbols:
            replay.symbols.add(name)
        return replay.predictions(ticks)

    whole, late = made(0), made(5000)

    assert len(late) == int((whole.offset_N >= 5000).sum()) > 0
    np.testing.assert_array_equal(late.score_NH, whole.score_NH[whole.offset_N >= 5000])


async def test_a_file_without_predictions_is_an_error_and_not_an_empty_file(scorer, tmp_path) -> None:
    async def nothing():
        for part in ():
            yield part

    with pytest.raises(InputError, match="no tick made a row"):
        await predict(nothing(), ParquetSink(tmp_path / "none.parquet", **ABOUT))

    assert list(tmp_path.iterdir()) == []
