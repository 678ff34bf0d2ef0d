"""A Faust channel whose event is a round: what was fetched for some partitions, a batch each."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import faust
from faust.channels import Channel
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from data_io.topics.raw_records import RawFetch

if TYPE_CHECKING:
    from streams.transport.partition import Partition


class Batch:
    """Record batches of one partition as they were fetched.

    Whoever takes it from the channel ends it with ``done`` or ``failed``, once; the next round comes only then.
    """

    def __init__(self, partition: "Partition", fetch: RawFetch) -> None:
        """Hold the fetched bytes together with the partition whose state they will move."""
        self.partition = partition
        self.fetch = fetch
        self.ended: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()

    def done(self, next_offset: int, rows: int) -> None:
        """Say that everything below ``next_offset`` was handed to the outputs, and how many ``rows`` it made."""
        if not self.ended.done():
            self.ended.set_result((next_offset, rows))

    def failed(self, error: Exception) -> None:
        """Say that the batch could not be processed: its partition stops, uncommitted, and is taken over again."""
        if not self.ended.done():
            self.ended.set_exception(error)


class Round:
    """Batches that are processed together, each of another partition."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        """Hold ``batches``, at least one."""
        self.batches = batches

    def failed(self, error: Exception) -> None:
        """Say of every batch that has not ended that it failed."""
        for batch in self.batches:
            batch.failed(error)


class BatchChannel(Channel[Any]):  # type: ignore[misc]  # Faust ships no types that mypy can follow
    """A channel that keeps its queue through rebalances of Faust's own consumer.

    Faust's flow control empties the queue of a plain ``app.channel()`` on every rebalance. The batches here belong to
    another consumer, so this queue has a flow control of its own that nobody suspends.
    """

    @property
    def queue(self) -> ThrowableQueue:  # pinned: Channel keeps it in `_queue`
        """The queue of this subscriber: one round waits while one is processed."""
        queue: ThrowableQueue | None = self.__dict__["_queue"]
        if queue is None:
            always_open = FlowControlEvent(initially_suspended=False)
            queue = self.__dict__["_queue"] = ThrowableQueue(maxsize=1, flow_control=always_open)
        return queue

    @property
    def has_subscriber(self) -> bool:
        """True once an agent iterates the channel."""
        return bool(self._subscribers)


def batch_channel(app: faust.App) -> BatchChannel:
    """Return a new channel for rounds of ``app``."""
    return BatchChannel(app, maxsize=1)
