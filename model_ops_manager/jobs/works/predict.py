"""Predicting past ticks: exact ticks and a version in, a Parquet file or records of a topic out.

An attempt after another one begins anew, with the ticks and the version of the first, so the outcome is the same. A
file gets its name when it is whole; records of a topic come again with equal names and values.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from data_io.datasets import manifest
from data_io.sinks.port import TOPIC
from ml_core.errors import InputError
from ml_core.types import OffsetRange
from model_ops_manager import prediction_run
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.patience import patiently
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.jobs.works.base import Work, settled_ranges
from model_ops_manager.jobs.works.leftovers import is_over
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.parity import Arrival, Offsets
from model_ops_manager.prediction_run import Parts, Ticks
from model_ops_manager.prediction_sinks import PART

log = structlog.get_logger()


class Predict(Work):
    """Makes rows and predictions of past ticks as a worker does."""

    def __init__(self, job: Job, store: JobStore, agent: MlflowAgent, settings: RunnerSettings) -> None:
        """Prepare; raises as ``Work``.

        Raises:
            InputError: The job does not say what to predict.
        """
        super().__init__(job, store, agent, settings)
        if job.spec.predict is None:
            raise InputError(f"{job.id} does not say what to predict")
        self.asked = job.spec.predict

    def run(self, point_of_no_return: Callable[[], None]) -> dict[str, Any]:
        """Settle ticks and version, then predict; see ``Work.run``."""
        out, settled = self._place(), self.job.settled
        self.tell(stage="fetch")
        asked = settled["version"] if settled else self.asked.version
        version = prediction_run.version_of(self.agent, self.pipeline, asked)
        scorer = prediction_run.load_scorer(self.agent, self.pipeline, version)
        ticks = asyncio.run(self._ticks())
        self._settle(ticks, version)
        found = asyncio.run(
            prediction_run.run(
                self.settings,
                self.pipeline,
                scorer,
                version,
                ticks,
                out,
                mark=f"{self.job.id}-{self.job.attempt}",
                watched=self._watched,
                closing=lambda: self.begin_registering(point_of_no_return, stage="write"),
            )
        )
        log.info("ticks predicted", action="predict", out=out, rows=found.rows)
        return {
            "version": version,
            "out": out,
            **found._asdict(),
            "ranges": None if ticks.ranges is None else [each.model_dump() for each in ticks.ranges],
        }

    def _place(self) -> str:
        """Return where predictions go, with nothing left there of attempts that are over."""
        if self.asked.to.startswith(TOPIC):
            topic, allowed = self.asked.to.removeprefix(TOPIC), self.settings.prediction_topics
            if topic not in allowed:  # whoever may submit jobs may not write to whatever others read
                raise InputError(
                    f"prediction jobs may not write to topic {topic!r}; TICKWISE_PREDICTION_TOPICS names "
                    f"{', '.join(allowed) or 'none'}"
                )
            return self.asked.to
        folder = self.settings.predictions or self.settings.home / "predictions"
        for path in folder.glob(f".*{PART}"):
            owner = path.name.removesuffix(PART).rpartition(".")[2].rpartition("-")[0]
            if owner == self.job.id or is_over(self.store, owner):
                path.unlink(missing_ok=True)
        return str(folder / self.asked.to)

    async def _ticks(self) -> Ticks:
        """Return the ticks to predict; those of an attempt before must be the same still."""
        settled, source = self.job.settled, self._source()
        if source is not None:
            ticks = prediction_run.of_source(source)
        else:
            ranges = self.job.spec.ranges if settled is None else settled_ranges(self.job)
            asked = self._arrival() if ranges is None else _offsets(ranges)
            ticks = await prediction_run.on_topic(self.settings.kafka, self.pipeline.source.topic, asked)
        if settled is not None and ticks.topic_id != settled["topic_id"]:
            raise InputError("the ticks are not those that an attempt before has found; submit the job anew")
        return ticks

    def _source(self) -> str | None:
        source = self.asked.source
        if source is None or source.startswith(manifest.PREFIX):
            return source
        if self.settings.history is None:
            raise InputError("the runner reads no files of ticks: TICKWISE_HISTORY names no folder; name a data set")
        path = self.settings.history / source
        if not path.is_file():  # a folder has no hash that tells whether it is still the same
            raise InputError(f"TICKWISE_HISTORY has no file {source!r}")
        return str(path)

    def _arrival(self) -> Arrival | None:
        times = (self.asked.since, self.asked.until)
        if times == (None, None):
            return None
        return Arrival(*(None if each is None else round(each.timestamp() * 1000) for each in times))

    def _settle(self, ticks: Ticks, version: int) -> None:
        if self.job.settled is None:
            ranges = None if ticks.ranges is None else [each.model_dump() for each in ticks.ranges]
            patiently(lambda: self.store.settle(self.job, ranges=ranges, topic_id=ticks.topic_id, version=version))

    async def _watched(self, parts: Parts) -> Parts:
        ticks = 0
        async for replay, batch in parts:
            yield replay, batch
            ticks += len(batch)
            if self.is_telling_due:
                self.tell(stage="predict", ticks=ticks)


def _offsets(ranges: Sequence[OffsetRange]) -> Offsets:
    found = {each.partition: (each.start, each.end) for each in ranges}
    if len(found) < len(ranges):
        raise InputError("ranges names a partition twice; give one range for each")
    return found
