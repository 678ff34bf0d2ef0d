"""What others get wrong, on a real Kafka: requests that are none, a model store that is away, a busy port."""

import json
import socket

import pytest
from aiokafka import AIOKafkaProducer

from data_io.topics import dead_letters, job_requests
from ml_core.errors import ModelStoreUnavailableError
from ml_core.types import JobSpec, JobState
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.jobs.works.train import Train
from model_ops_manager.mlflow_agent import MlflowAgent
from tests.integration.worker_lab import stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def nobody():
    """An address that is held and where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


async def test_job_requests_that_are_none_become_dead_letters_and_the_next_one_is_a_job(lab, unique) -> None:
    spec = lab.pipeline("asked")
    process = lab.start(spec)
    await lab.until(lambda: "partition taken over" in lab.log())
    key = unique.encode()  # other tests' workers read this topic too
    bad = {
        b"": "bad_request",
        b'{"pipeline":"x': "bad_request",
        b"\xff\xfe": "bad_request",
        b"[1]": "bad_request",
        b"[" * 100_000: "bad_request",
        b'{"pipeline":"x","kind":"bacth"}': "bad_request",
        b'{"pipeline":"x","ranges":[{"partition":0,"start":-1,"end":5}]}': "bad_request",
        b'{"pipeline":"../x"}': "bad_request",
        b'{"pipeline":"unknown"}': "NotFoundError",
    }
    good = json.dumps({"pipeline": spec.name, "seed": 7}).encode()
    producer = AIOKafkaProducer(bootstrap_servers=lab.kafka)
    await producer.start()
    try:
        for value in (*bad, good):
            await producer.send_and_wait(job_requests.NAME, value, key=key)
    finally:
        await producer.stop()

    async def letters():
        found = [r async for r in lab.records(dead_letters.name(job_requests.NAME), 0) if r.key == key]
        return found if len(found) >= len(bad) else None

    found = await lab.until(letters)
    store = JobStore(f"sqlite:///{lab.home / 'jobs.db'}")
    try:
        (job,) = await lab.until(store.list)
    finally:
        store.close()

    assert {letter.value: dict(letter.headers)["tickwise.dlq.reason"].decode() for letter in found} == bad
    assert (job.spec.pipeline, job.spec.seed, job.spec.trigger) == (spec.name, 7, "request")
    assert stop(process) == 0


async def test_without_its_model_store_a_worker_makes_rows_all_the_same(lab, nobody) -> None:
    spec = lab.pipeline("alone")

    process = lab.start(spec, mlflow_tracking_uri=nobody)
    count = await lab.publish("synthetic:symbols=3,ticks=2000,rate=500,seed=3")
    live = await lab.until_rows(spec, count)

    assert live == await lab.expected_rows(spec)
    assert stop(process) == 0


async def test_a_worker_whose_health_port_is_taken_ends_at_once_and_names_it(lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        process = lab.start(lab.pipeline("busy"), worker_port=str(port))
        await lab.until(lambda: process.poll() is not None)

    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in lab.log()


async def test_a_job_without_its_model_store_fails_with_its_address(lab, nobody) -> None:
    spec = lab.pipeline("nowhere", label={"horizons": ["1s"]}, train={"epochs": 1, "min_rows": 100})
    await lab.publish("synthetic:symbols=3,ticks=4000,rate=100,seed=3")
    settings = RunnerSettings.read(kafka=lab.kafka, home=lab.home, mlflow_tracking_uri=nobody)
    store = JobStore(settings.job_store_url)
    try:
        store.submit(JobSpec(pipeline=spec.name), spec)
        job = store.lease("test", 60)

        with pytest.raises(ModelStoreUnavailableError, match=nobody):
            Train(job, store, MlflowAgent(nobody, lab.home), settings).run(lambda: None)

        assert store.get(job.id).state is JobState.RUNNING  # its process writes the end
    finally:
        store.close()
