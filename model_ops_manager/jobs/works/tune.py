"""Tuning: ticks of exact offsets in, the trials of a study out, as runs of the model store.

The study is the job. Its finished trials are its checkpoint, and trial n is a function of those before it, so one that
was killed ends with the trials of an undisturbed one. Nothing is registered.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from data_io.data_fetcher.kafka_range import Fetched
from ml_core.errors import LeaseLostError, ModelStoreUnavailableError
from ml_core.fit import Progress, check, prepare
from ml_core.types import SECOND_NS
from model_ops_manager import study
from model_ops_manager.jobs.patience import patiently
from model_ops_manager.jobs.works.base import Work
from model_ops_manager.search_space import Trial, best, check_space
from model_ops_manager.study_runs import StudyRuns

log = structlog.get_logger()


class Tune(Work):
    """Searches the space that the pipeline file declares."""

    def run(self, point_of_no_return: Callable[[], None]) -> dict[str, Any]:
        """Fetch, try one trial after the other, and write what was found; see ``Work.run``."""
        check(self.pipeline)
        check_space(self.pipeline)
        self.tell(stage="fetch")
        fetched = self.fetch()
        if self.job.settled is None:
            ranges, mark_ranges = ([r.model_dump() for r in each] for each in (fetched.ranges, fetched.mark_ranges))
            patiently(lambda: self.store.settle(self.job, ranges=ranges, mark_ranges=mark_ranges))
        runs = self._runs(fetched)
        try:
            return self._search(runs, fetched, point_of_no_return)
        except LeaseLostError:
            raise
        except Exception:
            with suppress(ModelStoreUnavailableError):
                runs.fail()
            raise

    def _search(self, runs: StudyRuns, fetched: Fetched, point_of_no_return: Callable[[], None]) -> dict[str, Any]:
        trials = study.run(
            self.pipeline,
            prepare(fetched.frame, self.pipeline, marks=fetched.marks),
            self.checkpoint,
            seed=self.job.spec.seed,
            threads=self.settings.job_threads,
            told=runs.log,
            progress=self._epoch,
        )
        found = best(trials)
        section = study.as_toml(found.values)
        self.begin_registering(point_of_no_return, stage="register", trials=len(trials))
        runs.finish(trials, found, section)
        log.info("study ended", action="tune", trial=found.number, loss=found.loss)
        return {
            "run_id": runs.run_id,
            "best": {"trial": found.number, "validation_loss": found.loss, "values": found.values, "toml": section},
            "trials": _counts(trials),
            "ticks": len(fetched.frame),
            "ranges": [each.model_dump() for each in fetched.ranges],
        }

    def _runs(self, fetched: Fetched) -> StudyRuns:
        ranges = ",".join(f"{each.partition}:{each.start}-{each.end}" for each in fetched.ranges)
        tags = {
            "tickwise.trigger": self.job.spec.trigger,
            "tickwise.spec_hash": self.pipeline.hash,
            "tickwise.dataset": f"kafka:{self.pipeline.source.topic}",
            "tickwise.ranges": ranges,
        }
        made_ms = self.job.created_ns * 1000 // SECOND_NS
        return StudyRuns(self.agent, self.pipeline.name, self.job.id, made_ms=made_ms, tags=tags)

    def _epoch(self, number: int, progress: Progress) -> None:
        if self.is_telling_due:
            self.tell(stage="tune", trial=number, trials=self.pipeline.tune.trials, **progress._asdict())


def _counts(trials: list[Trial]) -> dict[str, int]:
    states = [trial.state for trial in trials]
    return {state: states.count(state) for state in ("complete", "pruned", "failed")}
