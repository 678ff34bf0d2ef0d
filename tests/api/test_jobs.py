"""Jobs over HTTP on a real store; the test plays the runner."""

import asyncio
import json

import pytest

from api.job_events import job_events
from api.routers.jobs import JobOut
from ml_core.errors import JobStoreUnavailableError
from ml_core.types import JobState


async def submit(client, **body):
    answer = await client.post("/v1/jobs", json={"pipeline": "demo", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def events_of(text):
    """Return (event, id, data) of each event of a stream, and the comments."""
    events, comments = [], []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        comments += [line for line in block.split("\n") if line.startswith(":")]
        if fields:
            events.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return events, comments


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is set by code that knows no event
            await asyncio.sleep(0.005)


async def test_a_submitted_job_is_accepted_and_can_be_found_where_the_answer_says(client):
    answer = await client.post("/v1/jobs", json={"pipeline": "demo", "kind": "incremental", "seed": 7, "priority": 5})

    assert answer.status_code == 202
    assert int(answer.headers["retry-after"]) > 0
    job = (await client.get(answer.headers["location"])).json()
    assert job == answer.json()
    found = {key: job[key] for key in ("pipeline", "kind", "trigger", "seed", "priority", "state", "attempt", "error")}
    assert found == {
        "pipeline": "demo",
        "kind": "incremental",
        "trigger": "api",
        "seed": 7,
        "priority": 5,
        "state": "queued",
        "attempt": 0,
        "error": None,
    }
    assert client.parts.jobs.get(job["id"]).pipeline["name"] == "demo"
    assert job["created_at"].endswith("Z")


async def test_a_job_that_predicts_is_kept_as_it_was_asked_for(client):
    asked = {"to": "past.parquet", "source": None, "since": "2026-11-29T10:00:00Z", "until": None, "version": 3}

    job = await submit(client, kind="predict", predict=asked)

    assert (job["kind"], job["predict"]) == ("predict", asked)
    assert client.parts.jobs.get(job["id"]).spec.predict.version == 3


async def test_what_a_runner_writes_is_what_a_caller_reads(client):
    job = await submit(client)
    leased = client.parts.jobs.lease("runner", 30)
    client.parts.jobs.progress(leased, stage="train", epoch=3)
    running = (await client.get(f"/v1/jobs/{job['id']}")).json()
    client.parts.jobs.finish(leased, JobState.SUCCEEDED, result={"version": 1})
    done = (await client.get(f"/v1/jobs/{job['id']}")).json()

    assert (running["state"], running["attempt"], running["progress"]) == ("running", 1, {"stage": "train", "epoch": 3})
    assert (done["state"], done["result"]) == ("succeeded", {"version": 1})
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


async def test_a_key_gives_the_same_job_again_and_refuses_another_question(client):
    headers = {"Idempotency-Key": "k-1"}
    first = await client.post("/v1/jobs", json={"pipeline": "demo"}, headers=headers)
    again = await client.post("/v1/jobs", json={"pipeline": "demo"}, headers=headers)
    other = await client.post("/v1/jobs", json={"pipeline": "demo", "seed": 1}, headers=headers)

    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"pipeline": "dmeo"}, 404, "did you mean 'demo'"),
        ({"kind": "bacth"}, 422, "#/kind"),
        ({"knid": "batch"}, 422, "#/knid"),
        ({"trigger": "schedule"}, 422, "trigger is 'api'"),
        ({"seed": -1}, 422, "#/seed"),
        ({"priority": 11}, 422, "#/priority"),
        ({"ranges": []}, 422, "holds no tick"),
        ({"ranges": [{"partition": 0, "start": 5, "end": 5}]}, 422, "holds no tick"),
        ({"ranges": [{"partition": 0, "start": 0, "end": 5}, {"partition": 0, "start": 5, "end": 9}]}, 422, "twice"),
        ({"ranges": [{"partition": -1, "start": 0, "end": 5}]}, 422, "#/ranges/0/partition"),
        ({"kind": "tune"}, 422, "declares no space to search"),
        ({"kind": "predict"}, 422, "'predict' is there for a job of kind 'predict', and for no other"),
        ({"predict": {"to": "past.parquet"}}, 422, "'predict' is there for a job of kind 'predict'"),
        ({"kind": "predict", "predict": {}}, 422, "#/predict/to"),
        ({"kind": "predict", "predict": {"to": "a.parquet", "form": "b"}}, 422, "#/predict/form"),
        ({"kind": "predict", "predict": {"to": "../a.parquet"}}, 422, "#/predict/to"),
        ({"kind": "predict", "predict": {"to": "/a.parquet"}}, 422, "#/predict/to"),
        ({"kind": "predict", "predict": {"to": ".a.parquet"}}, 422, "#/predict/to"),
        ({"kind": "predict", "predict": {"to": "topic:"}}, 422, "#/predict/to"),
        ({"kind": "predict", "predict": {"to": "a.parquet", "source": "../b"}}, 422, "#/predict/source"),
        ({"kind": "predict", "predict": {"to": "a.parquet", "since": "2026-11-29T10:00"}}, 422, "#/predict/since"),
        ({"kind": "predict", "params": {"hidden": [8]}, "predict": {"to": "a.parquet"}}, 422, "params are for jobs"),
    ],
)
async def test_a_job_that_cannot_run_is_refused_with_the_reason(client, body, status, words):
    answer = await client.post("/v1/jobs", json={"pipeline": "demo", **body})

    assert answer.status_code == status
    assert words in answer.text
    assert (await client.get("/v1/jobs")).json()["jobs"] == []


async def test_pages_hold_every_job_once_newest_first(client):
    ids = [(await submit(client, seed=seed))["id"] for seed in range(5)]

    seen, cursor, pages = [], None, 0
    while True:
        answer = await client.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [job["id"] for job in answer.json()["jobs"]]
        pages, cursor = pages + 1, answer.json()["next"]
        if cursor is None:
            assert "link" not in answer.headers
            break
        assert answer.headers["link"] == f'</v1/jobs?limit=2&cursor={cursor}>; rel="next"'

    assert (seen, pages) == (ids[::-1], 3)


async def test_jobs_are_listed_by_state(client):
    first, second = await submit(client), await submit(client, seed=1)
    client.parts.jobs.lease("runner", 30)

    listed = {
        state: [job["id"] for job in (await client.get("/v1/jobs", params={"state": state})).json()["jobs"]]
        for state in ("queued", "running", "failed")
    }

    assert listed == {"queued": [second["id"]], "running": [first["id"]], "failed": []}


async def test_cancelling_twice_is_cancelling_once_and_a_finished_job_stays(client):
    waiting, done = await submit(client), await submit(client, seed=1)
    once = await client.post(f"/v1/jobs/{waiting['id']}:cancel")
    twice = await client.post(f"/v1/jobs/{waiting['id']}:cancel")
    client.parts.jobs.finish(client.parts.jobs.lease("runner", 30), JobState.SUCCEEDED, result={})
    late = await client.post(f"/v1/jobs/{done['id']}:cancel")

    assert [once.status_code, twice.status_code] == [202, 202]
    assert once.json() == twice.json()
    assert once.json()["state"] == "cancelled"
    assert (late.status_code, late.json()["code"]) == (409, "job_state")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ":cancel"), ("GET", "/events")])
async def test_an_unknown_job_is_not_found_at_once(client, method, path):
    answer = await client.request(method, f"/v1/jobs/train-nothing{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


async def test_a_watcher_sees_each_state_once_and_the_stream_ends_with_the_job(client, monkeypatch):
    job, store = await submit(client), client.parts.jobs
    watching = asyncio.create_task(client.get(f"/v1/jobs/{job['id']}/events"))
    await until(lambda: client.parts.open_streams == 1)
    looks, get = [], store.get
    monkeypatch.setattr(store, "get", lambda job_id: looks.append(job_id) or get(job_id))
    await until(lambda: len(looks) > 3)  # without a change: no event may come of them
    leased = store.lease("runner", 30)
    store.progress(leased, epoch=1)
    store.finish(leased, JobState.FAILED, error="no ticks")
    answer = await watching

    assert answer.headers["content-type"].startswith("text/event-stream")
    events, _ = events_of(answer.text)
    states = [data["state"] for _, _, data in events]
    assert states == sorted(set(states), key=states.index)
    assert states[0] == "queued"
    assert [kind for kind, _, _ in events] == ["progress"] * (len(events) - 1) + ["done"]
    assert (events[-1][2]["state"], events[-1][2]["error"]) == ("failed", "no ticks")
    assert client.parts.open_streams == 0


async def test_a_watcher_that_comes_back_gets_the_newest_state_unless_it_has_it(client):
    job = await submit(client)
    client.parts.jobs.finish(client.parts.jobs.lease("runner", 30), JobState.SUCCEEDED, result={})
    path = f"/v1/jobs/{job['id']}/events"

    first, _ = events_of((await client.get(path, headers={"Last-Event-ID": "an-older-one"})).text)
    again = await client.get(path, headers={"Last-Event-ID": first[-1][1]})

    assert [kind for kind, _, _ in first] == ["done"]
    assert (again.status_code, again.content) == (204, b"")


async def test_silence_is_filled_with_comments(make_client):
    async with make_client(heartbeat_s=0.02) as client:
        job = client.parts.jobs.get((await submit(client))["id"])
        answer = job_events(job, client.parts, None, lambda each: JobOut.of(each).model_dump_json())
        # read piece by piece, because this transport hands over an answer when it has ended
        pieces, text = answer.body_iterator, ""
        async with asyncio.timeout(10):
            while text.count(": ping") < 2:
                text += (await anext(pieces)).decode()
        client.parts.jobs.request_cancel(job.id)
        text += "".join([piece.decode() async for piece in pieces])
        events, comments = events_of(text)

    assert [data["state"] for _, _, data in events] == ["queued", "cancelled"]
    assert len(comments) >= 2


async def test_streams_are_bounded_and_a_place_is_given_back(make_client):
    async with make_client(event_streams=1) as client:
        job = await submit(client)
        path = f"/v1/jobs/{job['id']}/events"
        watching = asyncio.create_task(client.get(path))
        await until(lambda: client.parts.open_streams == 1)
        refused = await client.get(path)
        client.parts.jobs.request_cancel(job["id"])
        await watching
        after = await client.get(path)

    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "busy", "5")
    assert after.status_code == 200


async def test_streams_end_when_the_server_stops(client):
    job = await submit(client)
    watching = asyncio.create_task(client.get(f"/v1/jobs/{job['id']}/events"))
    await until(lambda: client.parts.open_streams == 1)

    client.parts.stopping = True

    assert [kind for kind, _, _ in events_of((await watching).text)[0]] == ["progress"]


async def test_a_store_that_is_away_is_told_and_watched_jobs_wait_for_it(client, monkeypatch):
    job = await submit(client)
    watching = asyncio.create_task(client.get(f"/v1/jobs/{job['id']}/events"))
    await until(lambda: client.parts.open_streams == 1)
    looks = 0

    def away(_job_id):
        nonlocal looks
        looks += 1
        raise JobStoreUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(client.parts.jobs, "get", away)
        read = await client.get(f"/v1/jobs/{job['id']}")
        await until(lambda: looks > 3)
    client.parts.jobs.request_cancel(job["id"])
    events, _ = events_of((await watching).text)

    assert (read.status_code, read.json()["code"]) == (503, "job_store_unavailable")
    assert events[-1][2]["state"] == "cancelled"
