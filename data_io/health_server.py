"""Health and metrics of a process over HTTP: /livez, /readyz, /metrics."""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from ml_core.errors import SetupError

MAX_CONNECTIONS = 32  # more are closed at once


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a connection: one that says nothing keeps nobody else from asking."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write no traceback: whoever asked has gone, or said nothing for too long."""


class _Quiet(WSGIRequestHandler):
    timeout = 5

    def log_message(self, *_: Any) -> None:
        """Write no line per request."""


class HealthServer:
    """A thread that answers three paths; off when the port is 0."""

    def __init__(
        self, host: str, port: int, problems: Callable[[], list[str]], notes: Callable[[], list[str]] = list
    ) -> None:
        """Report what ``problems`` returns, in any thread: why the process is not ready. Listens once entered.

        What ``notes`` returns is told beside it and makes nothing unready.
        """
        self._host, self._port, self._problems, self._notes = host, port, problems, notes
        self._metrics = make_wsgi_app()
        self._server: WSGIServer | None = None

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start)
            return answer
        if path == "/livez":
            status, body = "200 OK", "ok\n"
        elif path == "/readyz":
            problems = self._problems()
            status = "503 Service Unavailable" if problems else "200 OK"
            body = "\n".join([*(problems or ["ok"]), *(f"note: {note}" for note in self._notes())]) + "\n"
        else:
            status, body = "404 Not Found", "paths: /livez /readyz /metrics\n"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body.encode()]

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            SetupError: The port is taken.
        """
        if self._port:
            try:
                self._server = make_server(self._host, self._port, self._answer, _Server, _Quiet)
            except OSError as error:
                raise SetupError(f"cannot listen on {self._host}:{self._port}: {error}") from error
            threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
