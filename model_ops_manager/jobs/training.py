"""The training job: ticks of exact offsets in, a registered version and a decision out. Runs in a process of its own.

usage: python -m model_ops_manager.jobs.training JOB_ID ATTEMPT
"""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog

from data_io.data_fetcher.kafka_range import Fetched, fetch_ranges, newest_ranges
from data_io.logs import configure
from data_io.topics.ticks import TickDecoder
from ml_core.errors import InputError, LeaseLostError, TickwiseError, TrainingCancelledError
from ml_core.fit import Fit, FittedModel, Progress, check, fit, losses, prior_losses
from ml_core.model.export import restated
from ml_core.spec import PipelineSpec
from ml_core.types import JobKind, JobState, OffsetRange
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import MlflowAgent, ModelVersion
from model_ops_manager.promotion import Decision, decide

log = structlog.get_logger()

# Progress of epochs that last milliseconds would be nothing but writes to the store.
PROGRESS_S = 0.3


class Training:
    """One attempt at one job."""

    def __init__(self, job: Job, store: JobStore, settings: RunnerSettings) -> None:
        """Prepare; ``run`` does the work."""
        self.job, self.store, self.settings = job, store, settings
        self.agent = MlflowAgent(settings.tracking_uri, settings.home)
        pipeline = job.pipeline_spec
        if job.spec.params:
            model = pipeline.model.model_copy(update={"params": {**pipeline.model.params, **job.spec.params}})
            folder = pipeline.folder
            pipeline = pipeline.model_copy(update={"model": model})
            pipeline._folder = folder  # noqa: SLF001 - copying a model leaves its private attributes out
        self.pipeline = pipeline
        self.cancelled = threading.Event()
        self._told_s = 0.0

    def run(self) -> dict[str, Any]:
        """Train, register and decide; return the result of the job.

        Raises:
            TickwiseError: What stood in the way; nothing was registered, the champion is untouched.
        """
        pipeline = self.pipeline
        check(pipeline)
        champion = self.agent.champion(pipeline.name)
        start = self._start(champion)
        self.tell(stage="fetch")
        fetched = self._fetch()
        self.tell(stage="train", ticks=len(fetched.frame))
        fitted = fit(
            fetched.frame,
            pipeline,
            start=start,
            seed=self.job.spec.seed,
            progress=self._epoch,
            cancelled=self.cancelled.is_set,
        )
        self.tell(stage="register", ticks=len(fetched.frame))
        model = restated(
            fitted.model,
            topic=pipeline.source.topic,
            ranges=[each.model_dump() for each in fetched.ranges],
            parent=f"{champion.name}/{champion.version}" if start is not None and champion is not None else None,
        )
        decision = self._decide(fitted, champion)
        if self.cancelled.is_set():
            raise TrainingCancelledError("cancelled")
        # The last look before anything is registered: an attempt that was given up writes no version.
        self.store.heartbeat(self.job, self.settings.lease_s)
        version = self.agent.register(model, params=self._params(fetched), tags=self._tags(model))
        self._promote(version, decision)
        log.info("model registered", action="register", job=self.job.id, version=version.version, reason=decision.reason)
        return {
            "version": version.version,
            "metrics": fitted.metrics,
            "decision": decision._asdict(),
            "ranges": [each.model_dump() for each in fetched.ranges],
            "rejected_records": fetched.rejected,
        }

    def tell(self, **progress: Any) -> None:
        """Store how far the job is."""
        self.store.progress(self.job, progress)
        self._told_s = time.monotonic()

    def _epoch(self, progress: Progress) -> None:
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self.tell(stage="train", **progress._asdict())

    def _start(self, champion: ModelVersion | None) -> FittedModel | None:
        if self.job.spec.kind is not JobKind.INCREMENTAL:
            return None
        if champion is None:
            raise InputError(f"{self.pipeline.name} has no champion to go on from; start with a job of kind batch")
        return self.agent.load_fitted(champion)

    def _fetch(self) -> Fetched:
        """Return the ticks of the ranges the job names, or the newest ones within ``train.span`` of event time."""
        kafka, topic = self.settings.kafka, self.pipeline.source.topic
        decoder = TickDecoder(self.pipeline.source.map)

        async def read() -> Fetched:
            if self.job.spec.ranges is not None:
                return await fetch_ranges(kafka, topic, self.job.spec.ranges, decoder)
            newest = await newest_ranges(kafka, topic, self.settings.max_ticks)
            return within_span(await fetch_ranges(kafka, topic, newest, decoder), self.pipeline.train.span)

        return asyncio.run(read())

    def _decide(self, fitted: Fit, champion: ModelVersion | None) -> Decision:
        """Hold the candidate against the champion on rows neither has seen; a first model against the class prior."""
        processed, pipeline = fitted.processed, self.pipeline
        chosen_I = processed.holdout_I
        rules = {"look_ahead_ns": pipeline.label.delay + max(pipeline.label.horizons), "gate": pipeline.gate}
        if champion is None:
            rival_I = prior_losses(processed, chosen_I, pipeline.label.kind)
            rival = "the class prior" if pipeline.label.kind == "direction" else "the mean return"
        else:
            serving = self.agent.load_fitted(champion)
            if serving.contract.feature_hash != fitted.model.contract.feature_hash or (
                serving.contract.label_kind,
                serving.contract.horizons_ns,
            ) != (fitted.model.contract.label_kind, fitted.model.contract.horizons_ns):
                return Decision(False, "features or labels changed: promote by hand after a look at the figures", {})
            chosen_I = chosen_I[processed.dataset.ts_ns_N[chosen_I] > serving.contract.trained_to_ns]
            rival_I = losses(serving, processed, chosen_I)
            rival = f"version {champion.version}"
        candidate_I = losses(fitted.model, processed, chosen_I)
        ts_ns_I = processed.dataset.ts_ns_N[chosen_I]
        return decide(candidate_I, rival_I, ts_ns_I, rival=rival, **rules)

    def _promote(self, version: ModelVersion, decision: Decision) -> None:
        about = {"reason": decision.reason, "figures": decision.figures}
        if decision.promote:
            self.agent.set_champion(version.name, version.version, **about)
        else:
            self.agent.note_decision(version.name, version.version, promote=False, **about)

    def _params(self, fetched: Fetched) -> dict[str, Any]:
        spec = self.pipeline
        return {
            "kind": self.job.spec.kind,
            "seed": self.job.spec.seed,
            "model": spec.model.kind,
            **{f"model.{key}": value for key, value in spec.model.params.items()},
            "features": len(fetched.frame.columns) and spec.features.window,
            "ticks": len(fetched.frame),
            "topic": spec.source.topic,
        }

    def _tags(self, model: FittedModel) -> dict[str, str]:
        contract = model.contract
        return {
            "tickwise.job": self.job.id,
            "tickwise.kind": self.job.spec.kind,
            "tickwise.trigger": self.job.spec.trigger,
            "tickwise.spec_hash": contract.spec_hash,
            "tickwise.feature_hash": contract.feature_hash,
            "tickwise.code_version": contract.code_version,
            "tickwise.parent": contract.parent or "",
            "tickwise.source": contract.topic or "",
            "tickwise.ranges": ",".join(f"{each.partition}:{each.start}-{each.end}" for each in contract.ranges),
        }


def within_span(fetched: Fetched, span_ns: int) -> Fetched:
    """Return what is at most ``span_ns`` of event time older than the newest tick, and the offset ranges of it.

    A range begins at the first tick that is young enough; older ones after it (late ticks) stay, as they arrived.
    """
    frame = fetched.frame
    young_N = (frame["ts_ns"] >= frame["ts_ns"].max() - span_ns).to_numpy()
    keep_N = np.zeros(len(frame), dtype=np.bool_)
    ranges = []
    for each in fetched.ranges:
        here_N = (frame["partition"] == each.partition).to_numpy()
        places = np.flatnonzero(here_N & young_N)
        if len(places):
            start = int(frame["offset"].iat[places[0]])
            keep_N |= here_N & (frame["offset"] >= start).to_numpy()
            ranges.append(OffsetRange(partition=each.partition, start=start, end=each.end))
    return Fetched(frame[keep_N].reset_index(drop=True), tuple(ranges), fetched.rejected)


def watch(store: JobStore, job: Job, lease_s: float, lost: Callable[[str], None], stop: threading.Event) -> None:
    """Keep the lease and listen for a request to cancel; ``lost`` is told why the work has to end."""
    while not stop.wait(min(0.5, lease_s / 4)):
        try:
            if store.heartbeat(job, lease_s):
                lost("cancelled")
        except LeaseLostError as error:
            lost(str(error))
            return
        except TickwiseError as error:
            log.warning("heartbeat failed", action="heartbeat", job=job.id, error=str(error))


def main(job_id: str, attempt: int) -> int:
    """Run one attempt and write how it ended; return the exit code."""
    configure()
    settings = RunnerSettings.read()
    store = JobStore(settings.job_store_url)
    job = store.get(job_id)
    if job.attempt != attempt or job.state is not JobState.RUNNING:
        log.error("the job is no longer this attempt's", action="start", job=job_id, attempt=attempt)
        return 1
    try:
        training = Training(job, store, settings)
    except TickwiseError as error:
        store.finish(job, JobState.FAILED, error=str(error))
        return 1
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: training.cancelled.set())
    watcher = threading.Thread(
        target=watch,
        args=(store, job, settings.lease_s, lambda _why: training.cancelled.set(), stop),
        name="lease",
        daemon=True,
    )
    watcher.start()
    try:
        result = training.run()
        store.finish(job, JobState.SUCCEEDED, result=result)
    except TrainingCancelledError:
        store.finish(job, JobState.CANCELLED, error="cancelled on request")
        return 0
    except LeaseLostError as error:
        log.error("another attempt took over", action="lost", job=job_id, error=str(error))
        return 1
    except TickwiseError as error:
        store.finish(job, JobState.FAILED, error=str(error))
        return 1
    except MemoryError:
        store.finish(job, JobState.FAILED, error="out of memory: use fewer ticks or raise TICKWISE_JOB_MEMORY_MB")
        return 1
    except Exception as error:  # noqa: BLE001 - a bug in the job, or in a part of the user's own, ends this job only
        log.exception("job failed", action="failed", job=job_id)
        store.finish(job, JobState.FAILED, error=f"{type(error).__name__}: {error}")
        return 1
    finally:
        stop.set()
        watcher.join(5)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
