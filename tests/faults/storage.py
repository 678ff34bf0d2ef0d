"""Faults of what keeps things: a full disk under stores and archive, ticks that retention deletes unread."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from data_io.archive import report
from ml_core.errors import JobStoreUnavailableError
from ml_core.spec import PipelineSpec
from ml_core.types import JobSpec, JobState
from model_ops_manager.jobs.store import Job, JobStore
from model_ops_manager.mlflow_agent import MlflowAgent
from tests.faults.bench import Bench, Result
from tests.faults.scene import PARTS, START_S, Scene
from tests.faults.waiting import FellShortError, until
from tests.integration.archive_lab import in_the_archive, in_the_topic, no_lag
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
        runner = _started(lab, bench.folder / "runner.log", "runner")
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


async def archive_disk_full(bench: Bench) -> Result:
    """The disk of the archive is full for a while: what waits is named, the rest stays, it goes on by itself."""
    with _small_disk(bench.folder / "small") as disk:
        lab = WorkerLab(bench.kafka, os.urandom(4).hex(), disk)
        await lab.create_topic()
        await lab.publish("synthetic:symbols=4,ticks=8000,rate=100,seed=7")
        root, log_file, port = disk / "archive", bench.folder / "archiver.log", _free_port()
        file = bench.folder / "archived.toml"
        file.write_text(f'name = "archived-{lab.unique}"\n[source]\ntopic = "{lab.topic}"\n', encoding="utf-8")
        archiver = _started(
            lab, log_file, "archive", "run", archive=root, archive_port=port, archive_flush_s=0.5, pipelines=file
        )
        try:
            await lab.until(lambda: no_lag(bench.kafka, root, lab.topic))
            before = {each.partition: each.end for each in (await report.status(root, bench.kafka))[0]}
            with _filled(disk, leave=0):
                await lab.publish("synthetic:symbols=4,ticks=60000,rate=100,seed=8")
                said = await lab.until(lambda: _complaint(port, "No space left"), timeout_s=60.0)
                for number, end in before.items():
                    words = f"offsets from {end} on of partition {number} of '{lab.topic}' are not archived"
                    await lab.until(lambda words=words: _complaint(port, words), timeout_s=60.0)
                after = {each.partition: each.end for each in (await report.status(root, bench.kafka))[0]}
                if after != before or archiver.poll() is not None:
                    raise FellShortError(f"{before} became {after} on a full disk, or the archiver ended")
            await lab.until(lambda: no_lag(bench.kafka, root, lab.topic), timeout_s=60.0)
            archiver.terminate()
            if code := await asyncio.to_thread(archiver.wait, 30):
                raise FellShortError(f"the archiver ended with {code}: {log_file.read_text()[-500:]}")
        finally:
            archiver.kill()
        held, there = await in_the_archive(bench.kafka, root, lab.topic), await in_the_topic(bench.kafka, lab.topic)
        if held != there:
            raise FellShortError("the archive is not the topic")
        return {"compared": sum(map(len, held.values())), "said": said.replace(str(disk), "DISK")[:300]}


async def unread_ticks_deleted(bench: Bench) -> Result:
    """Retention deletes ticks before they were read: the worker names all of them and ends; a new group goes on."""
    async with Scene.opened(bench.kafka, bench.folder, bench.model) as scene:
        scene.start("a")
        async with scene.load():
            await scene.consumes(START_S)
            await scene.terminate("a")
            read = await scene.reached()
            await scene.grows(await scene.ends())
            kept = {number: end - 10 for number, end in (await scene.ends()).items()}
            await _delete(scene, kept)
            scene.start("a")
            code = await asyncio.to_thread(scene.workers.pop("a").wait, START_S)
            said = scene.log_of("a")
            named = [
                f"ticks {read[n]} to {kept[n] - 1} of {scene.lab.topic}-{n} were deleted by retention" for n in read
            ]
            if code != 2 or not any(words in said for words in named):
                raise FellShortError(f"ended with {code} and names none of {named}: {said[-500:]}")
            scene.start("b", group=f"{scene.spec.name}-2")
            back_s = await scene.consumes(START_S)
        await scene.caught_up()
        await scene.terminate("b")
        return {"deleted": sum(kept[number] - read[number] for number in read), "back_s": back_s}


async def _delete(scene: Scene, kept: Mapping[int, int]) -> None:
    """Delete the ticks below the offset of each partition in ``kept``."""
    doomed = {
        TopicPartition(scene.lab.topic, number): RecordsToDelete(before_offset=first) for number, first in kept.items()
    }
    client = AIOKafkaAdminClient(bootstrap_servers=scene.lab.kafka)
    await client.start()
    try:
        await client.delete_records(doomed)
    finally:
        await client.close()


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


def _started(lab: WorkerLab, log_file: Path, *words: str, **settings: object) -> subprocess.Popen[bytes]:
    given = {f"TICKWISE_{key.upper()}": str(value) for key, value in settings.items()}
    environment = {**os.environ, "TICKWISE_KAFKA": lab.kafka, "TICKWISE_HOME": str(lab.home), **given}
    with log_file.open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "api.cli", *words], env=environment, stdout=log, stderr=log)


async def _complaint(port: int, words: str) -> str:
    """Return what /readyz complains about where it says ``words``, else nothing."""

    def ask() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return ""
        except urllib.error.HTTPError as error:
            return str(error.read().decode())
        except OSError:
            return ""

    said = await asyncio.to_thread(ask)
    return said if words in said else ""


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
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
