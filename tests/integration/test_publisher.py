import asyncio
import gzip
import json
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from api.cli import main
from data_io.data_fetcher.binance_capture import BinanceCapture
from data_io.data_fetcher.synthetic import Market, Synthetic
from data_io.publisher import PublishReport, publish
from data_io.sinks.topic import TopicSink
from data_io.topics import admin, ticks
from data_io.topics.records import Records
from ml_core import frames
from ml_core.errors import InputError, KafkaUnavailableError, NotFoundError
from ml_core.types import SymbolTable
from streams.local_kafka import broker

pytestmark = pytest.mark.integration
SAMPLE = Path(__file__).parents[1] / "data" / "binance-capture.txt"


@pytest.fixture
async def topic(kafka: str, unique: str) -> str:
    name = f"publisher.{unique}"
    await admin.ensure_topics(kafka, [ticks.topic_spec(name, 3)])
    return name


async def read_all(bootstrap: str, topic: str) -> dict[int, list[ConsumerRecord]]:
    """Return the records of every partition up to its present end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = (await admin.describe(bootstrap, topic)).partitions
        places = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: dict[int, list[ConsumerRecord]] = {p: [] for p in range(partitions)}
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, records in (await consumer.getmany(timeout_ms=5000)).items():
                found[place.partition] += records
        return found
    finally:
        await consumer.stop()


async def test_every_tick_is_one_record_keyed_by_symbol_in_the_order_of_the_source(kafka: str, topic: str) -> None:
    source = Synthetic(Market(symbols=5, ticks=20_000, seed=7))

    report = await publish(source, bootstrap=kafka, topic=topic)

    expected = source.fetch()
    table, found = SymbolTable(), {}
    for records in (await read_all(kafka, topic)).values():
        columns = Records(
            [r.offset for r in records], [r.key for r in records], [r.value for r in records], [()] * len(records)
        )
        batch, rejects = ticks.TickDecoder().decode(columns, table)
        assert not rejects
        assert [r.key.decode() for r in records] == [table.names[i] for i in batch.symbol_N]
        for symbol, part in frames.to_frame(batch).groupby("symbol", observed=True):
            assert symbol not in found, "one symbol lies in one partition"
            found[symbol] = part
    assert set(found) == set(source.symbols())
    for symbol, part in found.items():
        own = expected[expected["symbol"] == symbol]
        for name in ("ts_ns", "seq", *frames.PRICE_COLUMNS, "side"):
            assert part[name].to_numpy().tobytes() == own[name].to_numpy().tobytes(), name
    assert report.ticks == 20_000
    assert dict(report.per_kind) == expected["type"].value_counts().to_dict()
    assert (report.first_ts_ns, report.last_ts_ns) == (expected["ts_ns"].iloc[0], expected["ts_ns"].iloc[-1])


async def test_a_sink_leaves_what_the_publisher_does_on_a_topic_that_it_makes(
    kafka: str, topic: str, unique: str
) -> None:
    source, own = Synthetic(Market(symbols=5, ticks=2000, seed=7)), f"sink.{unique}"
    await publish(source, bootstrap=kafka, topic=topic)
    frame = source.fetch()

    written = await asyncio.to_thread(TopicSink(kafka, own, 3).write, [frame[:700], frame[700:]], "exchange")

    theirs, ours = [await read_all(kafka, name) for name in (topic, own)]
    assert written == 2000
    assert {p: [(r.key, r.value) for r in records] for p, records in ours.items()} == {
        p: [(r.key, r.value) for r in records] for p, records in theirs.items()
    }


async def test_a_speed_follows_the_clock_of_the_ticks(kafka: str, topic: str) -> None:
    source = Synthetic(Market(ticks=1000, rate=500))  # about 2 s
    span_s = (source.fetch()["ts_ns"].iloc[-1] - source.fetch()["ts_ns"].iloc[0]) / 1e9
    seen: list[tuple[int, float]] = []

    started = time.monotonic()
    report = await publish(
        source,
        bootstrap=kafka,
        topic=topic,
        speed=2,
        progress=lambda r: seen.append((r.ticks, time.monotonic() - started)),
    )

    assert report.seconds >= span_s / 2
    assert seen[-1][0] == 1000
    half_way = [n for n, at_s in seen if at_s < span_s / 4]
    assert all(n < 900 for n in half_way), "ticks go out when they are due, not all at once"


async def test_a_rate_spreads_ticks_evenly_whatever_their_clock_says(kafka: str, topic: str) -> None:
    report = await publish(Synthetic(Market(ticks=400, rate=1)), bootstrap=kafka, topic=topic, rate=800)
    assert report.ticks == 400
    assert report.seconds >= 399 / 800


async def test_a_long_silence_of_the_source_is_cut(kafka: str, topic: str) -> None:
    report = await publish(
        Synthetic(Market(ticks=20, rate=1)), bootstrap=kafka, topic=topic, speed=1, longest_pause_s=0.01
    )
    assert report.ticks == 20
    assert report.pauses_cut > 10


async def test_a_limit_stops_within_a_batch(kafka: str, topic: str) -> None:
    assert (await publish(Synthetic(Market(ticks=9000)), bootstrap=kafka, topic=topic, limit=4097)).ticks == 4097
    assert sum(map(len, (await read_all(kafka, topic)).values())) == 4097


@pytest.fixture
def broken_capture(tmp_path: Path) -> Path:
    path = tmp_path / "capture.gz"
    packed = gzip.compress(SAMPLE.read_bytes() * 3000, compresslevel=1)
    path.write_bytes(packed[: len(packed) // 2])
    return path


async def test_what_stands_before_a_break_of_the_source_is_published_and_counted(
    kafka: str, topic: str, broken_capture: Path
) -> None:
    last = PublishReport()

    def remember(report: PublishReport) -> None:
        nonlocal last
        last = report

    source = BinanceCapture(broken_capture)
    with pytest.raises(InputError, match="ends early"):
        await publish(source, bootstrap=kafka, topic=topic, progress=remember)

    assert last.ticks == source.report.ticks.total() > 1000
    assert sum(map(len, (await read_all(kafka, topic)).values())) == last.ticks


async def test_a_missing_topic_is_a_clear_error(kafka: str, unique: str) -> None:
    with pytest.raises(NotFoundError, match="no topic"):
        await publish(Synthetic(Market(ticks=1)), bootstrap=kafka, topic=f"missing.{unique}")


async def test_when_kafka_goes_away_it_says_so_in_time_and_no_task_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKWISE_KAFKA", raising=False)  # a broker of its own, to be stopped
    monkeypatch.setattr("data_io.publisher.TIMEOUT_S", 5.0)
    under_way, own = asyncio.Event(), broker()
    bootstrap = await asyncio.to_thread(own.__enter__)
    try:
        await admin.ensure_topics(bootstrap, [ticks.topic_spec("t", 3)])
        before = asyncio.all_tasks()
        publishing = asyncio.create_task(
            publish(
                Synthetic(Market(ticks=10**6)),
                bootstrap=bootstrap,
                topic="t",
                rate=2000,
                progress=lambda _: under_way.set(),
            )
        )
        await asyncio.wait_for(under_way.wait(), 30)
    finally:
        await asyncio.to_thread(own.__exit__, None, None, None)

    with pytest.raises(KafkaUnavailableError, match="did not take ticks for 't'"):
        await asyncio.wait_for(publishing, 30)
    assert asyncio.all_tasks() == before


async def test_a_cancelled_publication_settles_what_it_has_sent(kafka: str, topic: str) -> None:
    under_way, last = asyncio.Event(), PublishReport()

    def remember(report: PublishReport) -> None:
        nonlocal last
        last = report
        under_way.set()

    publishing = asyncio.create_task(
        publish(Synthetic(Market(ticks=10**6)), bootstrap=kafka, topic=topic, rate=2000, progress=remember)
    )
    await asyncio.wait_for(under_way.wait(), 30)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing

    assert 0 < last.ticks <= sum(map(len, (await read_all(kafka, topic)).values())) < last.ticks + 4096


@pytest.mark.parametrize(
    "pace", [{"speed": 0.0}, {"rate": float("nan")}, {"speed": 1, "rate": 1}, {"limit": -1}, {"longest_pause_s": 0.0}]
)
async def test_a_pace_that_makes_no_sense_is_refused_before_anything_is_sent(pace: dict[str, float]) -> None:
    with pytest.raises(InputError):
        await publish(Synthetic(Market(ticks=1)), bootstrap="127.0.0.1:1", topic="t", **pace)


def run(*words: str) -> int:
    """Return the exit code of ``tickwise publish WORDS``."""
    try:
        main(["publish", *words])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_the_command_creates_the_topic_and_prints_the_count(
    kafka: str, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", str(SAMPLE), "--kafka", kafka, "--topic", f"made.{unique}", "--json"]
    assert run(*words) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["ticks"], out["per_kind"], out["source"]["ignored"]) == (
        5, {"quote": 3, "trade": 2}, {"depth": 1, "no stream": 1},
    )  # fmt: skip
    assert run(*words, "--partitions", "9") == 0, "a topic that exists keeps its partitions"


def test_the_command_tells_what_was_published_before_a_break_and_fails(
    kafka: str, unique: str, broken_capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--source", str(broken_capture), "--kafka", kafka, "--topic", f"broken.{unique}") == 2
    err = capsys.readouterr().err
    assert "published " in err
    assert "is broken after line" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "missing.gz"], "there is no file or folder 'missing.gz'"),
        (["--source", "synthetic", "--speed", "fast"], "neither a factor"),
        (["--source", "synthetic", "--speed", "1x", "--rate", "5"], "not both"),
        (["--source", "trades.csv", "--map", "ts"], "write field=column pairs"),
    ],
)
def test_the_command_refuses_wrong_words_with_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert message in capsys.readouterr().err
