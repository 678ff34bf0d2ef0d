"""Is it alive, is it ready, and how much has it done."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.auth import require_token
from api.errors import Responses, responses
from api.parts import PartsOf

router = APIRouter(tags=["health"])

LIVE: Responses = {200: {"content": {"text/plain": {"example": "ok"}}}}
READY: Responses = {
    200: {"content": {"text/plain": {"example": "[+]jobs ok\n[+]model demo ok\n[+]rows demo ok\nok"}}},
    503: {
        "description": "something that predictions or jobs need does not answer",
        "content": {"text/plain": {"example": "[+]jobs ok\n[-]rows demo: Kafka did not answer\nnot ready"}},
    },
}
METRICS: Responses = {200: {"content": {"text/plain": {"example": 'tickwise_http_model_version{pipeline="demo"} 3.0'}}}}


@router.get("/livez", operation_id="livez", response_class=PlainTextResponse, responses=LIVE)
async def livez() -> str:
    """Tell that the event loop turns; looks at nothing else, so a broken dependency restarts no server."""
    return "ok"


@router.get("/readyz", operation_id="readyz", response_class=PlainTextResponse, responses=READY)
async def readyz(parts: PartsOf, verbose: Annotated[str | None, Query(max_length=8)] = None) -> Response:
    """Tell whether jobs and predictions can be served; ``?verbose`` names each part and what is wrong with it."""
    checks = await parts.checks()
    ready = all(wrong is None for wrong in checks.values())
    lines = [f"[+]{name} ok" if wrong is None else f"[-]{name}: {wrong}" for name, wrong in checks.items()]
    text = "\n".join([*(lines if verbose is not None or not ready else []), "ok" if ready else "not ready"])
    return PlainTextResponse(text, status_code=200 if ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=PlainTextResponse,
    responses={**METRICS, 401: responses()[401]},
    dependencies=[Depends(require_token)],
)
def metrics(parts: PartsOf) -> Response:
    """Return the server's figures in Prometheus' text format."""
    parts.update_metrics()
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)
