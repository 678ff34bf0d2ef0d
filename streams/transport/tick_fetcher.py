"""Fetches record batches from the brokers that lead them: one request a broker at a time, the next while one is worked.

Bytes stay in the buffer they were read into; no object is made of a record.
"""

import asyncio
import struct
import time
from collections.abc import Iterable, Sequence

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    KafkaProtocolError,
    OffsetOutOfRangeError,
    for_code,
)

from data_io.topics.raw_records import RawFetch
from streams.transport import connection, wire

# An answer comes as soon as one byte is there; an idle partition may hold a busy one back for this long.
WAIT_MS = 10
ANSWER_BYTES = 50 << 20
ANSWER_S = 10.0
REFUSED_S, LEADERLESS_S = 1.0, 0.1  # how long a partition that was refused is not asked for
_OUT_OF_RANGE = 1
_SEEK_LEADER = {9, 74, 75}  # replica not available, fenced and unknown leader epoch: to aiokafka final errors
# baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta of the v2 record batch
_HEADER = struct.Struct(">qiibIhi")
_BASE_AND_LENGTH = struct.Struct(">qi")
_LEAST_BYTES = 61  # of a record batch


class TickFetcher:
    """Reads partitions in order from where ``seek`` has put them; whoever calls it decides for which it asks."""

    def __init__(self, client: AIOKafkaClient, *, partition_bytes: int = 1 << 20, committed: bool = True) -> None:
        """Read through connections of ``client``.

        Args:
            client: Started, and knows the topics.
            partition_bytes: About as many bytes of a partition are asked for, or one batch where that has more.
            committed: Whether only what belongs to no open transaction is read.
        """
        self.highwater: dict[TopicPartition, int] = {}  # the end of the partition, where one has been heard of
        self.readable: dict[TopicPartition, int] = {}  # as far as open transactions let it be read
        self.waits: dict[TopicPartition, float] = {}  # since when it is wanted, and nobody has answered
        self._client, self.partition_bytes, self._committed = client, partition_bytes, committed
        self._next: dict[TopicPartition, int] = {}
        self._most: dict[TopicPartition, int] = {}  # bytes asked for, where batches are large
        self._asked: set[int] = set()  # brokers that owe an answer
        self._resting: dict[TopicPartition, float] = {}  # until when
        self._arrived: list[tuple[TopicPartition, RawFetch]] = []
        self._errors: dict[TopicPartition | None, KafkaError] = {}
        self._news: asyncio.Future[None] | None = None
        self._finding: dict[int, asyncio.Task[None]] = {}  # the way to a broker; -1 is who leads what
        self._turns: dict[int, int] = {}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on at ``offset``; what has arrived or is under way for ``tp`` is dropped."""
        self.forget(tp)
        self._next[tp] = offset

    def position(self, tp: TopicPartition) -> int:
        """Return the offset behind all that has arrived of ``tp``."""
        return self._next[tp]

    def forget(self, tp: TopicPartition) -> None:
        """Read ``tp`` no more."""
        self._next.pop(tp, None)
        self._most.pop(tp, None)
        self._resting.pop(tp, None)
        self.waits.pop(tp, None)
        self._errors.pop(tp, None)
        self.highwater.pop(tp, None)
        self.readable.pop(tp, None)
        self._arrived = [each for each in self._arrived if each[0] != tp]

    def ask(self, wanted: Iterable[TopicPartition]) -> None:
        """Ask every broker that owes no answer for what follows in those of ``wanted`` that are read and it leads."""
        by_leader: dict[int, list[TopicPartition]] = {}
        waits, now_s = {}, time.monotonic()
        for tp in wanted:
            if tp not in self._next:
                continue
            known = self._client.cluster.leader_for_partition(tp)
            leader = -1 if known is None else known
            # Where the broker owes another answer first, that one tells whether it is silent.
            if tp in self.waits or leader not in self._asked:
                waits[tp] = self.waits.get(tp, now_s)
            if not self._rests(tp):
                by_leader.setdefault(leader, []).append(tp)
        self.waits = waits
        for leader, tps in by_leader.items():
            if leader in self._asked:
                continue
            if (to := connection.of(self._client, leader)) is None:
                self._find(leader)
                continue
            # A batch that is too large comes only for the first that is asked for.
            self._turns[leader] = self._turns.get(leader, 0) + 1
            turn = self._turns[leader] % len(tps)
            self._ask(to, leader, [(tp, self._next[tp]) for tp in (*tps[turn:], *tps[:turn])])

    async def arrived(
        self, timeout_s: float, wake: "asyncio.Future[None] | None" = None
    ) -> list[tuple[TopicPartition, RawFetch]]:
        """Return what has arrived, in order; waits ``timeout_s`` for an answer, which may be empty, or for ``wake``.

        Raises:
            OffsetOutOfRangeError: Kafka no longer has what follows.
            KafkaError: Kafka refuses to be read.
        """
        if not self._arrived and not self._errors and timeout_s > 0:
            self._news = asyncio.get_running_loop().create_future()
            await asyncio.wait(
                [self._news] if wake is None else [self._news, wake],
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._news = None
        found, self._arrived = self._arrived, []
        if self._errors and not found:
            raise self._errors.pop(next(iter(self._errors)))
        return found

    async def stop(self) -> None:
        """Take no more answers."""
        self._next.clear()
        for task in self._finding.values():
            task.cancel()
        await asyncio.gather(*self._finding.values(), return_exceptions=True)

    def _ask(self, to: connection.Connection, leader: int, wanted: Sequence[tuple[TopicPartition, int]]) -> None:
        sized = [(tp, offset, self._most.get(tp, self.partition_bytes)) for tp, offset in wanted]
        request = wire.fetch(sized, wait_ms=WAIT_MS, most_bytes=ANSWER_BYTES, committed=self._committed)
        try:
            answer = to.ask(wire.FETCH, wire.FETCH_VERSION, [request], ANSWER_S)
        except KafkaError as error:
            if not error.retriable:
                self._errors[None] = error
                for tp, _ in wanted:
                    self._rest(tp, REFUSED_S)
            return
        self._asked.add(leader)
        answer.add_done_callback(lambda future: self._answered(leader, dict(wanted), future))

    def _answered(self, leader: int, asked: dict[TopicPartition, int], answer: "asyncio.Future[memoryview]") -> None:
        self._asked.discard(leader)
        self._tell()  # also where nothing has come: who waits asks again
        if answer.cancelled() or answer.exception() is not None:
            return  # asked again when there is a connection
        try:
            code, found = wire.fetched(answer.result())
        except wire.MALFORMED as error:
            for tp in asked:
                self._rest(tp, REFUSED_S)
            self._errors[None] = KafkaProtocolError(f"broker {leader} sent an answer that cannot be read: {error}")
            return
        for tp, offset in asked.items():
            if self._next.get(tp) != offset:
                continue  # it was sought elsewhere meanwhile
            if code:
                self._refused(code, tp)
            elif tp in found:
                self._take(tp, offset, found[tp])

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _take(self, tp: TopicPartition, offset: int, part: wire.Fetched) -> None:
        if part.error == _OUT_OF_RANGE:
            self._rest(tp, REFUSED_S)
            self._errors[tp] = OffsetOutOfRangeError({tp: offset})
        elif part.error:
            self._refused(part.error, tp)
        else:
            self.waits.pop(tp, None)
            self.highwater[tp], self.readable[tp] = part.highwater, part.readable
            end, whole_bytes = end_of(part.raw, otherwise=offset)
            if end > offset:
                self._next[tp] = end
                self._arrived.append((tp, RawFetch(_apart(part.raw[:whole_bytes]), offset, part.aborted)))
            self._size_next(tp, part.raw[whole_bytes:])

    def _size_next(self, tp: TopicPartition, cut: memoryview) -> None:
        """Ask for a whole number of batches as large as the one that was cut: what is cut is sent twice."""
        usual = self.partition_bytes
        if len(cut) >= _BASE_AND_LENGTH.size:
            batch = _BASE_AND_LENGTH.size + _BASE_AND_LENGTH.unpack_from(cut)[1]
            if not _LEAST_BYTES <= batch <= ANSWER_BYTES:
                self._rest(tp, REFUSED_S)
                self._errors[tp] = CorruptRecordException(f"{tp} holds a record batch of {batch} bytes")
            elif batch > usual // 16:
                self._most[tp] = max(round(usual / batch), 1) * batch + batch // 16  # they differ a little
        elif self._most.get(tp, 0) > 2 * usual:
            del self._most[tp]  # that one was an exception

    def _refused(self, code: int, tp: TopicPartition) -> None:
        error = for_code(code)(f"{tp}: error {code}")
        if error.retriable or code in _SEEK_LEADER:
            self._rest(tp, LEADERLESS_S)
            self._find(-1)
        else:
            self._rest(tp, REFUSED_S)
            self._errors[tp] = error

    def _rest(self, tp: TopicPartition, for_s: float) -> None:
        """Kafka answers at once where it refuses one of many: asked at once, it would do nothing else."""
        self._resting[tp] = time.monotonic() + for_s

    def _rests(self, tp: TopicPartition) -> bool:
        until_s = self._resting.get(tp)
        return until_s is not None and time.monotonic() < until_s

    def _find(self, leader: int) -> None:
        if leader not in self._finding:
            way = self._learn_leaders() if leader < 0 else self._connect(leader)
            task = self._finding[leader] = asyncio.create_task(way, name=f"ticks-connect-{leader}")
            task.add_done_callback(lambda _: self._finding.pop(leader))

    async def _learn_leaders(self) -> None:
        for pause_s in connection.pauses():
            if await connection.refresh(self._client):
                break
            await asyncio.sleep(pause_s)
        self._tell()

    async def _connect(self, leader: int) -> None:
        for pause_s in connection.pauses():
            if not self._leads(leader) or await connection.reach(self._client, leader):
                break
            await connection.refresh(self._client)
            await asyncio.sleep(pause_s)
        self._tell()

    def _leads(self, node: int) -> bool:
        return any(self._client.cluster.leader_for_partition(tp) == node for tp in self._next)


def _apart(raw: memoryview) -> memoryview:
    """Return ``raw``, copied where it would keep an answer in memory that is much larger."""
    return memoryview(bytes(raw)) if len(raw) < len(raw.obj) // 8 else raw  # type: ignore[arg-type]  # bytes, or an array


def end_of(raw: bytes | memoryview, otherwise: int) -> tuple[int, int]:
    """Return the offset after the last whole record batch in ``raw`` and where its bytes end.

    They are ``otherwise`` and 0 where there is none.
    """
    at, end = 0, otherwise
    while at + _HEADER.size <= len(raw):
        base, length, _, _, _, _, delta = _HEADER.unpack_from(raw, at)
        if _BASE_AND_LENGTH.size + length < _LEAST_BYTES or at + _BASE_AND_LENGTH.size + length > len(raw):
            break
        end = max(end, base + delta + 1)
        at += _BASE_AND_LENGTH.size + length
    return end, at
