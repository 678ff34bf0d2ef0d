"""Training: ticks of exact offsets in, a registered version and a decision about it out."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from data_io.data_fetcher.kafka_range import Fetched
from ml_core.errors import InputError
from ml_core.fit import Fit, Progress, check, fit
from ml_core.model.export import restated
from ml_core.model.runtime import Scorer
from ml_core.types import JobKind
from model_ops_manager.jobs.evidence import Champion, judge
from model_ops_manager.jobs.patience import patiently
from model_ops_manager.jobs.works import cards
from model_ops_manager.jobs.works.base import Work
from model_ops_manager.jobs.works.leftovers import end_leftovers
from model_ops_manager.mlflow_agent import JOB_TAG, ModelVersion
from model_ops_manager.promotion import Decision
from model_ops_manager.recipe import Recipe
from model_ops_manager.registration import register

log = structlog.get_logger()

MAX_JUDGEMENTS = 3  # champions that other jobs make while this one registers


class Train(Work):
    """A batch job trains from scratch, an incremental one goes on from the champion of its first attempt."""

    def run(self, point_of_no_return: Callable[[], None]) -> dict[str, Any]:
        """Fetch, train, judge, register and, where the evidence allows, move the alias; see ``Work.run``."""
        check(self.pipeline)
        # now: somebody may edit an own part while it trains
        recipe = Recipe.of(self.pipeline, threads=self.settings.job_threads)
        champion = self.agent.champion(self.pipeline.name)
        end_leftovers(self.agent, self.store, self.job)
        origin = self._origin(champion)
        self.tell(stage="fetch")
        fetched = self.fetch()
        self._settle_inputs(fetched, origin)
        self.tell(stage="train", ticks=len(fetched.frame))
        fitted = fit(
            fetched.frame,
            self.pipeline,
            start=None if origin is None else self.agent.load_fitted(origin),
            marks=fetched.marks,
            seed=self.job.spec.seed,
            threads=self.settings.job_threads,
            progress=self._epoch,
            checkpoint=self.checkpoint,
        )
        parent = None if origin is None else f"{origin.name}/{origin.version}"
        model = restated(
            fitted.model,
            topic=self.pipeline.source.topic,
            ranges=fetched.ranges,
            gap_ranges=fetched.mark_ranges,
            parent=parent,
        )
        fitted = fitted._replace(model=model)
        decision = judge(fitted, self.pipeline, self._load(champion))
        drawn = self._draw(fitted)
        self.begin_registering(point_of_no_return, stage="register", ticks=len(fetched.frame))
        made = register(
            self.agent,
            model,
            params=self._params(fitted, fetched),
            tags=self._tags(fitted),
            recipe=recipe,
        )
        decision = self._settle(made, fitted, champion, decision)
        if drawn is not None:
            cards.keep(self.agent, made.run_id, drawn)
        log.info("model registered", action="register", version=made.version, reason=decision.reason)
        return {
            "version": made.version,
            "metrics": fitted.metrics,
            "intervals": {name: each._asdict() for name, each in fitted.intervals.items()},
            "decision": decision._asdict(),
            "ticks": len(fetched.frame),
            "rejected": fetched.rejected,
            "ranges": [each.model_dump() for each in fetched.ranges],
            "parent": parent,
        }

    def _origin(self, champion: ModelVersion | None) -> ModelVersion | None:
        """Return the version to go on from; every attempt goes on from the same one."""
        if self.job.spec.kind is not JobKind.INCREMENTAL:
            return None
        if self.job.settled is not None:
            return self.agent.version(self.pipeline.name, self.job.settled["origin"])
        if champion is None:
            raise InputError(
                f"pipeline {self.pipeline.name!r} has no champion to go on from; start with a job of kind 'batch'"
            )
        return champion

    def _settle_inputs(self, fetched: Fetched, origin: ModelVersion | None) -> None:
        """Note what another attempt has to start from, or its checkpoint would belong to other ticks or weights."""
        if self.job.settled is None:
            ranges, mark_ranges = ([r.model_dump() for r in each] for each in (fetched.ranges, fetched.mark_ranges))
            number = None if origin is None else origin.version
            patiently(lambda: self.store.settle(self.job, ranges=ranges, mark_ranges=mark_ranges, origin=number))

    def _draw(self, fitted: Fit) -> Path | None:
        """Return the folder with the card of the model: before the job registers, when it can be cancelled still."""
        if not self.settings.model_cards:
            return None
        folder = Path(tempfile.mkdtemp(prefix="tickwise-card-"))  # goes with the temporary folder of the attempt
        cards.draw(fitted, self.pipeline, folder, self.settings.home)
        return folder

    def _load(self, version: ModelVersion | None) -> Champion | None:
        return None if version is None else Champion(version.version, Scorer(self.agent.load_onnx(version)))

    def _settle(self, made: ModelVersion, fitted: Fit, judged: ModelVersion | None, decision: Decision) -> Decision:
        """Move the alias or not, and note why; a champion made by another job meanwhile is a new rival."""
        if judged is not None and judged.version == made.version:  # an attempt before was killed after it had moved it
            noted = next(each.decision for each in self.agent.versions(made.name) if each.version == made.version)
            return Decision(**noted)
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
        if self.is_telling_due or progress.epoch == progress.epochs:
            self.tell(stage="train", **progress._asdict())

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
