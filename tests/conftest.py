"""What holds for every test: no setting of the person who runs it, and no network beyond this machine."""

import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# A shared machine may stall any single example; the limit per test still stands.
hypothesis.settings.register_profile("tickwise", deadline=None)
hypothesis.settings.load_profile("tickwise")

LOCAL_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def pytest_configure() -> None:
    for name in list(os.environ):
        if name.startswith(("TICKWISE_", "MLFLOW_")) and not name.startswith("TICKWISE_TEST_"):
            del os.environ[name]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Refuse connections to other machines, so that no test depends on one; processes that a test starts are free."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(plug: socket.socket, address: Any) -> None:
        if plug.family in LOCAL_FAMILIES and not is_loopback(address[0]):
            raise PermissionError(f"a test tried to reach {address[0]}; tests stay on 127.0.0.1")

    def guarded_connect(plug: socket.socket, address: Any) -> None:
        check(plug, address)
        connect(plug, address)

    def guarded_connect_ex(plug: socket.socket, address: Any) -> int:
        check(plug, address)
        return connect_ex(plug, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        yield


@pytest.fixture(scope="session")
def compiled_kernels() -> None:
    """In a new installation a worker compiles for longer than a test waits."""
    from streams import kernels

    code = "from streams import kernels; kernels.load()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=kernels.COMPILE_S)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
