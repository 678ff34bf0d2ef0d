"""`tickwise serve` as a process: what it opens, what it imports, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from api.cli.serve import listen
from ml_core.errors import SetupError
from ml_core.spec import load
from tests.api.model_lab import make_model


@contextmanager
def serving(settings, *words, **variables):
    """Run the command and yield (process, address) once it answers."""
    environment = {
        **os.environ,
        "TICKWISE_HOME": str(settings.home),
        "TICKWISE_PIPELINES": str(settings.pipelines),
        "TICKWISE_KAFKA": settings.kafka,
        **variables,
    }
    command = [sys.executable, "-m", "api.cli", "serve", *words]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        address = None
        for line in process.stderr:
            if found := re.search(r"listening on (http://\S+:\d+)", line):
                address = found[1]
                break
        # the socket listens already, so the first answer comes as soon as the server has started
        if address:
            assert httpx.get(f"{address}/livez", timeout=30).text == "ok"
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_the_server_answers_on_loopback_alone_and_ends_cleanly_though_a_job_is_watched(make_settings):
    with serving(make_settings(), "--port", "0") as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        port = int(address.rpartition(":")[2])
        with socket.socket() as plug:
            # 127.0.0.2 is this machine too; a server on 0.0.0.0 would answer there
            assert plug.connect_ex(("127.0.0.2", port)) != 0
        job = httpx.post(f"{address}/v1/jobs", json={"pipeline": "demo"}, timeout=30).json()
        with httpx.stream("GET", f"{address}/v1/jobs/{job['id']}/events", timeout=30) as events:
            lines = events.iter_lines()
            assert next(lines) == "event: progress"
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert process.wait(20) == 0

    assert not any(line.startswith("event:") for line in rest)


def test_a_taken_port_is_told_before_anything_is_started(make_settings):
    settings = make_settings()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(settings, "--port", str(port)) as (process, address):
            assert address is None
            assert process.wait(20) == 2
        with pytest.raises(SetupError, match=rf"cannot listen on 127.0.0.1 port {port}: .*in use; choose another"):
            listen("127.0.0.1", port)

    assert not (settings.home / "jobs.db").exists()


def test_an_address_of_another_machine_is_told():
    with pytest.raises(SetupError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["--host", "0.0.0.0"], {}),  # noqa: S104 - refused here
        ([], {"TICKWISE_PROT": "8000"}),
        (["--pipelines", "no-such-folder"], {}),
    ],
)
def test_wrong_settings_end_the_process_at_once(make_settings, words, variables):
    with serving(make_settings(), "--port", "0", *words, **variables) as (process, address):
        assert address is None
        assert process.wait(20) == 2


def test_the_server_answers_one_row_without_torch_faust_pandas_and_at_first_mlflow(pipelines, tmp_path):
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
import api.server
from api.answers import Answerer
from api.metrics import Metrics
from api.questions import Question
from ml_core.data_processor.plan import FeaturePlan
from ml_core.model.runtime import Scorer
from ml_core.spec import load
from model_ops_manager.champion import Serving

spec = load(Path(sys.argv[1]))
serving = Serving(SimpleNamespace(version=1), Scorer(Path(sys.argv[2]).read_bytes()))
followed = SimpleNamespace(plan=FeaturePlan.from_spec(spec))
answerer = Answerer(spec, SimpleNamespace(current=serving), followed, Metrics())
question = Question.read(b'{"pipeline":"demo","features":{"return:1s":0.5,"queue_imbalance":null}}')
assert b'"status":"ok"' in answerer.answer([answerer.check(question)])[0]
print([name for name in ("torch", "faust", "mlflow", "onnx", "pandas", "streams") if name in sys.modules])
"""
    (tmp_path / "model.onnx").write_bytes(make_model(load(pipelines / "demo.toml")).onnx)

    command = [sys.executable, "-c", code, str(pipelines / "demo.toml"), str(tmp_path / "model.onnx")]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (loaded.stdout.strip(), loaded.stderr) == ("[]", "")
