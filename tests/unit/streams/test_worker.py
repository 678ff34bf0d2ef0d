import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ml_core.data_processor import calendars
from ml_core.errors import SetupError
from ml_core.spec import parse
from streams import calendar_end, worker
from streams.health import HealthServer
from streams.settings import WorkerSettings
from streams.worker import feature_sets, one_source


def test_pipelines_with_one_feature_set_agree_on_features_and_on_symbols() -> None:
    one, two = (parse({"name": name, "features": {"set": "basic"}}) for name in ("one", "two"))
    assert feature_sets([one, two])["basic"][1] == [one, two]

    for other in ({"source": {"symbols": ["A"]}}, {"features": {"set": "basic", "use": ["return:1s"]}}):
        with pytest.raises(SetupError, match="define it differently"):
            feature_sets([one, parse({"name": "two", "features": {"set": "basic"}, **other})])


@pytest.mark.parametrize(
    "other",
    [{}, {"bars": {"by": ["ticks:6"]}}, {"bars": {"by": ["ticks:5"]}, "source": {"lateness": "1s"}}],
)
def test_pipelines_with_one_feature_set_agree_on_bars(other) -> None:
    one, same = (
        parse({"name": name, "features": {"set": "basic"}, "bars": {"by": ["ticks:5"]}}) for name in ("one", "same")
    )
    assert feature_sets([one, same])["basic"][1] == [one, same]

    with pytest.raises(SetupError, match="define it differently"):
        feature_sets([one, parse({"name": "two", "features": {"set": "basic"}, **other})])


def test_a_worker_reads_one_topic_through_one_map() -> None:
    with pytest.raises(SetupError, match="run one worker for each"):
        one_source([parse({"name": "one"}), parse({"name": "two", "source": {"topic": "other"}})])
    with pytest.raises(SetupError, match="another lateness"):
        one_source([parse({"name": "one"}), parse({"name": "two", "source": {"lateness": "1s"}})])
    with pytest.raises(SetupError, match="no pipeline"):
        one_source([])


def test_a_worker_imports_nothing_that_only_its_children_need() -> None:
    code = "import sys, streams.worker; print({'mlflow', 'torch', 'onnx', 'scipy.linalg'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def health(stalled_s: float = 0.0, notes=(), **changes) -> HealthServer:
    known = {"fatal": SimpleNamespace(done=lambda: False), "all_open": True, "busy_since": None, "unanswered": {}}
    known["troubles"] = {}
    source, watchdog = SimpleNamespace(**{**known, **changes}), SimpleNamespace(stalled_s=stalled_s)
    return HealthServer(WorkerSettings(), source, watchdog, lambda: list(notes))


def problems(stalled_s: float = 0.0, **changes) -> list[str]:
    return health(stalled_s, **changes).problems()


def test_a_calendar_that_ends_in_less_than_90_days_is_noted_and_leaves_the_worker_ready(monkeypatch) -> None:
    day_ns = 86_400 * 10**9
    monkeypatch.setattr(calendars, "edges", lambda name: np.array([] if name == "24x7" else [0, 100 * day_ns]))
    assert calendar_end.notes(["XSHG", "24x7"], now_ns=10 * day_ns) == []
    [note] = calendar_end.notes(["XSHG", "24x7", "XSHG"], now_ns=10 * day_ns + 1)
    assert "XSHG knows no session behind 1970-04-11T00:00:00Z" in note

    server = health(notes=[note])
    said: list[str] = []
    [body] = server._answer({"PATH_INFO": "/readyz"}, lambda status, _: said.append(status))
    assert (said, body.decode()) == (["200 OK"], f"ok\nnote: {note}\n")


def test_a_worker_is_ready_while_its_parts_move() -> None:
    assert problems() == []
    assert problems(stalled_s=59.0, busy_since=time.monotonic() - 1) == []


def test_a_worker_is_not_ready_when_a_batch_hangs_kafka_is_silent_or_ticks_wait() -> None:
    assert "at the agents" in problems(busy_since=time.monotonic() - 100)[0]
    assert problems(unanswered={3: 100.0, 1: 7.0}) == ["Kafka has not answered for 100 s: partition 1, 3"]
    assert "ticks wait and nothing has moved for 61 s" in problems(stalled_s=61.0)


def test_a_worker_that_cannot_take_over_says_who_does_not_answer() -> None:
    away = "the model store http://mlflow:5000 did not do as asked: no route to host"

    assert problems(all_open=False, troubles={3: away}) == [
        "not every assigned partition is open",
        f"partition 3: {away}",
    ]


def test_the_last_resort_ends_a_process_that_hangs_with_the_status_given_first() -> None:
    code = """
import time
from streams.last_resort import LastResort
resort = LastResort(0.1)
resort.arm(3)
resort.arm(4)
time.sleep(60)
"""

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=50, check=False).returncode == 3


class Stuck:
    """A part that does not stop, and swallows being cancelled once, as services of mode do."""

    def __init__(self, stopped: list["Stuck"]) -> None:
        self._stopped, self.released = stopped, asyncio.Event()

    async def stop(self) -> None:
        self._stopped.append(self)
        with contextlib.suppress(asyncio.CancelledError):
            await self.released.wait()
        await self.released.wait()


@pytest.fixture
def made(tmp_path) -> worker.Worker:
    file = tmp_path / "demo.toml"
    file.write_text('name = "demo"')
    return worker.Worker(WorkerSettings(pipelines=file, home=tmp_path))


async def test_parts_that_do_not_stop_are_left_after_their_time_and_the_others_are_stopped_too(
    made, monkeypatch, capsys
) -> None:
    for name in ("SOURCE_STOP_S", "APP_STOP_S"):
        monkeypatch.setattr(worker, name, 0.05)
    stopped: list[Stuck] = []
    source, app = Stuck(stopped), Stuck(stopped)

    stopping = asyncio.create_task(made._stop(source, app))
    await asyncio.wait([stopping], timeout=20)

    has_ended = stopping.done()
    for part in (source, app):
        part.released.set()
    await stopping
    assert has_ended
    assert stopped == [source, app]
    assert capsys.readouterr().out.count("did not stop in time") == 2


def test_all_parts_together_have_less_time_than_docker_gives() -> None:
    bounds = worker.BACKGROUND_STOP_S + worker.SOURCE_STOP_S + worker.APP_STOP_S
    assert bounds <= worker.LAST_RESORT_S < 10


async def test_whoever_asks_a_worker_to_stop_has_it_ended_when_its_time_is_up(made, monkeypatch) -> None:
    armed: list[int] = []
    monkeypatch.setattr(made.last_resort, "arm", armed.append)
    monkeypatch.setattr(worker, "StoreProcess", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(made, "_run", lambda _store, stop: stop.wait())
    made._has_begun = True
    running = asyncio.create_task(made.run())
    await asyncio.sleep(0)

    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await running

    assert (armed, made.last_resort.after_s) == ([0], worker.LAST_RESORT_S)
