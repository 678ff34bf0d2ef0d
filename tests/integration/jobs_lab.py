"""Runners on a real Kafka, with a job store and a model store of their own."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics.admin import ensure_topics
from data_io.topics.ticks import topic_spec
from ml_core.model.fitted import FittedModel
from ml_core.spec import parse
from ml_core.types import JobSpec
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import MlflowAgent

TICKS = 24_000
SOURCE = f"synthetic:symbols=4,ticks={TICKS},rate=100,seed=7,edge=3"
WAIT_S = 120.0
TRAIN = {"epochs": 3, "min_rows": 500}
PIPELINE = {
    "features": {"use": ["return:1s", "queue_imbalance", "queue_imbalance_mean:1s"]},
    "label": {"horizons": ["1s"]},
    "train": TRAIN,
}


class Made(NamedTuple):
    """What equal trainings have in common."""

    weights_hash: str
    dataset_hash: str
    metrics: dict[str, float]

    @classmethod
    def of(cls, model: FittedModel) -> "Made":
        parts = b"".join(name.encode() + model.weights[name].tobytes() for name in sorted(model.weights))
        return cls(hashlib.sha256(parts).hexdigest(), model.contract.dataset_hash, model.contract.metrics)


def publish_ticks(kafka: str) -> str:
    """Return a new topic of two partitions with ``TICKS`` ticks."""
    topic = f"ticks-{os.urandom(4).hex()}"

    async def fill() -> None:
        await ensure_topics(kafka, [topic_spec(topic, 2)])
        await publish(open_source(SOURCE), bootstrap=kafka, topic=topic)

    asyncio.run(fill())
    return topic


class Lab:
    """Runners that share a topic of ticks, a job store and a model store."""

    def __init__(self, kafka: str, topic: str, folder: Path, agent: MlflowAgent) -> None:
        self.kafka, self.topic, self.folder = kafka, topic, folder
        self.home = folder / "home"
        self.store = JobStore(f"sqlite:///{self.home / 'jobs.db'}")
        self.agent = agent
        self.runners: list[subprocess.Popen[bytes]] = []

    def pipeline(self, name: str, **parts):
        return parse({**PIPELINE, "name": name, "source": {"topic": self.topic}, **parts})

    def start_runner(self, **settings: object) -> subprocess.Popen[bytes]:
        given = {"kafka": self.kafka, "home": self.home, "model_cards": False, **settings}
        environment = {**os.environ, **{f"TICKWISE_{key.upper()}": str(value) for key, value in given.items()}}
        with self.log_file.open("ab") as log:
            runner = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "runner"], env=environment, stdout=log, stderr=log
            )
        self.runners.append(runner)
        return runner

    @property
    def log_file(self) -> Path:
        return self.folder / "runner.log"

    def logged(self, action: str) -> list[dict]:
        lines = [line for line in self.log_file.read_text().splitlines() if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if entry.get("action") == action]

    def submit(self, spec, **job: object):
        return self.store.submit(JobSpec(pipeline=spec.name, **job), spec)

    def until(self, condition, timeout_s: float = WAIT_S):
        deadline = time.monotonic() + timeout_s
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s:\n{self.log_file.read_text()[-3000:]}"
            time.sleep(0.02)
        return answer

    def until_final(self, job, timeout_s: float = WAIT_S):
        return self.until(lambda: (now := self.store.get(job.id)).state.is_final and now, timeout_s)

    def stage_of(self, job) -> str | None:
        return (self.store.get(job.id).progress or {}).get("stage")

    def until_training(self, job):
        return self.until(lambda: ((now := self.store.get(job.id)).progress or {}).get("epoch", 0) > 0 and now)

    def pid_of(self, job) -> int:
        return self.until(lambda: [e["pid"] for e in self.logged("start-job") if e["job"] == job.id])[-1]

    def made_by(self, job) -> Made:
        """Return what is the same of the models of equal trainings, of the only version that ``job`` has registered."""
        (number,) = (
            each.version for each in self.agent.versions(job.spec.pipeline) if each.tags["tickwise.job"] == job.id
        )
        return Made.of(self.agent.load_fitted(self.agent.version(job.spec.pipeline, number)))

    def run_states(self, pipeline: str) -> list[str]:
        """Return the states of the runs of a pipeline in the model store, that of its newest version first."""
        client = self.agent.client()
        experiment = client.get_experiment_by_name(pipeline)
        runs = client.search_runs([experiment.experiment_id])
        newest = self.agent.version(pipeline, self.agent.versions(pipeline)[0].version).run_id
        return [run.info.status for run in sorted(runs, key=lambda run: run.info.run_id != newest)]

    def close(self) -> None:
        for runner in self.runners:
            if runner.poll() is None:
                runner.send_signal(signal.SIGTERM)
        for runner in self.runners:
            try:
                runner.wait(30)
            except subprocess.TimeoutExpired:
                runner.kill()
                runner.wait()
        self.store.close()
