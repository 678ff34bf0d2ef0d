"""The short way and the long way to a prediction give the same answers, alone and in company."""

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.questions import Question
from api.routers.predictions import PredictionRequest
from tests.api.test_access import TOKEN
from tests.api.test_predictions import give_rows, rows_of

SHORT = "application/json"
LONG = "application/json; charset=utf-8"  # the lane takes the plain form alone

VALUES = st.one_of(
    st.none(), st.floats(), st.integers(), st.booleans(), st.text(max_size=2), st.sampled_from([3.4e38, 3.5e38, -1e39])
)
FIELDS = {
    "pipeline": st.one_of(st.text(max_size=70), VALUES),
    "symbol": st.one_of(st.text(max_size=70), VALUES),
    "features": st.one_of(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), VALUES),
    "rows": st.one_of(st.lists(st.lists(VALUES, max_size=3), max_size=3), VALUES),
    "more": VALUES,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS) | VALUES


@given(BODIES, st.booleans())
def test_the_short_way_takes_nothing_that_the_long_way_refuses_and_reads_the_same(body, ascii_only):
    text = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    found = Question.read(text)

    if found is not None:
        asked = PredictionRequest.model_validate(json.loads(text))
        assert Question(**asked.__dict__) == found


@given(st.builds(lambda **fields: fields, pipeline=st.text(max_size=64), rows=st.lists(
    st.lists(st.none() | st.floats(-3.4e38, 3.4e38), max_size=4), min_size=1, max_size=4)))  # fmt: skip
def test_a_plain_question_goes_the_short_way(body):
    assert Question.read(json.dumps(body).encode()) is not None


@pytest.mark.parametrize("count", [1024, 1025])
def test_limits_are_those_of_the_long_way(count):
    rows = {"pipeline": "demo", "rows": [[0.0]] * count}
    try:
        PredictionRequest.model_validate(rows)
    except ValidationError:
        assert Question.read(json.dumps(rows).encode()) is None
    else:
        assert Question.read(json.dumps(rows).encode()) is not None


async def post(client, body, content_type, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post("/v1/predictions", content=content, headers={"Content-Type": content_type, **headers})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"pipeline": "demo", "symbol": "ACME"}, 200),
        ({"pipeline": "demo", "features": {"return:1s": 0.5, "queue_imbalance": None}}, 200),
        ({"pipeline": "demo", "rows": [[1, None], [0.1, -3e38]]}, 200),
        ({"pipeline": "demo", "symbol": "NONE"}, 404),
        ({"pipeline": "dmeo", "symbol": "ACME"}, 404),
        ({"pipeline": "untrained", "symbol": "ACME"}, 503),
        ({"pipeline": "windows", "features": {"return:1s": 0.5}}, 422),
        ({"pipeline": "demo", "features": {"return:1s": 0.5}}, 422),
        ({"pipeline": "demo", "features": {"return:1s": 0.5, "queue_imbalanc": 1}}, 422),
        ({"pipeline": "demo", "rows": [[1, 2], [1, 2, 3]]}, 422),
        ({"pipeline": "demo", "rows": [[1, "2"]]}, 200),  # the long way reads numbers in text
        ({"pipeline": "demo", "rows": [[1, "x"]]}, 422),
        ({"pipeline": "demo"}, 422),
        (b'{"pipeline": "demo", "symbol": "\\ud800"}', 422),
        (b'{"pipeline": "demo"', 422),
        (b"", 422),
    ],
)
async def test_both_ways_give_the_same_answer(client, serving_of, body, status):
    for name in ("demo", "windows"):
        await serving_of(client, name)
    await give_rows(client, "demo", rows_of(3))

    short, long = [await post(client, body, kind, **{"X-Request-ID": "same"}) for kind in (SHORT, LONG)]

    assert (short.status_code, long.status_code) == (status, status)
    found, expected = short.json(), long.json()
    if isinstance(found, dict) and found.get("feature_age_s"):
        assert 0 < found.pop("feature_age_s") < expected.pop("feature_age_s")
    assert found == expected
    assert short.headers["content-type"] == long.headers["content-type"]


async def test_answers_do_not_depend_on_the_questions_beside_them(client, serving_of):
    for name in ("demo", "windows"):
        await serving_of(client, name)
    await give_rows(client, "demo", rows_of(3))
    scorer = client.parts.followers["demo"].current.scorer  # no poll puts another in its place any more
    rng = np.random.default_rng(4)
    questions = [
        question
        for number in range(12)
        for question in (
            {"pipeline": "demo", "features": dict.fromkeys(scorer.contract.features, rng.random())},
            {"pipeline": "demo", "rows": rng.random((number + 1, 2)).tolist()},
            {"pipeline": "windows", "rows": rng.random((number + 1, 2)).tolist()},
            {"pipeline": "demo", "symbol": ("ACME", "NONE")[number % 2]},
        )
    ]
    calls = []
    scores = scorer.scores
    scorer.scores = lambda x_BTF: calls.append(len(x_BTF)) or scores(x_BTF)

    alone = [await post(client, question, SHORT) for question in questions]
    calls_alone, _ = len(calls), calls.clear()
    together = await asyncio.gather(*(post(client, question, SHORT) for question in questions))

    def plain(answer):
        return {k: v for k, v in answer.json().items() if k not in {"request_id", "feature_age_s"}}

    assert [plain(answer) for answer in together] == [plain(answer) for answer in alone]
    assert calls_alone == 30
    assert len(calls) < 10, calls
    assert sum(calls) == 12 + sum(range(13)) + 6


async def test_a_full_queue_is_told_with_a_time_to_come_again(client, serving_of):
    await serving_of(client)
    await client.parts.stop()  # no poll puts another scorer in place
    scorer, batcher = client.parts.followers["demo"].current.scorer, client.parts.batchers["demo"]
    batcher._most_rows = 1
    scores, running, open_gate = scorer.scores, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def held(x_BTF):
        loop.call_soon_threadsafe(running.set)
        asyncio.run_coroutine_threadsafe(open_gate.wait(), loop).result(10)
        return scores(x_BTF)

    scorer.scores = held
    ask = {"pipeline": "demo", "rows": [[0.1, 0.2]]}
    first = asyncio.ensure_future(post(client, ask, SHORT))
    await running.wait()
    second = asyncio.ensure_future(post(client, ask, SHORT))
    async with asyncio.timeout(10):
        while not batcher.waiting_rows:  # noqa: ASYNC110 - what waits is a number
            await asyncio.sleep(0.001)

    refused = await post(client, ask, SHORT)
    open_gate.set()

    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    assert refused.headers["retry-after"] == "5"
    assert refused.headers["content-type"] == "application/problem+json"
    assert [(await each).status_code for each in (first, second)] == [200, 200]


async def test_the_short_way_is_counted_and_limited_like_the_long_one(make_client, serving_of):
    async with make_client(max_body_bytes=1024) as client:
        await serving_of(client)

        async def in_pieces():
            for _ in range(4):
                yield b" " * 512

        large = await post(client, {"pipeline": "demo", "rows": [[0.0, 0.0]] * 400}, SHORT)
        unannounced = await client.post("/v1/predictions", content=in_pieces(), headers={"Content-Type": SHORT})
        fine = await post(client, {"pipeline": "demo", "rows": [[0.0, 0.0]]}, SHORT)
        text = (await client.get("/metrics")).text

    assert [(each.status_code, each.json()["code"]) for each in (large, unannounced)] == [(413, "body_too_large")] * 2
    assert fine.status_code == 200
    assert 'tickwise_http_requests_total{method="POST",route="/v1/predictions",status="200"} 1.0' in text
    assert 'tickwise_http_predictions_total{pipeline="demo",status="ok"} 1.0' in text


@pytest.mark.parametrize(("header", "status"), [(f"Bearer {TOKEN}", 200), (f"Bearer {TOKEN}x", 401), ("", 401)])
async def test_the_short_way_needs_the_token_too(make_client, serving_of, header, status):
    async with make_client(api_token=TOKEN) as client:
        await serving_of(client)

        answer = await post(client, {"pipeline": "demo", "rows": [[0.0, 0.0]]}, SHORT, Authorization=header)

    assert answer.status_code == status


async def test_a_body_in_pieces_is_read_whole(client, serving_of):
    await serving_of(client)

    async def in_pieces():
        yield b'{"pipeline": "demo", '
        yield b'"rows": [[0.5, 0.25]]}'

    pieces = await client.post("/v1/predictions", content=in_pieces(), headers={"Content-Type": SHORT})
    whole = await post(client, {"pipeline": "demo", "rows": [[0.5, 0.25]]}, LONG)

    assert pieces.content == whole.content
