"""`tickwise serve`: the HTTP server."""

import gc
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from api.cli.output import note
from api.cli.process import begin
from api.metrics import Metrics
from api.parts import Parts
from api.server import create_app
from api.settings import ServerSettings
from ml_core.errors import SetupError
from model_ops_manager.champion import Serving

app = typer.Typer(help="Run the HTTP server.", pretty_exceptions_enable=False)

BACKLOG = 128
CONNECTIONS = 1000  # more get 503 at once, so that a flood cannot take the memory


class Server(uvicorn.Server):
    """A server that ends its event streams when it is told to stop, so that it need not wait for their readers."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        """Serve as ``config`` says."""
        super().__init__(config)
        self.parts = parts

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal to stop."""
        self.parts.stopping = True
        super().handle_exit(sig, frame)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; another than loopback needs a token.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one.")] = None,
    kafka: Annotated[str | None, typer.Option(help="Kafka's bootstrap servers.")] = None,
    pipelines: Annotated[Path | None, typer.Option(help="Pipeline file or folder.")] = None,
) -> None:
    """Answer HTTP until SIGINT or SIGTERM. Every option is also a variable: TICKWISE_HOST, TICKWISE_PORT, ..."""
    begin()
    settings = ServerSettings.read(host=host, port=port, kafka=kafka, pipelines=pipelines)
    with listen(settings.host, settings.port) as listener:
        parts = Parts.build(settings, Metrics())
        for follower in parts.followers.values():
            follower.on_change.append(_keep)
        config = uvicorn.Config(
            create_app(settings, parts=parts),
            log_config=None,
            access_log=False,  # /metrics counts requests
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=settings.shutdown_s,
        )
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        described = "/openapi.json, with the token" if settings.api_token else "/docs"
        note(f"listening on http://{address}:{listener.getsockname()[1]}, its description is at {described}")
        # uvicorn raises the signal again once it has stopped: by then a stop is a success
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stopped)
        server = Server(config, parts)
        server.run(sockets=[listener])
    if not server.started:
        raise SetupError("the server did not start; the log above says why")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``, before anything else is started.

    Raises:
        SetupError: The port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SetupError(f"cannot listen on {host}: {error}") from error
    try:
        # without it a port stays taken for a minute after a restart; a port in use is refused all the same
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port or TICKWISE_PORT"
        ) from error
    return listener


def _keep(_serving: Serving) -> None:
    """Take what is loaded now, most of it code of MLflow's, out of what the garbage collector walks again and again."""
    gc.collect()
    gc.freeze()


def _stopped(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
