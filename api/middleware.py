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
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


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
        given = Request(scope).headers.get("x-request-id", "")
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
            request = Request(scope)
            name = re.sub(r":\d+$", "", request.headers.get("host", "")).lower()
            if name not in LOOPBACK_NAMES:
                detail = "Without a token this server answers to 127.0.0.1 and localhost alone; set TICKWISE_API_TOKEN."
                await problem(request, 421, detail, "wrong_host")(scope, receive, send)
                return
        await self.app(scope, receive, send)


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
        request, taken = Request(scope), 0
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.limit:
            await problem(request, 413, self._detail, BODY_TOO_LARGE)(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise HTTPException(413, self._detail)
            return message

        await self.app(scope, counted, send)

    @property
    def _detail(self) -> str:
        return f"the body has more than {self.limit} bytes"
