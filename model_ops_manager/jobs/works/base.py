"""What the works of all kinds share: the ticks they read, the progress they tell, the place of their checkpoint."""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import structlog

from data_io.data_fetcher.gap_range import with_marks
from data_io.data_fetcher.kafka_range import Fetched, fetch_ranges, newest_ranges, within_span
from data_io.topics.ticks import TickDecoder
from ml_core.errors import JobStoreUnavailableError, TrainingCancelledError
from ml_core.types import OffsetRange
from model_ops_manager.jobs.checkpoints import JobCheckpoint
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.patience import patiently
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import MlflowAgent

log = structlog.get_logger()

PROGRESS_S = 0.25  # epochs of milliseconds would make the job nothing but writes to the store


class Work(ABC):
    """One attempt at one job; it shares nothing with other jobs but the stores."""

    def __init__(self, job: Job, store: JobStore, agent: MlflowAgent, settings: RunnerSettings) -> None:
        """Prepare; ``run`` does the work.

        Raises:
            SpecError: The stored pipeline is not understood.
        """
        self.job, self.store, self.agent, self.settings = job, store, agent, settings
        self.pipeline = job.pipeline_spec()
        self.checkpoint = JobCheckpoint(settings.home, job.id, job.attempt)
        self._told_s = -math.inf

    @abstractmethod
    def run(self, point_of_no_return: Callable[[], None]) -> dict[str, Any]:
        """Do the work and return the job's result.

        Args:
            point_of_no_return: Called before anything is registered; from then on the work must not be interrupted.

        Raises:
            TrainingCancelledError: Cancellation was asked for before that point.
            LeaseLostError: Another attempt has taken the job over.
            TickwiseError: What stood in the way. Nothing was registered, the champion is untouched.
        """

    def fetch(self) -> Fetched:
        """Return the ticks of the job's ranges, or the newest ones within ``train.span`` of event time, and their gaps.

        An attempt after another one reads the very offsets that were settled then.
        """
        kafka, source, limit = self.settings.kafka, self.pipeline.source, self.settings.max_ticks
        archive = self.settings.archive
        decoder, asked = TickDecoder(source.map), self.job.spec.ranges
        known = asked if asked is not None else settled_ranges(self.job)

        async def read() -> Fetched:
            ranges = known if known is not None else await newest_ranges(kafka, source.topic, limit, archive)
            most = limit if asked is not None else None
            return await fetch_ranges(kafka, source.topic, ranges, decoder, limit=most, archive=archive)

        fetched = asyncio.run(read())
        if known is None:
            fetched = _as_read(within_span(fetched, self.pipeline.train.span))
        return asyncio.run(with_marks(kafka, source.gaps, fetched, settled_ranges(self.job, "mark_ranges")))

    def begin_registering(self, point_of_no_return: Callable[[], None], **progress: Any) -> None:
        """Pass the point after which the job cannot be cancelled.

        Raises:
            TrainingCancelledError, LeaseLostError: As ``run``.
        """
        point_of_no_return()
        if not patiently(lambda: self.store.begin_registering(self.job, **progress)):
            raise TrainingCancelledError("cancelled on request")

    def tell(self, **progress: Any) -> None:
        """Store how far the job is; a number that is not finite is told as None, while the store is away nothing.

        Raises:
            LeaseLostError: Another attempt has taken the job over.
        """
        numbers = {key: value if _is_json(value) else None for key, value in progress.items()}
        try:
            self.store.progress(self.job, **numbers)
        except JobStoreUnavailableError as error:
            log.warning("progress is not told", action="tell", error=str(error))
        self._told_s = time.monotonic()

    @property
    def is_telling_due(self) -> bool:
        """True when the last progress was told ``PROGRESS_S`` ago."""
        return time.monotonic() - self._told_s >= PROGRESS_S


def settled_ranges(job: Job, name: str = "ranges") -> tuple[OffsetRange, ...] | None:
    """Return the offsets that an attempt before has settled on; None where there was none, or they were of no topic.

    ``name`` says of what: ``ranges`` of ticks, ``mark_ranges`` of marks of gaps.
    """
    if job.settled is None or job.settled.get(name) is None:
        return None
    return tuple(OffsetRange.model_validate(each) for each in job.settled[name])


def _as_read(fetched: Fetched) -> Fetched:
    """Return ``fetched`` with its symbols as a reader of just its ranges finds them: in the order they come in."""
    symbol = fetched.frame["symbol"]
    fetched.frame["symbol"] = symbol.cat.set_categories(symbol.unique())
    return fetched


def _is_json(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)  # JSON has no NaN, which is the train loss of epoch 0
