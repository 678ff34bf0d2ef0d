"""What happens around every request: an id, a count, a time, a limit, a look at the host it was meant for."""

import re
import time
import uuid

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import BODY_TOO_LARGE, internal, problem
from api.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PORT = re.compile(r":\d+$")
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


def header(scope: Scope, name: bytes) -> bytes:
    """Return the first header ``name``, given in lower case as servers hand them over; empty where there is none.

    Starlette's own look-up decodes every header of every request first.
    """
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


class RequestContext:
    """Gives a request its id (the caller's ``X-Request-ID`` where it is plain) and measures it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        """Wrap ``app``; ``metrics`` takes the counts."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, begun, status = time.perf_counter(), False, 500

        async def send_with_id(message: Message) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if begun:
                raise  # too late for another answer: the connection ends
            await internal(Request(scope), error)(scope, receive, send_with_id)
        finally:
            # the template, not the path: a label for each job id would grow without bound
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(scope["method"], route, str(status)).inc()
            self.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)


class LoopbackHost:
    """Answers only requests meant for this machine by name.

    Without a token, a web page anywhere could otherwise let its own name point to 127.0.0.1 and call from the
    browser of somebody who runs a server here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request, or refuse it with 421."""
        if scope["type"] == "http":
            name = PORT.sub("", header(scope, b"host").decode("latin-1")).lower()
            if name not in LOOPBACK_NAMES:
                detail = "Without a token this server answers to 127.0.0.1 and localhost alone; set TICKWISE_API_TOKEN."
                await problem(Request(scope), 421, detail, "wrong_host")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _TooLargeError(HTTPException):
    """The body goes on past the limit."""


class BodyLimit:
    """Refuses bodies over a limit with 413, announced or not; FastAPI's own limit answers with plain text."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        """Wrap ``app``; a body has at most ``limit`` bytes."""
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken, announced = 0, header(scope, b"content-length")
        if announced.isdigit() and int(announced) > self.limit:
            await self._refuse(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise _TooLargeError(413, self._detail)
            return message

        try:
            await self.app(scope, counted, send)
        except _TooLargeError:  # it was read where no framework makes an answer of it
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await problem(Request(scope), 413, self._detail, BODY_TOO_LARGE)(scope, receive, send)

    @property
    def _detail(self) -> str:
        return f"the body has more than {self.limit} bytes"
