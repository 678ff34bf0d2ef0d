"""The story of the demo: history, a first model, live ticks, a retrained model, a prediction over HTTP."""

import asyncio
import json
import math
import socket
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from rich.console import Console

from api.demo import counting
from api.demo.pacing import Held, Paced
from api.demo.processes import Processes, wait_for
from data_io.data_fetcher.sources import open_source
from data_io.publisher import publish
from data_io.topics import admin, dead_letters, predictions, rows, ticks
from ml_core.errors import NotFoundError, SetupError
from streams.local_kafka import broker

PIPELINE = "demo"
PARTITIONS = 4
HISTORY_SHARE = 0.5  # the synthetic market changes its regime here
RESERVE_SHARE = 0.4  # of the live ticks
JOB_TIMEOUT_S = 120.0
LIVE_S = 40.0  # long enough to retrain and to swap while ticks still flow
MAX_LIVE_RATE = 2000.0
SYNTHETIC = "synthetic:symbols=8,ticks=120000,rate=100,regimes=2,seed=7"
# The edge of the synthetic market shows within seconds; recorded markets are asked for the same.
PIPELINE_FILE = """\
name = "demo"
[features]
window = 1
[label]
kind = "direction"
horizons = ["1s"]
[train]
span = "{span}"
epochs = 12
min_rows = 1000
[retrain]
when = ["rows {rows}"]
cooldown = "5s"
"""


@dataclass
class Api:
    """The HTTP server of the demo."""

    port: int

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the decoded answer; None when the server does not answer or answers with an error."""
        text = self.text(path, method=method, body=body)
        return json.loads(text) if text.startswith(("{", "[")) else text or None

    def text(self, path: str, *, method: str = "GET", body: object = None) -> str:
        """Return the body of the answer; empty when the server does not answer or answers with an error."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10.0) as answer:  # noqa: S310 - as above
                return str(answer.read().decode())
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return ""


class Story:
    """One run of the demo."""

    def __init__(self, source: str | None, console: Console) -> None:
        """Play with ``source`` (default: the synthetic market) and tell it on ``console``."""
        self.text = source or SYNTHETIC
        self.is_recorded = source is not None
        self.console = console
        self.began = time.monotonic()
        self.seen: dict[str, float] = {}  # prediction id -> when it could be read, ms since the epoch

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        self.console.print(f"[dim]{time.monotonic() - self.began:6.1f} s[/dim]  {text}", soft_wrap=True)

    def play(self) -> dict[str, Any]:
        """Run everything and return the summary."""
        held = Held.read(open_source(self.text), self.text)
        total, split = len(held), math.ceil(len(held) * HISTORY_SHARE)
        self.say(f"source: {self.text}: {total:,} ticks, the first {split:,} as history")
        with tempfile.TemporaryDirectory(prefix="tickwise-demo-") as folder, broker() as kafka:
            self.say(f"Kafka is up at {kafka}")
            home = Path(folder)
            # Early enough to see the second model at work, late enough to have learnt the new regime.
            threshold = split + int(0.4 * (total - split))
            span = "3d" if self.is_recorded else "400s"
            (home / "demo.toml").write_text(PIPELINE_FILE.format(rows=threshold, span=span), encoding="utf-8")
            server, worker = free_port(), free_port()
            environment = {
                "TICKWISE_KAFKA": kafka,
                "TICKWISE_HOME": folder,
                "TICKWISE_PIPELINES": str(home / "demo.toml"),
                "TICKWISE_CHECKPOINT_S": "2",
                "TICKWISE_CHAMPION_POLL_S": "0.5",
                "TICKWISE_INSTANCE": "demo",
                "TICKWISE_WORKER_PORT": str(worker),
                "TICKWISE_PORT": str(server),
                "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
            }
            with Processes(home, environment) as processes:
                summary = asyncio.run(self._play(Stage(kafka, processes, Api(server), Api(worker)), *held.split(split)))
            bad = {name: code for name, code in processes.exit_codes.items() if code != 0}
            if bad:
                raise SetupError(
                    f"processes did not stop cleanly: {bad}\n" + "\n".join(processes.tail(name) for name in bad)
                )
            self.say("everything has stopped cleanly")
        return {**summary, "duration_s": round(time.monotonic() - self.began, 1)}

    async def _play(self, stage: "Stage", history: Held, live: Held) -> dict[str, Any]:
        rate = min(MAX_LIVE_RATE, len(live) / LIVE_S)
        await _must_be_empty(stage.kafka)
        await admin.ensure_topics(stage.kafka, [ticks.topic_spec(ticks.NAME, PARTITIONS)])
        for name, word in (("worker", "worker"), ("runner", "runner"), ("server", "serve")):
            stage.processes.start(name, word)
        report = await publish(history, bootstrap=stage.kafka, topic=ticks.NAME)
        self.say(f"published {report.ticks:,} ticks of history ({report.ticks / report.seconds:,.0f} ticks/s)")
        await wait_for("the server", lambda: stage.api.call("GET", "/livez"), stage.processes)
        self.say("worker, runner and server are up")
        job = await asyncio.to_thread(stage.api.call, "POST", "/v1/jobs", {"pipeline": PIPELINE})
        self.say(f"asked for a first model: POST /v1/jobs -> {job['id']}")
        first = await self._follow(stage, job["id"])
        by_hand = stage.champion() is None
        if by_hand:
            # Minutes of a recorded market are too few for the gate; without a champion there is nothing to see.
            version = first["result"]["version"]
            self.say(
                f"the gate promotes nothing without evidence; version {version} is made champion by hand, to show it"
            )
            await asyncio.to_thread(stage.api.call, "POST", f"/v1/models/{PIPELINE}/champion", {"version": version})
        await wait_for("the first model in the worker", lambda: stage.swaps() >= PARTITIONS, stage.processes)
        self.say("the worker scores with the champion, without a restart")
        watcher = asyncio.create_task(self._watch(stage.kafka), name="watch-predictions")
        followers = asyncio.create_task(self._follow_later_jobs(stage, {job["id"]}), name="follow-jobs")
        try:
            self.say(f"publishing the other {len(live):,} ticks at {rate:,.0f} ticks/s")

            def pace(left: int) -> float:
                # On a slow machine the last ticks wait for the second model: it is to be seen at work under load.
                return rate if followers.done() or left > len(live) * RESERVE_SHARE else rate / 10

            await publish(Paced(live.ticks, pace), bootstrap=stage.kafka, topic=ticks.NAME)
            async with asyncio.timeout(JOB_TIMEOUT_S):
                await followers
            return {**await self._sum_up(stage, rate), "first_champion_by_hand": by_hand}
        finally:
            for task in (watcher, followers):
                task.cancel()
            await asyncio.gather(watcher, followers, return_exceptions=True)

    async def _follow(self, stage: "Stage", job_id: str) -> dict[str, Any]:
        """Show the progress of a job until it has ended, and its result."""
        shown = ""

        def look() -> dict[str, Any] | None:
            nonlocal shown
            job = stage.api.call("GET", f"/v1/jobs/{job_id}") or {}
            line = ", ".join(f"{key} {value}" for key, value in (job.get("progress") or {}).items())
            if line and line != shown:
                shown = line
                self.say(f"[dim]{job_id}: {line}[/dim]")
            return job if job.get("state") in ("succeeded", "failed", "cancelled") else None

        job = await wait_for(f"the end of {job_id}", look, stage.processes, timeout_s=JOB_TIMEOUT_S)
        if job["state"] != "succeeded":
            log = stage.processes.tail("runner")
            raise SetupError(f"{job_id} {job['state']}: {job.get('error')}\nthe end of the runner's log:\n{log}")
        result = job["result"]
        self.say(
            f"{job_id} ({job['kind']}, started by {job['trigger']}): "
            f"version {result['version']}, {result['decision']['reason']}"
        )
        return job

    async def _follow_later_jobs(self, stage: "Stage", known: set[str]) -> None:
        """Wait for the job that the new rows start, follow it to its end, and see the worker swap."""

        def later() -> list[str]:
            return [job["id"] for job in stage.jobs() if job["id"] not in known]

        job_id = (await wait_for("a job started by new rows", later, stage.processes, timeout_s=JOB_TIMEOUT_S))[0]
        self.say(f"enough new rows: {job_id} was started by itself")
        before = stage.champion()
        await self._follow(stage, job_id)
        after = stage.champion()
        if after != before:
            self.say(f"champion is now version {after}; the worker swaps while ticks flow")

    async def _watch(self, kafka: str) -> None:
        """Note when each live prediction could be read, and show one every two seconds."""
        consumer = AIOKafkaConsumer(predictions.name(PIPELINE), bootstrap_servers=kafka, auto_offset_reset="latest")
        await consumer.start()
        shown_s = 0.0
        try:
            async for record in consumer:
                now = time.time()
                values = predictions.decode(record.value, record.headers)
                self.seen.update((value["id"], now * 1000) for value in values)
                shown = next((value for value in values if value["status"] == "ok"), None)
                if now - shown_s > 2 and shown is not None:
                    shown_s = now
                    self.say(
                        f"{shown['symbol']:<10} score {shown['score']:+.3f} for {shown['horizon']}  "
                        f"[dim]version {shown['version']}[/dim]"
                    )
        finally:
            await consumer.stop()

    async def _sum_up(self, stage: "Stage", rate: float) -> dict[str, Any]:
        await wait_for("the last tick in the worker", lambda: stage.lag() == 0, stage.processes)
        names = {
            "ticks": ticks.NAME,
            "rejected": dead_letters.name(ticks.NAME),
            "rows": rows.name(PIPELINE),
            "predictions": predictions.name(PIPELINE),
        }
        counts = await counting.count(stage.kafka, **names)
        while counts.rows < counts.ticks - counts.rejected and not stage.lag():
            counts = await counting.count(stage.kafka, **names)
        latencies = sorted(
            self.seen[value_id] - counts.tick_times_ms[place]
            for value_id, place in counts.places.items()
            if value_id in self.seen
        )
        version = stage.champion()
        details = stage.api.call("GET", f"/v1/models/{PIPELINE}") or {"versions": []}
        metrics: dict[str, float] = next((v["metrics"] for v in details["versions"] if v["version"] == version), {})
        return {
            "ticks_published": counts.ticks,
            "ticks_rejected": counts.rejected,
            "feature_rows": counts.rows,
            "predictions": counts.predictions,
            "distinct_prediction_ids": len(counts.places),
            "jobs": [{key: job[key] for key in ("id", "kind", "trigger", "state")} for job in stage.jobs()],
            "model": {"name": PIPELINE, "version": version, "metrics": metrics},
            "model_versions_seen": sorted(counts.versions),
            "tick_to_prediction_ms": {
                "p50": percentile(latencies, 0.5),
                "p99": percentile(latencies, 0.99),
                "rate_ticks_per_s": round(rate),
            },
            "api_matches_stream": await asyncio.to_thread(self._compare, stage, counts),
        }

    def _compare(self, stage: "Stage", counts: counting.Counts) -> bool | None:
        """Ask the server for every symbol and hold its answers against the topic; None without a prediction."""
        same = []
        for symbol, streamed in sorted(counts.last.items()):
            answer = stage.api.call("POST", "/v1/predictions", {"pipeline": PIPELINE, "symbol": symbol})
            if answer is None:
                raise SetupError(f"the server gave no prediction for {symbol}")
            if answer["id"] == streamed["id"] and streamed["version"] == answer["version"]:
                same.append(all(answer[key] == streamed[key] for key in ("score", "ts", "horizon", "status", "reason")))
        self.say(f"asked the server for {len(counts.last)} symbols: {sum(same)} answers equal the stream's")
        return all(same) and bool(same) if counts.last else None


async def _must_be_empty(kafka: str) -> None:
    """Raise where somebody works with ticks on this Kafka: the demo would add to them, and join their workers."""
    try:
        await admin.describe(kafka, ticks.NAME)
    except NotFoundError:
        return
    raise SetupError(f"Kafka at {kafka} has a topic {ticks.NAME} already, and the demo is no guest there: name another")


@dataclass
class Stage:
    """What the story plays on: Kafka, the processes and their HTTP ports."""

    kafka: str
    processes: Processes
    api: Api
    worker: Api

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs, oldest first."""
        return sorted((self.api.call("GET", "/v1/jobs") or {"jobs": []})["jobs"], key=lambda job: job["id"])

    def champion(self) -> int | None:
        """Return the version that holds the alias."""
        return (self.api.call("GET", f"/v1/models/{PIPELINE}") or {}).get("champion")

    def swaps(self) -> float:
        """Return how often partitions of the worker have swapped their models."""
        return sum(self._metric("tickwise_model_swaps_total "))

    def lag(self) -> float:
        """Return how many ticks wait in front of the worker."""
        return sum(self._metric("tickwise_consumer_lag_ticks{"))

    def _metric(self, start: str) -> list[float]:
        return [
            float(line.rsplit(" ", 1)[1])
            for line in self.worker.text("/metrics").splitlines()
            if line.startswith(start)
        ]


def percentile(ordered: list[float], share: float) -> float | None:
    """Return the value below which ``share`` of the ``ordered`` values lie; None for none."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1) if ordered else None


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
