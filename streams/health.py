"""Health and metrics of the worker over HTTP: /livez, /readyz, /metrics."""

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from ml_core.errors import SetupError
from streams.settings import WorkerSettings
from streams.transport.tick_source import SILENT_S, TickSource
from streams.watchdog import Watchdog


class _Quiet(WSGIRequestHandler):
    timeout = 5

    def log_message(self, *_: Any) -> None:
        """Write no line per request."""


class HealthServer:
    """A thread that answers three paths; off when the port is 0."""

    def __init__(self, settings: WorkerSettings, source: TickSource, watchdog: Watchdog) -> None:
        """Report on ``source`` as ``watchdog`` sees it; listens once entered."""
        self.settings, self.source, self.watchdog = settings, source, watchdog
        self._metrics = make_wsgi_app()
        self._server: WSGIServer | None = None

    def problems(self) -> list[str]:
        """Return why the worker is not ready; empty when it is."""
        found = []
        if self.source.fatal.done():
            found.append("the tick source gave up")
        if not self.source.all_open:
            found.append("not every assigned partition is open")
        found += [f"partition {number}: {why}" for number, why in sorted(self.source.troubles.copy().items())]
        busy_since, silent_s = self.source.busy_since, self.source.silent_s
        if busy_since is not None and time.monotonic() - busy_since > self.settings.stuck_s:
            found.append(f"one batch has been at the agents for {time.monotonic() - busy_since:.0f} s")
        if silent_s > SILENT_S:
            found.append(f"Kafka has not answered for {silent_s:.0f} s")
        if self.watchdog.stalled_s > self.settings.stuck_s:
            found.append(f"ticks wait and nothing has moved for {self.watchdog.stalled_s:.0f} s")
        return found

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start)
            return answer
        if path == "/livez":
            status, body = "200 OK", "ok\n"
        elif path == "/readyz":
            problems = self.problems()
            status, body = ("503 Service Unavailable", "\n".join(problems) + "\n") if problems else ("200 OK", "ok\n")
        else:
            status, body = "404 Not Found", "paths: /livez /readyz /metrics\n"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body.encode()]

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            SetupError: The port is taken.
        """
        if self.settings.worker_port:
            try:
                self._server = make_server(
                    self.settings.worker_host, self.settings.worker_port, self._answer, handler_class=_Quiet
                )
            except OSError as error:
                raise SetupError(
                    f"cannot listen on {self.settings.worker_host}:{self.settings.worker_port}: {error}"
                ) from error
            threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
