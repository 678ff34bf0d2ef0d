"""Starts a training job after every N new labelled rows."""

import asyncio
from collections import defaultdict
from typing import Any

import faust
import structlog

from data_io.topics import label_counts
from ml_core.errors import TickwiseError
from model_ops_manager.triggers import times_full
from streams.agents.retraining import Trigger

log = structlog.get_logger()


class Totals:
    """Labelled rows of each pipeline over all partitions."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._counts: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)

    def step(self, count: label_counts.LabelCount, every: int) -> int:
        """Take in ``count`` and return how many times ``every`` rows are full.

        Counts are absolute and never shrink, so a repeated or late one changes nothing.

        >>> totals = Totals()
        >>> totals.step(label_counts.LabelCount(pipeline="p", topic_id="t", partition=0, labelled=90), 100)
        0
        >>> totals.step(label_counts.LabelCount(pipeline="p", topic_id="t", partition=1, labelled=120), 100)
        2
        """
        counts = self._counts[count.pipeline, count.topic_id]
        counts[count.partition] = max(count.labelled, counts.get(count.partition, 0))
        return times_full(sum(counts.values()), every)


def attach(app: faust.App, trigger: Trigger) -> Any:
    """Register the agent and return it."""
    topic = app.topic(label_counts.NAME, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    totals = Totals()
    started: dict[str, str] = {}  # pipeline -> idempotency key of the last job

    async def learning(stream: Any) -> None:
        async for value in stream:
            count = label_counts.decode(value)
            spec = trigger.pipelines.get(count.pipeline) if count else None
            if count is None or spec is None or spec.retrain.rows is None:
                continue
            full = totals.step(count, spec.retrain.rows)
            key = f"rows:{count.topic_id}:{spec.retrain.rows}:{full}"
            if not full or started.get(spec.name) == key:
                continue
            try:
                if await asyncio.to_thread(trigger.start, spec.name, "rows", key) is not None:
                    started[spec.name] = key
            except TickwiseError as error:
                log.error(
                    "job for new rows was not started", action="trigger", pipeline=count.pipeline, error=str(error)
                )

    return app.agent(topic, name="models.learning")(learning)
