"""Health over HTTP: whoever says nothing keeps nobody else from asking."""

import socket
import urllib.request
from contextlib import ExitStack

import pytest

from data_io import health_server
from data_io.health_server import HealthServer
from streams.local_kafka.node import free_ports


def asked(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        return answer.read().decode()


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(health_server, "MAX_CONNECTIONS", 3)
    [port] = free_ports(1)
    with HealthServer("127.0.0.1", port, list):
        yield port


def test_connections_that_say_nothing_hold_up_nobody_else(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert asked(port) == "ok\n"


def test_more_connections_than_there_is_room_for_are_closed_at_once(port: int) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=3)) for _ in range(4)]
        assert silent[-1].recv(1) == b""


def test_whoever_has_gone_leaves_no_traceback_and_its_room(port: int, capfd) -> None:
    for _ in range(9):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
    assert asked(port) == "ok\n"
    assert capfd.readouterr().err == ""
