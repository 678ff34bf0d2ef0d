"""A job as server-sent events: states, not a log, so a watcher that lost its connection misses nothing it needs."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api.errors import BusyError
from api.parts import Parts, PartsOf
from ml_core.errors import DependencyError
from model_ops_manager.jobs.store import Job

RECONNECT_MS = 2000


async def event_slot(parts: PartsOf) -> AsyncIterator[Parts]:
    """Hold one of the bounded number of streams until its answer has ended.

    Raises:
        BusyError: All are taken. A retry is safe.
    """
    if parts.open_streams >= parts.settings.event_streams:
        raise BusyError(f"{parts.settings.event_streams} jobs are being watched; read /v1/jobs/<id> instead, or retry")
    parts.open_streams += 1
    try:
        yield parts
    finally:
        parts.open_streams -= 1


EventSlot = Annotated[Parts, Depends(event_slot)]


def job_events(job: Job, parts: Parts, seen: str | None, render: Callable[[Job], str]) -> Response:
    """Return the stream of ``job``'s states from now to its final one, each as ``render`` writes it.

    Args:
        job: The job as it is now.
        parts: Where later states come from.
        seen: Id of the last event that the caller has; that state is not sent again.
        render: Returns the JSON text of a job; equal texts are one state.
    """
    if job.state.is_final and seen == _id(render(job)):
        return Response(status_code=204)
    return StreamingResponse(
        _events(job, parts, seen, render),
        media_type="text/event-stream",
        # no-transform and the accelerator's header keep proxies from holding events back
        headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"},
    )


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def _events(job: Job, parts: Parts, seen: str | None, render: Callable[[Job], str]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    spoke = loop.time()
    while True:
        text = render(job)
        if (event_id := _id(text)) != seen:
            kind = "done" if job.state.is_final else "progress"
            yield format_sse_event(event=kind, id=event_id, data_str=text, retry=RECONNECT_MS)
            seen, spoke = event_id, loop.time()
        if job.state.is_final or parts.stopping:
            return
        if loop.time() - spoke >= parts.settings.heartbeat_s:
            yield KEEPALIVE_COMMENT
            spoke = loop.time()
        await asyncio.sleep(parts.settings.event_poll_s)
        try:
            job = await to_thread.run_sync(parts.jobs.get, job.id)
        except DependencyError:
            continue  # the store is away: heartbeats go on, and the state follows when it is back
