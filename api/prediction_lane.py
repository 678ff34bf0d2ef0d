"""The short way to a prediction: a plain question is answered before the framework looks at it.

Of one request the framework's routing, dependencies and validation cost more than its share of the scoring. The lane
takes only what is right in every way; all else goes on to the route, which says what is wrong with it.
"""

import secrets
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.middleware import header
from api.parts import Parts
from api.questions import Question
from ml_core.errors import TickwiseError


class PredictionLane:
    """Answers ``POST`` of JSON to one path, with the same bytes as the route there."""

    def __init__(self, app: ASGIApp, *, route: Any, token: str | None) -> None:
        """Wrap ``app``.

        Args:
            app: Takes what the lane does not.
            route: The route that the lane goes beside; it gives the path, and its name to the metrics.
            token: That requests must carry.
        """
        self.app, self.route, self.path = app, route, route.path
        self._authorization = None if token is None else b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if not (scope["type"] == "http" and scope["path"] == self.path and self._is_plain(scope)):
            await self.app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        question = Question.read(b"".join([message.get("body", b"") for message in messages]))
        if question is None:
            await self.app(scope, _again(messages, receive), send)
            return
        scope["route"] = self.route
        app: FastAPI = scope["app"]
        parts: Parts = app.state.parts
        try:
            content = await parts.predict(question)
        except TickwiseError as error:
            response: Response = await errors.answer(Request(scope), error)
        else:
            response = Response(content, media_type="application/json")
        await response(scope, receive, send)

    def _is_plain(self, scope: Scope) -> bool:
        if scope["method"] != "POST" or header(scope, b"content-type") != b"application/json":
            return False
        if self._authorization is None:
            return True
        return secrets.compare_digest(header(scope, b"authorization"), self._authorization)


def _again(messages: list[Message], receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``messages`` once more, then goes on."""
    left = iter(messages)

    async def replayed() -> Message:
        for message in left:
            return message
        return await receive()

    return replayed
