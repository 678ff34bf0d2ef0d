"""One assigned partition: takeover, position, checkpoints and model swaps, with one owner and one order of steps."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import structlog
from aiokafka import TopicPartition

from data_io.topics import bars
from data_io.topics.raw_records import RawFetch
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.windows import Tail
from ml_core.errors import KafkaUnavailableError
from ml_core.spec import PipelineSpec
from model_ops_manager.champion import Serving
from model_ops_manager.shed import Shed
from streams import bar_outputs, metrics
from streams.partition_state import PartitionState
from streams.transport.batch_sender import BatchSender
from streams.transport.outputs import Lanes, Outputs, Transaction
from streams.transport.shared import Shared
from streams.transport.state_log import Blocks, Manifest, StateLog
from streams.transport.tails import Tails
from streams.transport.takeover import restore

log = structlog.get_logger()

# Reporting label counts is no part of a checkpoint: counts are absolute, so the next report repairs a lost one.
REPORT_TIMEOUT_S = 5.0
SILENCE_S = 1.0  # between two looks for bars of silent symbols
CHECKPOINT_S = 3.0  # a dozen answers of Kafka, one behind the other, where each takes a while


class Copied(NamedTuple):
    """What rows and predictions of a pipeline are computed from, as it is between two batches; nobody else has it."""

    position: int  # of the first tick that is not in it
    features: FeatureState
    tail: Tail | None  # of the window of the pipeline, where it is more than a row
    serving: Serving | None  # what scores from then on, unless it is swapped
    owner: PartitionState  # what it is a copy of, to be told from one that has started anew


class Phase(Enum):
    """Where a partition stands; batches are handed out only while it is OPEN."""

    CLAIMING = auto()
    OPEN = auto()
    SWAPPING = auto()
    CLOSING = auto()
    CLOSED = auto()


class Partition:
    """State, outputs and position of one partition between takeover and revocation.

    Any failure means that what Kafka holds is unknown: the object is thrown away and the partition claimed afresh.
    """

    def __init__(
        self, shared: Shared, number: int, sender: BatchSender, on_room: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare; ``open`` does the work. ``on_room`` is called whenever ``takes_batches`` may have become true."""
        self.shared, self.number = shared, number
        self.tp = TopicPartition(shared.topic, number)
        self.phase = Phase.CLAIMING
        self.position = 0
        self.publish_from = 0  # below it, ticks rebuild state, or repeat a tail while another one stays
        self.tails = Tails()
        self.state = PartitionState(shared.sets, {})
        self.serving: dict[str, Serving] = {}
        self.fetched: deque[RawFetch] = deque()  # not handed out yet, in order
        self._log = StateLog(shared.bootstrap, shared.group, self.tp)
        channel = Transaction(self._log) if shared.exactly_once else Lanes(sender, self._log)
        self.outputs = Outputs(channel, number, on_room=on_room)
        self._on_room = on_room
        self._handed_out_s = 0.0
        self._unused: set[bytes] = set()  # keys in the state topic that mean nothing to this state
        self._published_to = self._scored_to = -1  # the last tick of which something, or a prediction, was out
        self._begins: Mapping[str, int] = {}
        self._committed = -1
        self._shed = Shed()
        self._next_checkpoint = 0.0
        self._rows_since = 0
        self._next_silence = 0.0
        self._owes_commit = False  # something is in the transaction that is no output of a tick
        self._task: asyncio.Task[None] | None = None
        self._task_since_s = 0.0
        self._found: Manifest | None = None  # with which it was taken over
        self._copying: tuple[PipelineSpec, FeaturePlan, asyncio.Future[Copied]] | None = None

    async def open(self, first_offset: int) -> None:
        """Claim the partition and restore its last checkpoint; ``first_offset`` is the oldest tick Kafka still has.

        Raises:
            SetupError: The checkpoint and Kafka do not fit together; an operator has to decide.
            DependencyError: Kafka or the model store did not answer. A retry is safe.
        """
        began = time.monotonic()
        # With exactly-once delivery too: an earlier owner may have been set to the default one.
        manifest, blocks = await self._log.claim([TopicPartition(name, self.number) for name in self.shared.outputs])
        await self.outputs.start(list(self.shared.outputs))
        await self._restore(manifest, blocks, first_offset)
        wanted = self._wanted()
        if wanted is not None:
            await self._swap(wanted, *self._snapshot(wanted))
        else:
            # Who adds the counts up may have started too; nobody has to wait for it.
            self._start(self._report(self._manifest(self.serving)), "report")
        # Not all at once: a transaction keeps the broker from everything else for a while.
        spread = (self.number + 1) / self.shared.partitions
        self._next_checkpoint = time.monotonic() + self.shared.checkpoint_s * spread
        self.phase = Phase.OPEN
        metrics.RESTORE_SECONDS.set(time.monotonic() - began)
        log.info(
            "partition taken over",
            action="takeover",
            partition=self.number,
            position=self.position,
            symbols=len(self.state.symbols),
            models={name: serving.version.version for name, serving in self.serving.items()},
            seconds=round(time.monotonic() - began, 3),
        )

    async def _restore(self, manifest: Manifest | None, blocks: Mapping[bytes, bytes], first_offset: int) -> None:
        found = await restore(self.shared, self.number, manifest, blocks, first_offset)
        self.state, self.serving, self.tails = found.state, found.serving, found.tails
        self.position, self._begins, self._shed = found.position, found.manifest.begins, found.manifest.shed
        self._published_to, self._scored_to = self.tails.reach(self.shared.named), self.tails.reach(self.shared.scored)
        self.publish_from = max(found.manifest.position, self.tails.reach(self.tails.stays) + 1)
        self._unused = found.unused
        if found.manifest != manifest:  # what is out tomorrow is measured against it
            await self._log.commit(found.manifest, [(key, None) for key in self._unused])
            self._unused = set()
        self._committed, self._found = found.manifest.position, found.manifest

    @property
    def is_open(self) -> bool:
        """True while batches may be handed out."""
        return self.phase is Phase.OPEN

    @property
    def works(self) -> bool:
        """True between takeover and the end, whether batches may be handed out or not."""
        return self.phase in (Phase.OPEN, Phase.SWAPPING)

    @property
    def committed(self) -> int:
        """The position of the last checkpoint; -1 where there is none."""
        return self._committed

    @property
    def takes_batches(self) -> bool:
        """True while a batch may be handed out and its outputs do not have to wait for long."""
        if self.phase is not Phase.OPEN or not self.outputs.has_room:
            return False
        # Between the end of one transaction and the beginning of the next, nothing can be written to either.
        is_ending = self.shared.exactly_once and self._task is not None and not self._task.done()
        return not is_ending and self.lingers_s <= 0

    @property
    def wants_ticks(self) -> bool:
        """True where more should be fetched: what was, if anything, is about to be handed out."""
        if self.phase not in (Phase.OPEN, Phase.SWAPPING) or self.lingers_s > 0:
            return False
        return not self.fetched or (len(self.fetched) == 1 and self.takes_batches)

    @property
    def unanswered_s(self) -> float:
        """For how long Kafka has owed an answer to an output, or all that a checkpoint has to ask."""
        task, since_s = self._task, self._task_since_s
        asking_s = 0.0 if task is None or task.done() else time.monotonic() - since_s
        return max(self.outputs.waiting_s, asking_s - CHECKPOINT_S)

    @property
    def lingers_s(self) -> float:
        """Seconds until a batch may be handed out for all the linger has to say."""
        return self._handed_out_s + self.shared.linger_s - time.monotonic() if self.shared.linger_s else 0.0

    def advance(self, next_offset: int, rows: int) -> None:
        """Move the position past a processed batch."""
        self._handed_out_s = time.monotonic()
        self.position = next_offset
        self._rows_since += rows
        for name in tuple(self.tails.renumbers):
            if next_offset > self.tails.last(bars.name(name))[0]:
                bar_outputs.renumber(self, name)

    def look_around(self, readable: int = 0) -> bool:
        """Start the skip, checkpoint or model swap that is due, and show silent bars; called between batches.

        Returns:
            Whether everything that waits up to ``readable`` is skipped.

        Raises:
            TickwiseError: The last checkpoint failed.
        """
        self.outputs.go_on()
        if self._task is not None:
            if not self._task.done():
                return False
            task, self._task = self._task, None
            task.result()
        if self.phase is not Phase.OPEN:
            return False
        if self._is_too_late(readable):  # first of all: behind a slow model a checkpoint is always due
            self._skip_to(readable)
            return True
        self._show_silent_bars()
        wanted = self._wanted()
        if wanted is not None:
            self.phase = Phase.SWAPPING
            self._start(self._swap(wanted, *self._snapshot(wanted)), "swap")
        elif self._is_due():
            self._copy()
            self._start(self._commit(*self._snapshot(self.serving)), "checkpoint")
        elif self._found is not None and self._is_transaction_old():
            self._start(self._commit(self._found, []), "checkpoint")
        return False

    def _show_silent_bars(self) -> None:
        """Write provisional bars, which change no state; none while what is out is computed again."""
        now_s = time.monotonic()
        if now_s < self._next_silence or self.position < self.publish_from or not self.outputs.has_room:
            return
        self._next_silence = now_s + SILENCE_S
        if bar_outputs.publish_silent(self, time.time_ns()):
            self._owes_commit = self.shared.exactly_once

    def _is_too_late(self, readable: int) -> bool:
        """Return whether what waits up to ``readable`` is to be skipped.

        Not before the position has passed everything that is out: what has a name keeps its neighbours.
        """
        limit = self.shared.shed_lag
        return (
            limit is not None
            and readable - self.position > limit
            and self.position > self._published_to
            and self.position >= self.publish_from
        )

    def _skip_to(self, offset: int) -> None:
        """Start empty at ``offset``; nothing behind it is handed out before a checkpoint has said so."""
        self.phase = Phase.SWAPPING
        self.fetched.clear()
        shed = self._shed.add(self.position, offset)
        manifest = self._manifest(self.serving).model_copy(update={"position": offset, "shed": shed})
        gone: Blocks = [(key, None) for key in self.state.keys() | self._unused]
        self.state, self._unused, self._rows_since = self.state.emptied(), set(), 0
        self._start(self._skip(manifest, gone), "shed")

    async def _skip(self, manifest: Manifest, gone: Blocks) -> None:
        await self._commit(manifest, gone)
        start, self.position, self._shed = self.position, manifest.position, manifest.shed
        if self.phase is Phase.SWAPPING:
            self.phase = Phase.OPEN
        metrics.SHED_TICKS.labels(self.tp.topic, self.number).inc(self.position - start)
        log.warning(
            "a partition was too far behind: its ticks are skipped",
            action="shed",
            partition=self.number,
            first=start,
            last=self.position - 1,
            skipped=self.position - start,
            skipped_in_all=self._shed.total,
        )

    def copy_bytes(self, spec: PipelineSpec) -> int:
        """Return how many bytes a copy for ``spec`` takes."""
        state = self.state.sets[spec.feature_set]
        tail = state.tails.get(spec.features.window)
        return state.features.nbytes + (tail.nbytes if tail else 0)

    def copy_at_checkpoint(self, spec: PipelineSpec, plan: FeaturePlan) -> "asyncio.Future[Copied]":
        """Return what ends with the next checkpoint, with a copy of the state as it is there; who waits bounds it.

        The copy computes features by ``plan``, which nobody else uses.
        """
        self._copying = spec, plan, asyncio.get_running_loop().create_future()
        return self._copying[-1]

    def _copy(self) -> None:
        copying, self._copying = self._copying, None
        if copying is None or copying[-1].done():
            return
        spec, plan, wanted = copying
        state = self.state.sets[spec.feature_set]
        tail = state.tails.get(spec.features.window)
        copied = state.features.copy(plan), tail.copy() if tail else None
        wanted.set_result(Copied(self.position, *copied, self.serving.get(spec.name), self.state))

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._task_since_s = time.monotonic()
        self._task = asyncio.create_task(work, name=f"{name}-{self.number}")
        self._task.add_done_callback(lambda _: self._on_room())

    async def close(self, *, checkpoint: bool, timeout_s: float = 5.0) -> None:
        """Stop, with a last checkpoint where the memory can be trusted, and leave Kafka within a bound."""
        trusted = checkpoint and self.phase in (Phase.OPEN, Phase.SWAPPING, Phase.CLOSING)
        self.phase = Phase.CLOSED
        try:
            async with asyncio.timeout(timeout_s):
                if self._task is not None:
                    await _ended(self._task)
                # While state is rebuilt, the position lies below what is out: the old checkpoint stays the last one.
                is_new = self.position != self._committed or self._owes_commit
                if trusted and is_new and self.position >= self.publish_from:
                    await self._commit(*self._snapshot(self.serving))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next owner starts from the last checkpoint
            log.warning(
                "last checkpoint failed; the next owner repeats the tail",
                action="checkpoint",
                partition=self.number,
                error=repr(error),
            )
        finally:
            if self._task is not None:
                self._task.cancel()
            self.outputs.stop()
            await asyncio.gather(self._log.close(), return_exceptions=True)

    def _wanted(self) -> dict[str, Serving] | None:
        # A tail that was published before a crash must be scored by the model that scored it then, or one name would
        # carry two values: no swap until the position has passed everything that is out.
        if self.position <= self._scored_to or self.position < self.publish_from:
            return None
        wanted = {
            s.name: champion
            for s in self.shared.pipelines
            if (champion := self.shared.models.current(s.name)) is not None
        }
        changed = any(
            self.serving.get(name) is None or self.serving[name].version != champion.version
            for name, champion in wanted.items()
        )
        return {**self.serving, **wanted} if changed else None

    def _is_due(self) -> bool:
        due = time.monotonic() >= self._next_checkpoint or self._rows_since >= self.shared.checkpoint_rows
        is_new = self.position != self._committed or self._owes_commit
        return due and is_new and self.position >= self.publish_from

    def _is_transaction_old(self) -> bool:
        """Return whether one has to be ended while state is rebuilt: what is refused meanwhile is written into it.

        Kafka aborts a transaction that is open for too long. The next owner begins where this one has.
        """
        return (
            self.shared.exactly_once and self.position < self.publish_from and time.monotonic() >= self._next_checkpoint
        )

    def _snapshot(self, serving: Mapping[str, Serving]) -> tuple[Manifest, Blocks]:
        """Return position and changed state as they are between two batches; later batches do not touch the copy."""
        self._rows_since = 0
        blocks: Blocks = [*self.state.dump()]
        # Blocks of a state that was given up would be taken for ours by the next owner.
        blocks += [(key, None) for key in self._unused.difference(key for key, _ in blocks)]
        self._unused = set()
        return self._manifest(serving), blocks

    def _manifest(self, serving: Mapping[str, Serving]) -> Manifest:
        return Manifest(
            topic=self.shared.topic,
            topic_id=self.shared.topic_id,
            partitions=self.shared.partitions,
            position=self.position,
            kernels=self.state.kernels,
            models={name: s.version.version for name, s in serving.items()},
            labelled={name: counter.matured for name, counter in self.state.labelled.items()},
            shed=self._shed,
            begins=self._begins,
            out=self.tails.behind(self.position),
            bases=self.state.bases,
        )

    async def _commit(self, manifest: Manifest, blocks: Blocks) -> None:
        began = time.monotonic()
        await self.outputs.settle()
        await self._log.commit(manifest, blocks)
        self._committed, self._owes_commit = manifest.position, False
        self._next_checkpoint = time.monotonic() + self.shared.checkpoint_s
        metrics.CHECKPOINTS.inc()
        metrics.CHECKPOINT_SECONDS.observe(time.monotonic() - began)
        await self._report(manifest)

    async def _report(self, manifest: Manifest) -> None:
        try:
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                await self.shared.on_checkpoint(self.number, manifest)
        except Exception as error:  # noqa: BLE001 - the checkpoint is written, whatever kept the report from going out
            log.warning("label counts were not reported", action="checkpoint", partition=self.number, error=repr(error))

    async def _swap(self, wanted: dict[str, Serving], manifest: Manifest, blocks: Blocks) -> None:
        """Write the new versions into the manifest, then score with them: a replay swaps at the same offset."""
        await self._commit(manifest, blocks)
        self.serving = wanted
        if self.phase is Phase.SWAPPING:
            self.phase = Phase.OPEN
        metrics.SWAPS.inc()
        log.info(
            "models swapped", action="swap", partition=self.number, position=manifest.position, models=manifest.models
        )


async def _ended(step: asyncio.Task[None]) -> None:
    """Wait for a step; awaited itself, it would be cancelled with whoever waits, and cancel whoever waits next.

    Raises:
        KafkaUnavailableError: It was cut off, so what Kafka holds is unknown.
    """
    await asyncio.wait([step])
    if step.cancelled():
        raise KafkaUnavailableError("a step was cut off, so what Kafka holds is unknown")
    step.result()
