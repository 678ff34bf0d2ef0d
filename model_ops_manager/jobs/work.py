"""The work of a training job: ticks of exact offsets in, a registered version and a decision about it out."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import structlog

from data_io.data_fetcher.kafka_range import Fetched, fetch_ranges, newest_ranges, within_span
from data_io.topics.ticks import TickDecoder
from ml_core.errors import InputError, TrainingCancelledError
from ml_core.fit import Fit, Progress, check, fit
from ml_core.model.export import restated
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import Scorer
from ml_core.types import JobKind
from model_ops_manager.jobs.evidence import Champion, judge
from model_ops_manager.jobs.job import Job
from model_ops_manager.jobs.settings import RunnerSettings
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import JOB_TAG, MlflowAgent, ModelVersion
from model_ops_manager.promotion import Decision
from model_ops_manager.recipe import Recipe
from model_ops_manager.registration import register

log = structlog.get_logger()

PROGRESS_S = 0.25  # epochs of milliseconds would make the job nothing but writes to the store
MAX_JUDGEMENTS = 3  # champions that other jobs make while this one registers


class Work:
    """One attempt at one job; it shares nothing with other jobs but the stores."""

    def __init__(self, job: Job, store: JobStore, agent: MlflowAgent, settings: RunnerSettings) -> None:
        """Prepare; ``run`` does the work.

        Raises:
            SpecError: The stored pipeline is not understood.
        """
        self.job, self.store, self.agent, self.settings = job, store, agent, settings
        self.pipeline = job.pipeline_spec()
        self._told_s = -math.inf

    def run(self, point_of_no_return: Callable[[], None]) -> dict[str, Any]:
        """Fetch, train, judge, register and, where the evidence allows, move the alias; return the job's result.

        Args:
            point_of_no_return: Called before the model is registered; from then on the work must not be interrupted.

        Raises:
            TrainingCancelledError: Cancellation was asked for before that point.
            LeaseLostError: Another attempt has taken the job over.
            TickwiseError: What stood in the way. Nothing was registered, the champion is untouched.
        """
        check(self.pipeline)
        version = self.agent.champion(self.pipeline.name)
        start = self._start(version)
        self._tell(stage="fetch")
        fetched = self._fetch()
        self._tell(stage="train", ticks=len(fetched.frame))
        fitted = fit(
            fetched.frame,
            self.pipeline,
            start=start,
            seed=self.job.spec.seed,
            threads=self.settings.job_threads,
            progress=self._epoch,
        )
        parent = f"{version.name}/{version.version}" if start is not None and version is not None else None
        model = restated(fitted.model, topic=self.pipeline.source.topic, ranges=fetched.ranges, parent=parent)
        fitted = fitted._replace(model=model)
        decision = judge(fitted, self.pipeline, self._load(version))
        point_of_no_return()
        if not self.store.begin_registering(self.job, stage="register", ticks=len(fetched.frame)):
            raise TrainingCancelledError("cancelled on request")
        made = register(
            self.agent,
            model,
            params=self._params(fitted, fetched),
            tags=self._tags(fitted),
            recipe=Recipe.of(self.pipeline),
        )
        decision = self._settle(made, fitted, version, decision)
        log.info("model registered", action="register", version=made.version, reason=decision.reason)
        return {
            "version": made.version,
            "metrics": fitted.metrics,
            "decision": decision._asdict(),
            "ticks": len(fetched.frame),
            "rejected": fetched.rejected,
            "ranges": [each.model_dump() for each in fetched.ranges],
            "parent": parent,
        }

    def _start(self, champion: ModelVersion | None) -> FittedModel | None:
        if self.job.spec.kind is not JobKind.INCREMENTAL:
            return None
        if champion is None:
            raise InputError(
                f"pipeline {self.pipeline.name!r} has no champion to go on from; start with a job of kind 'batch'"
            )
        return self.agent.load_fitted(champion)

    def _load(self, version: ModelVersion | None) -> Champion | None:
        return None if version is None else Champion(version.version, Scorer(self.agent.load_onnx(version)))

    def _fetch(self) -> Fetched:
        """Return the ticks of the job's ranges, or the newest ones within ``train.span`` of event time."""
        kafka, source, limit = self.settings.kafka, self.pipeline.source, self.settings.max_ticks
        archive = self.settings.archive
        decoder, asked = TickDecoder(source.map), self.job.spec.ranges

        async def read() -> Fetched:
            ranges = asked if asked is not None else await newest_ranges(kafka, source.topic, limit, archive)
            most = limit if asked is not None else None
            return await fetch_ranges(kafka, source.topic, ranges, decoder, limit=most, archive=archive)

        fetched = asyncio.run(read())
        return fetched if asked is not None else within_span(fetched, self.pipeline.train.span)

    def _settle(self, made: ModelVersion, fitted: Fit, judged: ModelVersion | None, decision: Decision) -> Decision:
        """Move the alias or not, and note why; a champion made by another job meanwhile is a new rival."""
        for _ in range(MAX_JUDGEMENTS):
            champion = self.agent.champion(made.name)
            if champion == judged:
                break
            judged, decision = champion, judge(fitted, self.pipeline, self._load(champion))
        reason, figures = decision.reason, decision.figures
        if decision.promote:
            self.agent.set_champion(made.name, made.version, reason=reason, figures=figures)
        else:
            self.agent.note_decision(made.name, made.version, promote=False, reason=reason, figures=figures)
        return decision

    def _epoch(self, progress: Progress) -> None:
        if time.monotonic() - self._told_s >= PROGRESS_S or progress.epoch == progress.epochs:
            self._tell(stage="train", **progress._asdict())

    def _tell(self, **progress: Any) -> None:
        numbers = {key: value if _is_json(value) else None for key, value in progress.items()}
        self.store.progress(self.job, **numbers)
        self._told_s = time.monotonic()

    def _params(self, fitted: Fit, fetched: Fetched) -> dict[str, Any]:
        spec = self.pipeline
        return {
            "kind": self.job.spec.kind.value,
            "seed": self.job.spec.seed,
            "model": spec.model.kind,
            **{f"model.{key}": value for key, value in spec.model.params.items()},
            "window": spec.features.window,
            "features": ",".join(fitted.model.contract.features),
            "label": spec.label.kind,
            "ticks": len(fetched.frame),
            **{f"train.{key}": value for key, value in spec.train.model_dump(mode="json").items()},
        }

    def _tags(self, fitted: Fit) -> dict[str, str]:
        contract = fitted.model.contract
        ranges = ",".join(f"{each.partition}:{each.start}-{each.end}" for each in contract.ranges)
        tags = {
            JOB_TAG: self.job.id,
            "tickwise.kind": self.job.spec.kind.value,
            "tickwise.trigger": self.job.spec.trigger,
            "tickwise.spec_hash": contract.spec_hash,
            "tickwise.feature_hash": contract.feature_hash,
            "tickwise.code_version": contract.code_version,
            "tickwise.dataset": f"kafka:{contract.topic}",
            "tickwise.ranges": ranges,
        }
        return tags if contract.parent is None else {**tags, "tickwise.parent": contract.parent}


def _is_json(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)  # JSON has no NaN, which is the train loss of epoch 0
