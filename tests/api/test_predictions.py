"""Predictions on demand: the same numbers as the scorer's, and clear answers where there are none."""

import json

import numpy as np
import pytest

from data_io.topics import predictions as predictions_topic
from data_io.topics import rows as rows_topic
from ml_core.types import RowBatch, RowFlag


def rows_of(count, *, symbol="ACME", seed=0, flags=0):
    rng = np.random.default_rng(seed)
    return RowBatch(
        offset_N=np.arange(100, 100 + count),
        index_N=np.zeros(count, np.int32),
        symbol_N=np.zeros(count, np.int32),
        ts_ns_N=np.arange(count) * 10**9 + 1_700_000_000 * 10**9,
        mid_N=np.full(count, 10.0),
        spread_N=np.full(count, 0.1),
        x_NF=rng.standard_normal((count, 2)).astype(np.float32),
        flags_N=np.full(count, flags, np.uint8),
        symbols=[symbol],
    )


async def give_rows(client, pipeline, rows, *, from_start=True):
    """Hand over rows as the consumer does once it has read back; test_api_predictions reads real records."""
    await client.parts.stop()  # else the consumer would soon report again that Kafka is away
    followed = client.parts.rows[pipeline]
    followed.reset("TOPIC", {0: from_start})
    followed.take(0, [value for _, value, _ in rows_topic.encode(rows, followed.plan.names, followed.plan.hash, 1)])
    followed.problem = None


async def ask(client, **body):
    return await client.post("/v1/predictions", json=body)


async def test_a_symbol_is_answered_with_the_record_that_the_stream_has(client, serving_of):
    serving = await serving_of(client)
    rows = rows_of(5)
    await give_rows(client, "demo", rows)

    answer = (await ask(client, pipeline="demo", symbol="ACME")).json()

    score_NH = serving.scorer.scores(rows.x_NF[:, None, :])
    batch = predictions_topic.PredictionBatch(
        rows.offset_N, rows.index_N, rows.symbol_N, rows.ts_ns_N, score_NH, rows.flags_N, np.ones(5, bool), rows.symbols
    )
    streamed = predictions_topic.encode(
        batch, topic_id="TOPIC", partition=0, horizons_ns=[10**9], model="demo", version=1
    )
    assert answer.pop("feature_age_s") > 0
    assert answer == json.loads(streamed[-1][1])
    assert answer["status"] == "ok"
    assert answer["id"] == "TOPIC-0-104-0"
    assert np.float32(answer["score"]) == score_NH[-1, 0]


@pytest.mark.parametrize("flag", [RowFlag.WARM_UP, RowFlag.CLOSED, RowFlag.NO_CALENDAR])
async def test_a_row_that_cannot_be_trusted_abstains_with_the_streams_reason(client, serving_of, flag):
    await serving_of(client)
    await give_rows(client, "demo", rows_of(2, flags=flag))

    answer = (await ask(client, pipeline="demo", symbol="ACME")).json()

    assert (answer["status"], answer["score"], answer["reason"]) == ("abstained", None, flag.name.lower())


async def test_a_window_is_scored_whole_and_abstains_while_it_is_short(client, serving_of):
    serving = await serving_of(client, "windows")
    rows = rows_of(4)
    await give_rows(client, "windows", rows)
    whole = (await ask(client, pipeline="windows", symbol="ACME")).json()
    await give_rows(client, "windows", rows_of(2))
    short = (await ask(client, pipeline="windows", symbol="ACME")).json()

    assert np.float32(whole["score"]) == serving.scorer.scores(rows.x_NF[None, 1:4])[0, 0]
    assert (short["status"], short["reason"]) == ("abstained", "window")


async def test_a_window_that_may_only_be_short_because_reading_began_late_is_no_answer(client, serving_of):
    await serving_of(client, "windows")
    await give_rows(client, "windows", rows_of(2), from_start=False)

    answer = await ask(client, pipeline="windows", symbol="ACME")

    assert (answer.status_code, answer.json()["code"]) == (503, "not_serving")
    assert "retry-after" in answer.headers


async def test_values_by_name_are_scored_in_the_models_order(client, serving_of):
    serving = await serving_of(client)
    names = serving.scorer.contract.features

    answer = await ask(client, pipeline="demo", features={names[1]: 0.5, names[0]: None})

    expected = serving.scorer.scores(np.array([[[np.nan, 0.5]]], np.float32))[0, 0]
    body = answer.json()
    assert np.float32(body["score"]) == expected
    assert [body[key] for key in ("id", "symbol", "ts", "feature_age_s")] == [None] * 4
    assert (body["model"], body["version"], body["horizon"]) == ("demo", 1, "1s")
    assert "scores" not in body


async def test_rows_in_time_order_get_one_prediction_each(client, serving_of):
    serving = await serving_of(client, "windows")
    x_NF = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)

    body = (await ask(client, pipeline="windows", rows=x_NF.tolist())).json()

    found = body["predictions"]
    assert [each["reason"] for each in found] == ["window", "window", None, None, None]
    windows = np.stack([x_NF[i : i + 3] for i in range(3)])
    assert [np.float32(each["score"]) for each in found[2:]] == list(serving.scorer.scores(windows)[:, 0])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "exactly one of symbol, features and rows"),
        ({"symbol": "ACME", "rows": [[1, 2]]}, "exactly one of symbol, features and rows"),
        ({"symbol": ""}, "at least 1 character"),
        ({"rows": []}, "at least 1 item"),
        ({"rows": [[0.0, 0.0]] * 1025}, "at most 1024 items"),
        ({"rows": [[0.0, 0.0], [1.0]]}, "rows/1 has 1 values and needs 2"),
        ({"rows": [["sesame", 1.0]]}, "valid number"),
        ({"features": {"return_1s": 1.0}}, "did you mean"),
        ({"features": {}}, "features are missing"),
        ({"features": {"return:1s": 1e300}}, "less than or equal"),
        ({"symbol": "ACME", "horizon": "1s"}, "Extra inputs"),
    ],
)
async def test_a_question_that_makes_no_sense_is_told_why(client, serving_of, body, words):
    await serving_of(client)

    answer = await ask(client, pipeline="demo", **body)

    assert answer.status_code == 422
    assert words in answer.text
    assert "sesame" not in answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_json_does_not_have_are_refused(client, serving_of, number):
    await serving_of(client)

    content = f'{{"pipeline": "demo", "rows": [[{number}, 1]]}}'
    answer = await client.post("/v1/predictions", content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422


async def test_values_of_one_row_are_too_few_for_a_model_of_windows(client, serving_of):
    serving = await serving_of(client, "windows")

    answer = await ask(client, pipeline="windows", features=dict.fromkeys(serving.scorer.contract.features, 0.0))

    assert answer.status_code == 422
    assert "3 rows; send `rows`" in answer.json()["detail"]


async def test_an_unknown_pipeline_and_an_unknown_symbol_are_not_found(client, serving_of):
    await serving_of(client)
    await give_rows(client, "demo", rows_of(1))

    pipeline, symbol = (
        await ask(client, pipeline="dmeo", symbol="ACME"),
        await ask(client, pipeline="demo", symbol="NO"),
    )

    assert (pipeline.status_code, pipeline.json()["code"]) == (404, "pipeline_not_found")
    assert "did you mean 'demo'" in pipeline.json()["detail"]
    assert (symbol.status_code, symbol.json()["code"]) == (404, "symbol_not_found")


async def test_without_a_model_or_without_kafka_the_answer_is_to_try_later(client, serving_of):
    await serving_of(client)

    no_model = await ask(client, pipeline="untrained", symbol="ACME")
    no_kafka = await ask(client, pipeline="demo", symbol="ACME")

    assert (no_model.status_code, no_model.json()["code"]) == (503, "not_serving")
    assert (no_kafka.status_code, no_kafka.json()["code"]) == (503, "kafka_unavailable")
    assert "retry-after" in no_model.headers
    assert "retry-after" in no_kafka.headers


async def test_a_new_champion_answers_without_a_restart(client, serving_of):
    await serving_of(client)
    first = (await ask(client, pipeline="demo", rows=[[0.3, 0.4]])).json()["predictions"][0]
    assert (await client.post("/v1/models/demo/champion", json={"version": 2})).status_code == 200
    await serving_of(client)
    second = (await ask(client, pipeline="demo", rows=[[0.3, 0.4]])).json()["predictions"][0]

    assert (first["version"], second["version"]) == (1, 2)
    assert first["score"] != second["score"]


async def test_served_predictions_are_counted(client, serving_of):
    await serving_of(client, "windows")
    await ask(client, pipeline="windows", rows=[[0.0, 0.0]] * 3)

    text = (await client.get("/metrics")).text

    assert 'tickwise_http_predictions_total{pipeline="windows",status="ok"} 1.0' in text
    assert 'tickwise_http_predictions_total{pipeline="windows",status="abstained"} 2.0' in text
    assert 'tickwise_http_model_version{pipeline="windows"} 1.0' in text
