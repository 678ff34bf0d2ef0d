"""Where attempts run: a real process on this machine, and what the runner makes of Ray without a cluster."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ml_core.errors import DependencyError, SetupError
from model_ops_manager.jobs import temporary
from model_ops_manager.jobs.executor import MACHINE_LOST, open_executor
from model_ops_manager.jobs.local import LocalExecutor
from model_ops_manager.jobs.ray_executor import RayHandle, _Host, _Look
from model_ops_manager.jobs.settings import RunnerSettings

JOB = SimpleNamespace(id="train-1", attempt=2)
WAIT_S = 60.0

STUBBORN = """
trap "echo told to end" TERM
echo started "$@" in "$TMPDIR" with "$TICKWISE_MAX_PARALLEL"
until read line; do :; done
"""


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not (answer := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return answer


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Return a function that makes a shell script what is started instead of the training program."""

    def use(script):
        file = tmp_path / "program"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr("model_ops_manager.jobs.local.sys.executable", str(file))

    return use


@pytest.fixture
def settings(tmp_path):
    return RunnerSettings.read(home=tmp_path, max_parallel=7)


def test_a_process_gets_its_job_and_the_settings_and_ends_when_it_is_told_to(program, settings):
    program("exec sleep 60")
    handle = LocalExecutor(settings).start(JOB)
    try:
        until(handle.memory_mb) if Path("/proc/self/statm").exists() else None
        assert (handle.exit_code(), handle.place["pid"] > 0) == (None, True)
        handle.end()
        assert until(handle.exit_code) == -15
    finally:
        handle.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system tells no memory")
def test_what_a_process_has_started_counts_and_what_they_share_counts_once(program, settings):
    python, hold = sys.executable, "import os, time; held = b'x' * (64 << 20)"
    forks = f"{hold}; os.fork() or print('forked', flush=True); time.sleep(60)"
    program(f"""{python} -c "{hold}; time.sleep(60)" & {python} -c "{forks}" & wait""")
    handle = LocalExecutor(settings).start(JOB, subprocess.PIPE)
    try:
        with handle.output as output:
            assert output.readline() == b"forked\n"
        until(lambda: handle.memory_mb() >= 128)
        assert handle.memory_mb() < 192
    finally:
        handle.close()
    until(lambda: handle.memory_mb() == 0)


def test_a_process_that_does_not_listen_is_killed_and_its_files_are_removed(program, settings):
    program(STUBBORN)
    host = _Host(JOB, settings)
    said = until(lambda: host.look().lines)[0]
    folder = Path(said.split()[-3])
    assert "-m model_ops_manager.jobs.training train-1 2" in said
    assert said.endswith("with 7\n")
    assert folder.is_dir()

    host.end()
    assert until(lambda: host.look().lines) == ["told to end\n"]
    assert host.look().code is None
    host.kill()

    assert until(lambda: host.look().code) == -9
    assert not folder.exists()


def test_the_files_of_the_dead_are_removed_and_those_of_the_living_kept(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held, left, other = temporary.Folder(), temporary.Folder(), tmp_path / "another"
    other.mkdir()
    (left.path / "set.npy").write_text("large")
    os.close(left._lock)  # as a kill does

    LocalExecutor(settings)

    assert sorted(tmp_path.iterdir()) == sorted([held.path, other])
    held.remove()
    assert not held.path.exists()


def test_a_process_learns_that_its_runner_is_gone(program, settings):
    program("read line; exit 70")
    handle = LocalExecutor(settings).start(JOB)
    handle._process.stdin.close()
    assert until(handle.exit_code) == 70
    handle.close()


def test_what_a_process_has_started_ends_with_it_when_its_runner_is_gone():
    code = (
        "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); "
        "from model_ops_manager.jobs.training import _watch_runner; _watch_runner()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes) as process:
        started = Path(f"/proc/{int(process.stdout.readline())}")
        process.stdin.close()
        assert process.wait(WAIT_S) == -signal.SIGKILL
    until(lambda: not started.exists() or "Z" in (started / "stat").read_text().split()[2])


def test_the_last_words_of_a_process_are_not_lost(program, settings):
    program("echo one; echo two >&2; exit 3")
    host = _Host(JOB, settings)
    until(lambda: host._handle.exit_code() is not None)
    assert host.look() == _Look(3, 0, ["one\n", "two\n"])


class Ray:
    """As much of Ray as the adapter uses; the test decides what an actor answers."""

    class exceptions:  # noqa: N801 - a module of Ray
        class RayError(Exception):
            pass

    def __init__(self, machines=("10.0.0.1",), answers=()) -> None:
        self.machines, self.answers, self.called = machines, list(answers), []
        self.util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1")

    def init(self, address, **_):
        if address == "10.9.9.9:1":
            raise Exception("timed out during startup")  # noqa: TRY002 - as Ray does
        self.called.append("init")

    def remote(self, **resources):
        self.resources = resources
        return lambda cls: cls

    def nodes(self):
        return [{"NodeManagerAddress": address, "Alive": address != "dead"} for address in self.machines]

    def shutdown(self):
        self.called.append("shutdown")

    def wait(self, asked, timeout):
        assert timeout == 0
        return (asked, []) if self.answers else ([], asked)

    def get(self, _):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, _):
        self.called.append("end of actor")

    @property
    def host(self):
        return SimpleNamespace(
            **{
                name: SimpleNamespace(remote=lambda name=name: self.called.append(name))
                for name in ("look", "end", "kill")
            }
        )


def test_ray_that_is_not_installed_is_named(monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r"pip install 'tickwise\[ray\]'"):
        open_executor(settings.model_copy(update={"runner_executor": "ray"}))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"ray_address": "10.9.9.9:1"}, DependencyError, "no Ray answers at '10.9.9.9:1'"),
        ({}, SetupError, r"TICKWISE_JOBS_URL names a file .* on 10\.0\.0\.2 too"),
        ({"jobs_url": "postgresql://h/d"}, SetupError, "TICKWISE_MLFLOW_TRACKING_URI names a file"),
    ],
)
def test_a_cluster_that_cannot_do_the_work_is_refused(monkeypatch, tmp_path, given, error, said):
    ray = Ray(machines=("10.0.0.1", "10.0.0.2"))
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(error, match=said):
        open_executor(RunnerSettings.read(home=tmp_path, runner_executor="ray", **given))
    assert ray.called in ([], ["init", "shutdown"])


def test_a_ray_of_this_machine_alone_listens_on_loopback_alone(monkeypatch, tmp_path):
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # all that Ray offers for it
    for address, said in (("10.0.0.1:1", None), ("local", "0")):
        monkeypatch.setenv(name, "")  # taken back at the end
        monkeypatch.delenv(name)
        monkeypatch.setitem(sys.modules, "ray", Ray())
        open_executor(RunnerSettings.read(home=tmp_path, runner_executor="ray", ray_address=address))
        assert os.environ.get(name) == said


def test_stores_that_all_share_are_taken_and_a_file_where_there_is_one_machine(monkeypatch, tmp_path):
    shared = {"jobs_url": "postgresql://h/d", "mlflow_tracking_uri": "http://h:5000"}
    for machines, given in ((("10.0.0.1", "10.0.0.2"), shared), (("10.0.0.1", "dead"), {})):
        monkeypatch.setitem(sys.modules, "ray", ray := Ray(machines))
        asked = RunnerSettings.read(home=tmp_path, runner_executor="ray", job_threads=2, job_memory_mb=64, **given)
        open_executor(asked)
        assert ray.resources == {"num_cpus": 2, "max_restarts": 0, "memory": 64 * 2**20}


def test_an_attempt_on_another_machine_is_watched_without_waiting_and_its_log_comes_back(capsys):
    ray = Ray()
    handle = RayHandle(ray, ray.host, JOB)
    assert (handle.exit_code(), handle.memory_mb()) == (None, 0)

    ray.answers = [_Look(None, 12, ["one\n"]), _Look(-9, 0, ["two\n"])]
    assert (handle.exit_code(), handle.memory_mb()) == (None, 12)
    handle.end()
    handle.kill()
    assert [handle.exit_code(), handle.exit_code()] == [-9, -9]

    assert capsys.readouterr().err == "one\ntwo\n"
    assert ray.called == ["look", "look", "end", "kill"]


def test_an_attempt_whose_machine_died_or_was_never_found_ends_too():
    ray = Ray(answers=[Ray.exceptions.RayError("node died")])
    assert RayHandle(ray, ray.host, JOB).exit_code() == MACHINE_LOST

    waiting = Ray()
    RayHandle(waiting, waiting.host, JOB).kill()
    assert waiting.called == ["look", "end of actor"]
