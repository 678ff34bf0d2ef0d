"""What stands in the topics is compared with what its ticks give; what somebody changed is found."""

import asyncio
import json

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from api.cli import verify
from data_io.topics import predictions
from ml_core.errors import InputError
from model_ops_manager import parity
from streams import checkpoints
from streams.transport import state_log
from tests.integration.test_worker_models import PARTS, SOURCE, crown, fitted, store  # noqa: F401 - fixtures
from tests.integration.worker_lab import stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


async def send(lab, topic: str, value: bytes | None, headers=(), partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=lab.kafka)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=partition, headers=list(headers))
    finally:
        await producer.stop()


async def test_what_a_worker_wrote_is_what_its_ticks_give_also_after_a_kill(lab, store, fitted) -> None:  # noqa: F811 - fixtures
    spec = lab.pipeline("parity", **PARTS)
    crown(store, spec, fitted)
    count = await lab.publish(SOURCE.format(ticks=4_000, seed=2))
    process = lab.start(spec, instance="a", checkpoint_s="30")
    await lab.until_rows(spec, count)
    process.kill()
    process.wait(10)
    process = lab.start(spec, instance="a")
    count += await lab.publish(SOURCE.format(ticks=1_000, seed=3))
    await lab.until_rows(spec, count)
    assert stop(process) == 0

    found = await parity.verify(lab.kafka, spec, store)

    assert found.is_equal, found.as_dict()
    assert (found.rows.compared, found.predictions.compared) == (count, count)
    assert found.rows.repeated > 0, "the kill was meant to leave a tail to repeat"
    assert found.state_from == {0: 0, 1: 0}
    assert not found.predictions.unchecked.total()

    # Somebody changes a score, a row, and takes back nothing.
    changed = (await lab.predictions(spec))[-1]
    partition = int(changed["id"].rsplit("-", 3)[1])
    await send(lab, predictions.name(spec.name), json.dumps({**changed, "score": 0.123}).encode(), partition=partition)
    strange = {**changed, "id": changed["id"].rsplit("-", 2)[0] + "-0-77"}
    await send(lab, predictions.name(spec.name), json.dumps(strange).encode(), partition=partition)
    found = await parity.verify(lab.kafka, spec, store)
    assert not found.is_equal
    assert (found.predictions.conflicting, found.predictions.unexpected) == (1, 1)
    assert found.rows.is_equal

    first = await asyncio.to_thread(_command, lab, spec, "--range", f"{partition}:0-99")
    assert first["rows"]["compared"] == 100
    assert first["predictions"]["unexpected"] == 1
    with pytest.raises(InputError, match="holds offsets 0 to"):
        await parity.verify(lab.kafka, spec, store, {0: (0, 10**6)})


async def test_what_a_late_worker_skips_stays_skipped_after_a_kill_and_the_rest_is_what_its_ticks_give(
    lab,
    store,  # noqa: F811 - fixtures
    fitted,  # noqa: F811
) -> None:
    spec = lab.pipeline("late", **PARTS)
    crown(store, spec, fitted)
    settings = {"shed": "skip_to_latest", "shed_lag": "2000", "checkpoint_s": "30"}
    count = await lab.publish(SOURCE.format(ticks=60_000, seed=2))  # of each partition more than one fetch
    process = lab.start(spec, instance="a", **settings)
    await lab.until(lambda: lab.log().count("too far behind") == 2)
    count += await lab.publish(SOURCE.format(ticks=1_000, seed=3))
    await lab.until(lambda: _reaches(lab, spec, count))
    process.kill()  # in the tail behind what was skipped
    process.wait(10)
    published = len(await lab.committed_rows(spec))
    process = lab.start(spec, instance="a", **settings)
    await lab.until(lambda: _repeats(lab, spec, published + 1_000))
    assert stop(process) == 0
    assert "too far behind" not in lab.log()

    found = await asyncio.to_thread(_command, lab, spec, "--group", spec.name, expected=0)

    said = await checkpoints.read(lab.kafka, spec.name, spec)
    assert {each.committed.serves_from for each in said.values()} == {0}
    last = {number: manifest async for number, manifest, _ in state_log.manifests(lab.kafka, spec.name)}
    skipped = sum(manifest.shed.total for manifest in last.values())
    for kind in ("rows", "predictions"):
        assert (found[kind]["shed"], found[kind]["compared"]) == (skipped, count - skipped)
    assert found["rows"]["repeated"] == 1_000
    assert skipped > 10_000


async def _repeats(lab, spec, count: int) -> bool:
    return len(await lab.committed_rows(spec)) == count


async def _reaches(lab, spec, count: int) -> bool:
    """Whether the newest tick of each partition has its row."""
    newest: dict[int, int] = {}
    for partition, offset, _ in await lab.live_rows(spec):
        newest[partition] = max(newest.get(partition, 0), offset + 1)
    return sum(newest.values()) == count


def _command(lab, spec, *words, expected=verify.DIFFERENT):
    environment = {
        "TICKWISE_KAFKA": lab.kafka,
        "TICKWISE_HOME": str(lab.home),
        "TICKWISE_PIPELINES": str(lab.folder / f"{spec.name}.json.toml"),
    }
    result = CliRunner().invoke(verify.app, ["parity", spec.name, *words, "--json"], env=environment)
    assert result.exit_code == expected, result.output
    return json.loads(result.stdout)


async def test_rows_of_other_features_are_not_compared_and_ranges_that_are_not_there_are_refused(lab, store) -> None:  # noqa: F811 - fixtures
    spec = lab.pipeline("rows")
    count = await lab.publish(SOURCE.format(ticks=2_000, seed=2))
    process = lab.start(spec)
    await lab.until_rows(spec, count)
    assert stop(process) == 0
    other = lab.pipeline("rows", features={"use": ["return:1s"]})

    found = await parity.verify(lab.kafka, other, store, {0: (0, 50)})

    assert found.rows.unchecked == {"rows of other features": 50}
    assert found.rows.is_equal
    for wrong in ({7: (0, 10)}, {0: (9, 5)}):
        with pytest.raises(InputError, match="there are no offsets"):
            await parity.verify(lab.kafka, other, store, wrong)
