"""The worker process: a Faust app, the tick source and the agents, put together."""

import asyncio
import gc
import signal
from collections.abc import Sequence
from typing import Any, cast

import faust
import mode
import structlog
import uvloop
from aiokafka.errors import KafkaError

from data_io.topics import admin, bars, dead_letters, job_requests, label_counts, late_ticks, predictions, rows, ticks
from ml_core import spec as pipeline_file
from ml_core.data_processor.bars import BarPlan
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import KafkaUnavailableError, NotFoundError, SetupError, StuckError
from ml_core.spec import PipelineSpec
from model_ops_manager.champion import must_fit
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.store_process import StoreProcess
from streams import calendar_end, kernels
from streams.agents import learning, retraining, windowing
from streams.health import HealthServer
from streams.last_resort import LastResort
from streams.models import FollowedModels
from streams.parity_sample import ParitySample
from streams.settings import WorkerSettings
from streams.transport import state_log
from streams.transport.batch_channel import batch_channel
from streams.transport.shared import Shared
from streams.transport.state_log import Manifest
from streams.transport.tick_source import Membership, TickSource
from streams.watchdog import Watchdog

log = structlog.get_logger()

# Together below the 10 s after which Docker kills; what is not written by then is repeated by the next owner.
SOURCE_STOP_S, APP_STOP_S, LAST_RESORT_S = 6.5, 2.0, 9.5
BACKGROUND_STOP_S = 1.0  # a parity sample takes its leave of a Kafka that may be gone
STUCK = 3  # exit code, as of any dependency that does not answer


def feature_sets(pipelines: Sequence[PipelineSpec]) -> dict[str, tuple[FeaturePlan, list[PipelineSpec]]]:
    """Group ``pipelines`` by the feature set they read.

    Raises:
        SetupError: Two pipelines give one feature set different features, symbols or bars.
        SpecError: A feature is unknown.
    """
    sets: dict[str, tuple[FeaturePlan, list[PipelineSpec]]] = {}
    for spec in pipelines:
        plan = FeaturePlan.from_spec(spec)
        first, members = sets.setdefault(spec.feature_set, (plan, []))
        bars_differ = bool(members) and BarPlan.from_spec(members[0]) != BarPlan.from_spec(spec)
        if (first.hash, first.symbols) != (plan.hash, plan.symbols) or bars_differ:
            raise SetupError(
                f"pipelines {members[0].name} and {spec.name} share the feature set {spec.feature_set} "
                "and define it differently"
            )
        members.append(spec)
    return sets


def one_source(pipelines: Sequence[PipelineSpec]) -> PipelineSpec:
    """Return a pipeline that stands for all: they read one topic through one map, with one bound of lateness.

    Raises:
        SetupError: There is no pipeline, or they read different topics.
    """
    if not pipelines:
        raise SetupError(
            "no pipeline to run: point TICKWISE_PIPELINES (or --pipelines) to a pipeline file or a folder of them"
        )
    first = pipelines[0]
    for spec in pipelines[1:]:
        if any(getattr(spec.source, part) != getattr(first.source, part) for part in ("topic", "map", "lateness")):
            raise SetupError(
                f"{first.name} reads {first.source.topic} and {spec.name} reads {spec.source.topic} (or through "
                "another map, or with another lateness): run one worker for each, with --pipelines FILE"
            )
    return first


class Worker:
    """One worker: everything it owns, started and stopped in order."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Read the pipelines; nothing is contacted yet.

        Raises:
            SpecError, SetupError: They, or they and ``settings``, do not go together.
        """
        self.settings = settings
        self.pipelines = list(pipeline_file.load_all(settings.pipelines).values())
        source = one_source(self.pipelines).source
        self.topic, self.field_map = source.topic, source.map
        self.group = settings.group or f"tickwise-{self.topic}"
        self.sets = feature_sets(self.pipelines)
        self.calendars = {spec.source.calendar for spec in self.pipelines}
        calendar_end.watch(self.calendars)
        barred = [spec.name for spec in self.pipelines if spec.bars is not None]
        if barred and settings.shed != "keep_all":
            raise SetupError(f"bars are made of every tick: {barred[0]} has bars, so TICKWISE_SHED must be keep_all")
        self.last_resort = LastResort(LAST_RESORT_S)
        self._has_begun = False

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            SetupError: Kafka, the checkpoint and the pipelines do not fit together.
            TickwiseError: A partition could not be processed after several tries.
        """
        stop, running = asyncio.Event(), cast("asyncio.Task[None]", asyncio.current_task())

        def ask_to_stop() -> None:
            self.last_resort.arm(0)
            stop.set()
            if not self._has_begun:
                running.cancel()  # nothing is held yet

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ask_to_stop)
        log.info("worker starts", action="start", group=self.group, topic=self.topic)
        with StoreProcess(self.settings.tracking_uri, self.settings.home) as model_store:
            try:
                await self._run(model_store, stop)
            except asyncio.CancelledError:
                if not stop.is_set():
                    raise

    async def _run(self, model_store: StoreProcess, stop: asyncio.Event) -> None:
        checks = {
            spec.name: must_fit(plan.hash, spec.features.window)
            for plan, members in self.sets.values()
            for spec in members
        }
        models = FollowedModels(model_store, checks, self.settings.champion_poll_s)
        # First of all, because MLflow takes seconds to start; closing the store ends it.
        first_look = asyncio.create_task(models.look(), name="first-look")
        info = await self._prepare_topics()
        store = await asyncio.to_thread(JobStore, self.settings.job_store_url)
        specs = {spec.name: spec for spec in self.pipelines}
        trigger = retraining.Trigger(store, specs)

        app = self._app()
        counts = app.topic(label_counts.NAME, key_serializer="raw", value_serializer="raw")

        async def report_labelled(partition: int, manifest: Manifest) -> None:
            for name, labelled in manifest.labelled.items():
                key, value = label_counts.encode(label_counts.LabelCount(name, manifest.topic_id, partition, labelled))
                await counts.send(key=key, value=value)

        shared = Shared(
            bootstrap=self.settings.kafka,
            group=self.group,
            topic=self.topic,
            topic_id=info.topic_id,
            partitions=info.partitions,
            sets=self.sets,
            models=models,
            on_checkpoint=report_labelled,
            checkpoint_s=self.settings.checkpoint_interval_s,
            exactly_once=self.settings.delivery == "exactly_once",
            linger_s=self.settings.linger_ms / 1000,
            shed_lag=self.settings.shed_lag if self.settings.shed == "skip_to_latest" else None,
        )
        channel = batch_channel(app)
        membership = Membership(self.settings.instance, session_timeout_ms=int(self.settings.session_timeout_s * 1000))
        source = TickSource(shared, channel, membership)
        windowing.attach(app, channel, ticks.TickDecoder(self.field_map))
        learning.attach(app, trigger)
        retraining.attach(app, trigger, self._has_run)
        await asyncio.gather(asyncio.to_thread(kernels.load), first_look)
        # What was imported stays: without this every full collection walks it, and scoring stands still for 0.2 s.
        gc.collect()
        gc.freeze()
        background = [asyncio.create_task(models.run(), name="champions")]
        background += [
            asyncio.create_task(
                retraining.run_schedule(trigger, spec.name, spec.retrain.every_ns), name=f"schedule-{spec.name}"
            )
            for spec in self.pipelines
            if spec.retrain.every_ns
        ]
        if self.settings.parity_s:
            sample = ParitySample(
                self.settings.kafka,
                lambda: tuple(source.partitions.values()),
                every_s=self.settings.parity_s,
                checkpoint_s=shared.checkpoint_s,
            )
            background.append(asyncio.create_task(sample.run(), name="parity-sample"))
        loop = asyncio.get_running_loop()

        def give_up(why: str) -> None:
            log.error("the worker is stuck and ends", action="watch", error=why)
            self.last_resort.arm(STUCK)
            loop.call_soon_threadsafe(source.give_up, StuckError(why))

        watchdog = Watchdog(
            work=source.work,
            limit_s=self.settings.stuck_exit_s,
            on_stuck=give_up,
        )
        self._has_begun = True
        with HealthServer(self.settings, source, watchdog, lambda: calendar_end.notes(self.calendars)):
            try:
                await self._start(app, source)
                log.info("worker started", action="start", group=self.group, topic=self.topic, pipelines=list(specs))
                with watchdog:
                    await self._wait(stop, source, app, background)
            finally:
                self.last_resort.arm(1)
                for task in background:
                    task.cancel()
                await asyncio.wait(background, timeout=BACKGROUND_STOP_S)
                await self._stop(source, app)
                await asyncio.to_thread(store.close)
        if source.fatal.done():
            raise source.fatal.result()

    async def _start(self, *parts: mode.Service) -> None:
        for part in parts:
            try:
                await part.start()
            except (TimeoutError, KafkaError) as error:
                raise KafkaUnavailableError(f"{type(part).__name__} could not start: {error!r}") from error

    async def _wait(
        self, stop: asyncio.Event, source: TickSource, app: faust.App, background: Sequence[asyncio.Task[None]]
    ) -> None:
        """Wait for the signal to stop; raise what ended a part that should have gone on."""
        stopped = asyncio.create_task(stop.wait(), name="stop-signal")
        services = [asyncio.create_task(part.wait_until_stopped(), name=type(part).__name__) for part in (source, app)]
        watched: list[asyncio.Future[Any]] = [stopped, source.fatal, *services, *background]
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, *services):
            task.cancel()
        for task in background:
            if task in done:
                task.result()
        for part, task in zip((source, app), services, strict=True):
            if task in done:
                raise KafkaUnavailableError(f"{type(part).__name__} crashed: {part.crash_reason!r}")

    async def _stop(self, source: TickSource, app: faust.App) -> None:
        log.info("worker stops", action="stop")
        for service, timeout_s in ((source, SOURCE_STOP_S), (app, APP_STOP_S)):
            part = type(service).__name__
            stopping = asyncio.create_task(service.stop(), name=f"stop-{part}")
            # Not asyncio.timeout: a service of mode swallows the cancellation while it waits for its children.
            await asyncio.wait([stopping], timeout=timeout_s)
            if not stopping.done():
                stopping.cancel()
                log.warning("a part did not stop in time", action="stop", part=part)
            elif (error := stopping.exception()) is not None:
                log.warning("a part failed as it stopped", action="stop", part=part, error=repr(error))

    async def _has_run(self, pipeline: str) -> bool:
        """Return whether a worker of any group has run ``pipeline``: each makes a topic for its predictions."""
        try:
            await admin.describe(self.settings.kafka, predictions.name(pipeline))
        except NotFoundError:
            return False
        return True

    async def _prepare_topics(self) -> admin.TopicInfo:
        kafka = self.settings.kafka
        try:
            info = await admin.describe(kafka, self.topic)
        except NotFoundError:
            if self.topic != ticks.NAME:
                raise
            await admin.ensure_topics(kafka, [ticks.topic_spec(self.topic, self.settings.partitions)])
            info = await admin.describe(kafka, self.topic)
        # They follow a topic of ticks that was widened; whether their state does, the manifest decides.
        follow = [
            dead_letters.topic_spec(self.topic, info.partitions),
            late_ticks.topic_spec(self.topic, info.partitions),
            state_log.topic_spec(self.group, info.partitions),
            *(rows.topic_spec(name, info.partitions) for name in self.sets),
            *(bars.topic_spec(name, info.partitions) for name, (_, specs) in self.sets.items() if specs[0].bars),
            *(predictions.topic_spec(spec.name, info.partitions) for spec in self.pipelines),
        ]
        own = [job_requests.topic_spec(), dead_letters.topic_spec(job_requests.NAME, 1), label_counts.topic_spec()]
        await admin.ensure_topics(kafka, follow, widen=True)
        await admin.ensure_topics(kafka, own)
        return info

    def _app(self) -> faust.App:
        servers = ";".join(f"kafka://{server.strip()}" for server in self.settings.kafka.split(","))
        return faust.App(
            f"{self.group}-agents",
            broker=servers,
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            datadir=self.settings.home / "faust",
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=self.settings.session_timeout_s,
            broker_heartbeat_interval=self.settings.session_timeout_s / 4,
            loop=asyncio.get_running_loop(),
        )


def run(settings: WorkerSettings) -> None:
    """Run a worker until it is told to stop; raises as ``Worker.run``."""
    worker = Worker(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(worker.run())
    finally:
        worker.last_resort.disarm()
