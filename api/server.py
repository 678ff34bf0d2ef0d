"""The HTTP server: what it answers, and what lives as long as it does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from anyio import to_thread
from fastapi import Depends, FastAPI
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from api import errors
from api.auth import require_token
from api.metrics import Metrics
from api.middleware import BodyLimit, LoopbackHost, RequestContext
from api.parts import Parts
from api.prediction_lane import PredictionLane
from api.routers import health, jobs, models, pipelines, predictions
from api.settings import ServerSettings
from data_io.topics.predictions import warm_up

# The one list to extend: a router here is served, guarded and described.
ROUTERS = (predictions.router, jobs.router, models.router, pipelines.router)

DESCRIPTION = """Scores market ticks from Kafka in real time and keeps its models honest by itself.

Errors are problems (RFC 9457). A prediction asked for by symbol equals the stream's for the same row."""


def create_app(settings: ServerSettings, *, parts: Parts | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: Of this server.
        parts: What it is made of; default: built from ``settings`` when the application starts.

    Kafka and the model store may be away when it starts: what needs them answers 503 and ``/readyz`` names them.
    """
    metrics = parts.metrics if parts else Metrics()
    app = FastAPI(
        title="tickwise",
        version=version("tickwise"),
        description=DESCRIPTION,
        lifespan=_lifespan(parts),
        # with a token the description is guarded too, by the route that `_describe` adds
        openapi_url="/openapi.json" if settings.api_token is None else None,
        redoc_url=None,
    )
    app.state.settings, app.state.metrics = settings, metrics
    errors.install(app)
    app.include_router(health.router)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(require_token)])
    if settings.api_token is not None:
        guard = [Depends(require_token)]

        def described() -> dict[str, Any]:
            return app.openapi()

        app.add_api_route("/openapi.json", described, include_in_schema=False, dependencies=guard)
    _describe_problems(app)
    (predict,) = predictions.router.routes
    token = settings.api_token
    app.add_middleware(PredictionLane, route=predict, token=token.get_secret_value() if token else None)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    if settings.api_token is None:
        app.add_middleware(LoopbackHost)
    app.add_middleware(RequestContext, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID"],
            expose_headers=["Location", "Retry-After", "Link", "X-Request-ID"],
        )
    return app


def _describe_problems(app: FastAPI) -> None:
    """Put the schema that every error answer refers to into the OpenAPI description."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        description = describe()
        parts = models_json_schema([(errors.Problem, "serialization")], ref_template="#/components/schemas/{model}")
        description["components"]["schemas"].update(parts[1]["$defs"])
        return description

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents for extending the description


def _lifespan(given: Parts | None) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts = given
        if parts is None:
            parts = await to_thread.run_sync(Parts.build, app.state.settings, app.state.metrics)
        app.state.parts = parts
        await to_thread.run_sync(warm_up)
        parts.start()
        try:
            yield
        finally:
            await parts.stop()

    return lifespan
