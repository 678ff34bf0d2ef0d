"""docker-compose.yml and Dockerfile, without Docker: what they promise, and that each command is one that runs."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.cli import COMMANDS
from api.settings import ServerSettings
from data_io.archive.settings import ArchiveSettings
from data_io.settings import CommonSettings, check_names
from ml_core.spec import load_all
from model_ops_manager.jobs.settings import RunnerSettings
from streams.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
OURS = {"worker": WorkerSettings, "runner": RunnerSettings, "server": ServerSettings, "archiver": ArchiveSettings}
SECRETS = {"POSTGRES_PASSWORD": "letters0and0digits", "TICKWISE_API_TOKEN": "0123456789abcdef"}
PARTS = {"kafka", "postgres", "mlflow", "worker", "runner", "server", "archiver"}

every_service = pytest.mark.parametrize("name", SERVICES)
each_of_ours = pytest.mark.parametrize("name", OURS)


def filled(text: str) -> str:
    """Replace ``${NAME:?hint}`` as compose does."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: SECRETS[match[1]], text)


def environment_of(name: str) -> dict[str, str]:
    return {key: filled(str(value)) for key, value in SERVICES[name].get("environment", {}).items()}


def test_the_parts_are_all_there() -> None:
    assert set(SERVICES) == PARTS


def test_what_a_job_puts_aside_lies_on_a_disk() -> None:
    place, volumes = environment_of("runner")["TMPDIR"], SERVICES["runner"]["volumes"]
    assert f"runner:{place}" in volumes


@every_service
def test_the_image_is_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")

    assert re.match(r"\d+\.\d+", tag), image
    assert "build" not in SERVICES[name] or tag == VERSION


@every_service
def test_the_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert service["user"] not in ("", "root", "0", "0:0")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    # Kafka's image writes its configuration into itself when it starts
    assert service.get("read_only", False) == (name != "kafka")


@every_service
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


# The runner listens nowhere: its leases in the job store tell whether it lives, and whoever reads them acts on that.
@pytest.mark.parametrize("name", sorted(PARTS - {"runner"}))
def test_the_service_says_whether_it_is_healthy_within_bounds(name: str) -> None:
    check = SERVICES[name]["healthcheck"]

    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@every_service
def test_a_service_starts_after_what_it_needs_is_healthy(name: str) -> None:
    needed = SERVICES[name].get("depends_on", {})

    few = {"mlflow": {"postgres"}, "archiver": {"kafka"}, "kafka": set(), "postgres": set()}
    assert set(needed) == few.get(name, {"kafka", "postgres", "mlflow"})
    assert {how["condition"] for how in needed.values()} <= {"service_healthy"}


def test_no_secret_has_a_value_in_the_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    secret = re.compile(r"\$\{(\w*(?:PASSWORD|TOKEN|SECRET)\w*)([^}]*)\}")

    assert {how[:2] for _, how in secret.findall(text)} == {":?"}
    assert {name for name, _ in secret.findall(text)} == set(SECRETS)
    assert re.findall(r"(?m)^ *\w*(?:PASSWORD|TOKEN|SECRET)\w*: (?!\$\{)|://\w+:(?!\$\{)\w+@", text) == []
    assert set(re.findall(r"(?m)^(\w+)=$", (ROOT / ".env.example").read_text(encoding="utf-8"))) == set(SECRETS)


@every_service
def test_every_volume_is_declared_or_is_a_folder_of_the_repository(name: str) -> None:
    sources = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]

    assert [source for source in sources if source not in COMPOSE["volumes"] and not (ROOT / source).is_dir()] == []


@each_of_ours
def test_a_command_of_ours_runs_without_docker(name: str) -> None:
    program, noun, *options = SERVICES[name]["command"]
    assert (program, noun in COMMANDS) == ("tickwise", True)

    run = subprocess.run(
        [sys.executable, "-m", "api.cli", noun, *options, "--help"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert run.returncode == 0, run.stderr.decode()


@each_of_ours
def test_the_variables_of_a_service_are_settings_of_its_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment_of(name).items():
        monkeypatch.setenv(key, value)

    settings = OURS[name].read()

    check_names(OURS[name])
    assert settings.kafka == "kafka:9092"
    assert (settings.archive is not None) == (name in ("archiver", "runner"))
    if name == "archiver":
        return  # it knows no other store
    assert (
        settings.job_store_url == f"postgresql+psycopg://tickwise:{SECRETS['POSTGRES_PASSWORD']}@postgres:5432/tickwise"
    )
    assert settings.tracking_uri == "http://mlflow:5000"


def test_the_model_store_takes_the_options_it_is_given() -> None:
    options = SERVICES["mlflow"]["command"]
    assert options[:2] == ["mlflow", "server"]

    # --help is read before any value is used; an unknown option ends with another exit status
    run = subprocess.run(
        [sys.executable, "-m", *options, "--help"],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment_of("mlflow")},
    )

    assert run.returncode == 0, run.stderr.decode()


def test_the_hosts_that_the_model_store_answers_are_those_it_is_called_by() -> None:
    allowed = next(option for option in SERVICES["mlflow"]["command"] if option.startswith("--allowed-hosts="))
    called = {
        CommonSettings(mlflow_tracking_uri=environment_of(name)["MLFLOW_TRACKING_URI"]).tracking_uri
        for name in OURS
        if name != "archiver"
    }

    assert {address.removeprefix("http://") for address in called} <= set(allowed.partition("=")[2].split(","))


def test_the_pipelines_that_compose_mounts_can_be_read() -> None:
    assert list(load_all(ROOT / "pipelines")) == ["direction"]


def test_the_images_are_built_from_pinned_and_hashed_parts() -> None:
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    installs = re.findall(r"^RUN \S*pip install (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(installs) == {"--require-hashes", "--no-deps"}


@each_of_ours
def test_a_service_is_built_from_a_target_of_the_dockerfile(name: str) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    target = SERVICES[name]["build"]["target"]

    assert target in targets
    assert SERVICES[name]["image"] == f"tickwise-{target}:{VERSION}"
    assert target == ("train" if name == "runner" else "serve")


def test_the_wheel_that_the_images_install_is_complete(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run(
        [*command, "."], cwd=ROOT, check=True, timeout=120, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    )

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"api", "streams", "model_ops_manager", "data_io", "ml_core"}
    assert {"streams/local_kafka/pom.xml", "streams/local_kafka/log4j2.xml", "api/cli/__main__.py"} <= set(names)
