"""State as records of the state topic: each of a size that a default broker takes, and the same when it is read."""

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder

from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import SchemaMismatchError, SetupError
from ml_core.spec import parse
from ml_core.types import RowBatch
from streams.partition_state import PartitionState
from streams.transport import state_log
from streams.transport.pieces import PIECE_BYTES, Pieces
from streams.transport.state_log import BATCH_BYTES, MANIFEST_KEY, Manifest, StateLog

BROKER_BYTES = 1_048_588  # max.message.bytes where nobody has set it
SPEC = parse({"name": "demo", "features": {"window": 1024}})
KEY = b"demo/window-1024/0"
MANIFEST = Manifest(topic="ticks", topic_id="id", partitions=1, position=7, kernels={}, models={})


class Topic:
    """A producer of the state topic that keeps the batches of each transaction, as the broker would take them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sizes: list[int] = []
        self.newest: dict[bytes, bytes | None] = {}
        self.error = error

    def create_batch(self) -> BatchBuilder:
        batch = BatchBuilder(BATCH_BYTES, 0, is_transactional=1)
        append, kept = batch.append, {}

        def keep(**record):
            taken = append(**record)
            if taken is not None:
                kept[record["key"]] = record["value"]
            return taken

        batch.append, batch.kept = keep, kept
        return batch

    async def send_batch(self, batch, _topic, *, partition):
        async def answer() -> None:
            if self.error is not None:
                raise self.error

        self.sizes.append(len(batch._build()))
        self.newest |= batch.kept
        return answer()

    async def send_offsets_to_transaction(self, *_) -> None:
        pass

    async def commit_transaction(self) -> None:
        pass

    async def begin_transaction(self) -> None:
        pass


@pytest.fixture
def log(monkeypatch) -> StateLog:
    monkeypatch.setattr(state_log, "AIOKafkaProducer", lambda **_: Topic())
    return StateLog("127.0.0.1:1", "group", TopicPartition("ticks", 0))


def state_of() -> PartitionState:
    return PartitionState({"demo": (FeaturePlan.from_spec(SPEC), [SPEC])}, {})


def rows(count: int, symbols: int, seed: int = 1) -> RowBatch:
    random, names = np.random.default_rng(seed), [f"S{number}" for number in range(symbols)]
    symbol_N = np.arange(count, dtype=np.int32) % symbols
    x_NF = random.random((count, len(FeaturePlan.from_spec(SPEC).names)), np.float32)
    none_N = np.zeros(count)
    return RowBatch(symbol_N, symbol_N, symbol_N, symbol_N, none_N, none_N, x_NF, np.zeros(count, np.uint8), names)


def with_tail(count: int, symbols: int) -> PartitionState:
    state = state_of()
    for name in rows(1, symbols).symbols:
        state.symbols.add(name)
    state.sets["demo"].tails[1024].windows(rows(count, symbols))
    return state


async def test_the_largest_window_of_many_symbols_is_written_in_batches_that_a_default_broker_takes(log) -> None:
    state = with_tail(1200, 130)
    blocks = dict(state.dump())
    assert len(blocks[KEY]) > 5 * BROKER_BYTES

    await log.commit(MANIFEST, list(blocks.items()))

    assert max(log.producer.sizes) <= BATCH_BYTES < BROKER_BYTES
    assert max(len(value) for value in log.producer.newest.values()) <= PIECE_BYTES


async def test_what_was_cut_is_restored_bit_for_bit_and_nothing_of_it_is_dirty(log) -> None:
    state, restored = with_tail(1200, 130), state_of()
    await log.commit(MANIFEST, state.dump())
    written = {key: value for key, value in log.producer.newest.items() if key != MANIFEST_KEY}

    assert restored.load(Pieces().join(written).items()) == set()

    assert restored.dump() == []
    tail, again = (each.sets["demo"].tails[1024] for each in (state, restored))
    assert again.dump(dirty_only=False) == tail.dump(dirty_only=False)
    assert restored.symbols.names == state.symbols.names


def test_a_whole_block_of_an_earlier_release_is_read_and_cut_once_it_changes() -> None:
    before, after = (dict(with_tail(20, symbols).dump()) for symbols in (7, 9))
    assert PIECE_BYTES < len(before[KEY]) < BROKER_BYTES
    pieces = Pieces()

    assert pieces.join(before) == before
    assert Pieces().join(dict(pieces.cut(after.items()))) == after


def test_a_block_that_shrinks_or_goes_leaves_no_piece_behind() -> None:
    pieces, data = Pieces(), bytes(range(256)) * (3 * PIECE_BYTES // 256)
    topic = dict(pieces.cut([(KEY, data), (b"demo/features/0", b"small")]))
    assert set(topic) == {KEY, b"1+" + KEY, b"2+" + KEY, b"demo/features/0"}
    another = Pieces()
    assert another.join(topic) == {KEY: data, b"demo/features/0": b"small"}

    shrunk = dict(another.cut([(KEY, data[: PIECE_BYTES + 1])]))
    assert {key: value is None for key, value in shrunk.items()} == {KEY: False, b"1+" + KEY: False, b"2+" + KEY: True}
    assert dict(another.cut([(KEY, None)])) == {KEY: None, b"1+" + KEY: None}
    assert dict(another.cut([(KEY, None)])) == {KEY: None}


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_block_that_lacks_a_piece_is_refused(lost: int) -> None:
    topic = dict(Pieces().cut(with_tail(1200, 30).dump()))
    del topic[b"%d+%s" % (lost, KEY) if lost else KEY]

    with pytest.raises(SchemaMismatchError):
        state_of().load(Pieces().join(topic).items())


def test_a_release_that_knows_of_no_pieces_computes_state_anew() -> None:
    topic = dict(Pieces().cut(with_tail(1200, 30).dump()))
    assert b"1+" + KEY in topic

    with pytest.raises(SchemaMismatchError, match="too few"):
        state_of().load(topic.items())


async def test_a_record_that_no_broker_takes_ends_the_worker(log) -> None:
    large = MANIFEST.model_copy(update={"models": {f"p{number:060}": 1 for number in range(20_000)}})

    with pytest.raises(SetupError, match="manifest"):
        await log.commit(large, [])
    assert log.producer.newest == {}


async def test_a_state_topic_that_takes_less_than_a_default_one_ends_the_worker(log) -> None:
    log.producer.error = MessageSizeTooLargeError()

    with pytest.raises(SetupError, match=r"state\.group\.v1 .* max\.message\.bytes"):
        await log.commit(MANIFEST, [(b"demo/features/0", b"x")])
