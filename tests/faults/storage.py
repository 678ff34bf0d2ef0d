"""Faults of what keeps things: a full disk under job store and models, ticks that retention deletes unread."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from ml_core.errors import JobStoreUnavailableError
from ml_core.spec import PipelineSpec
from ml_core.types import JobSpec, JobState
from model_ops_manager.jobs.store import Job, JobStore
from model_ops_manager.mlflow_agent import MlflowAgent
from tests.faults.bench import Bench, Result
from tests.faults.scene import PARTS, START_S, Scene
from tests.faults.waiting import FellShortError, until
from tests.integration.worker_lab import WorkerLab

DISK_MB = 48
JOB_S = 180.0


async def disk_full(bench: Bench) -> Result:
    """The disk of job store and models is full: what is asked for fails clearly, the rest stays, and all goes on."""
    with _small_disk(bench.folder / "small") as disk:
        lab = WorkerLab(bench.kafka, os.urandom(4).hex(), disk)
        await lab.create_topic()
        await lab.publish("synthetic:symbols=4,ticks=8000,rate=100,seed=7,edge=3")
        spec = lab.pipeline("disk", **{**PARTS, "gate": {"margin": 0.0}})
        store = JobStore(f"sqlite:///{lab.home / 'jobs.db'}")
        agent = MlflowAgent(f"sqlite:///{lab.home / 'mlflow.db'}", lab.home)
        runner = _runner(lab, bench.folder / "runner.log")
        try:
            await _ended(store, store.submit(JobSpec(pipeline=spec.name), spec), JobState.SUCCEEDED)
            agent.set_champion(spec.name, 1, reason="the only one")
            champion = agent.champion(spec.name)
            said = await _refused(store, spec, disk)
            failed = await _failed_for_space(store, spec, disk)
            if agent.champion(spec.name) != champion:
                raise FellShortError("the champion changed")
            if runner.poll() is not None:
                raise FellShortError(f"the runner ended with {runner.poll()}")
            await _ended(store, store.submit(JobSpec(pipeline=spec.name), spec), JobState.SUCCEEDED)
        finally:
            runner.terminate()
            await asyncio.to_thread(runner.wait, 30)
            store.close()
        for name in ("jobs.db", "mlflow.db"):
            with closing(sqlite3.connect(lab.home / name)) as connection:
                [(found,)] = connection.execute("PRAGMA integrity_check").fetchall()
            if found != "ok":
                raise FellShortError(f"{name} is damaged: {found}")
        return {"refused": said.replace(str(disk), "DISK"), "failed": failed.replace(str(disk), "DISK")}


async def unread_ticks_deleted(bench: Bench) -> Result:
    """Retention deletes ticks before they were read: the worker names them and ends; a new group goes on."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model) as scene:
        scene.start("a")
        async with scene.load():
            await scene.consumes(START_S)
            await scene.terminate("a")
            position = await scene.ends()
            await scene.grows(position)
        ends = await scene.ends()
        doomed = {
            TopicPartition(scene.lab.topic, n): RecordsToDelete(before_offset=end - 10) for n, end in ends.items()
        }
        client = AIOKafkaAdminClient(bootstrap_servers=scene.lab.kafka)
        await client.start()
        try:
            await client.delete_records(doomed)
        finally:
            await client.close()
        scene.start("a")
        code = await asyncio.to_thread(scene.workers.pop("a").wait, 60)
        said = scene.lab.log()
        first = min(end - 11 for end in ends.values()), max(end - 11 for end in ends.values())
        if code != 2 or "were deleted by retention" not in said or not any(f" to {last} of" in said for last in first):
            raise FellShortError(f"ended with {code}: {said[-500:]}")
        scene.start("b", group=f"{scene.spec.name}-2")
        await scene.lab.until(lambda: scene.lab.log().count("partition taken over") == scene.lab.partitions)
        await scene.terminate("b")
        return {"lost": 0, "conflicting": 0, "repeats": 0}


async def _refused(store: JobStore, spec: PipelineSpec, disk: Path) -> str:
    with _filled(disk, leave=0):
        try:
            store.submit(JobSpec(pipeline=spec.name), spec)
        except JobStoreUnavailableError as error:
            said = str(error)
        else:
            raise FellShortError("a job was taken though the disk is full")
        if "full" not in said:
            raise FellShortError(f"no word of a full disk: {said}")
        if not store.list():
            raise FellShortError("earlier jobs cannot be read")
    return said[:300]


async def _failed_for_space(store: JobStore, spec: PipelineSpec, disk: Path) -> str:
    with _filled(disk, leave=200_000):
        job = store.submit(JobSpec(pipeline=spec.name), spec)
        ended = await _ended(store, job, JobState.FAILED)
    return (ended.error or "")[:300]


async def _ended(store: JobStore, job: Job, state: JobState) -> Job:
    await until(lambda: store.get(job.id).state.is_final, JOB_S, f"the job has not ended in {JOB_S:.0f} s")
    now = store.get(job.id)
    if now.state is not state:
        raise FellShortError(f"the job {now.state} instead of {state}: {now.error}")
    return now


def _runner(lab: WorkerLab, log_file: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TICKWISE_KAFKA": lab.kafka, "TICKWISE_HOME": str(lab.home)}
    with log_file.open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "api.cli", "runner"], env=environment, stdout=log, stderr=log)


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tickwise-faults", place], capture_output=True, check=False
    )
    if mounted.returncode:
        raise FellShortError(f"not run: a small disk cannot be mounted here ({mounted.stderr.decode().strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def _filled(disk: Path, *, leave: int) -> Iterator[None]:
    about = os.statvfs(disk)
    filler = disk / "filler"
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(about.f_bavail * about.f_frsize - leave, 1))
        yield
    finally:
        filler.unlink()
