"""The runs of a study in the model store: one of the study, and below it one a trial.

What was written is found again by its tags, so an attempt after one that was killed doubles nothing.
"""

import json
from collections.abc import Sequence
from typing import Any

from mlflow.entities import Metric, Param

from model_ops_manager import experiments
from model_ops_manager.mlflow_agent import JOB_TAG, MlflowAgent
from model_ops_manager.search_space import Trial

KIND_TAG, TRIAL_TAG, STATE_TAG, PARENT_TAG = "tickwise.kind", "tickwise.trial", "tickwise.state", "mlflow.parentRunId"
BEST, TRIALS = "best.toml", "trials.json"
_AT_ONCE = 1000  # metrics
_MOST_RUNS = 50_000  # that MLflow gives at once, and more than a study may have trials


class StudyRuns:
    """The runs of the study that one job is.

    Every method raises ModelStoreUnavailableError when the store does not answer; a retry is safe.
    """

    def __init__(self, agent: MlflowAgent, pipeline: str, job_id: str, *, made_ms: int, tags: dict[str, str]) -> None:
        """Find the run of the study, or make it.

        Args:
            agent: The store.
            pipeline: Name of the pipeline.
            job_id: The job.
            made_ms: What metrics are stamped with; the same in every attempt.
            tags: Of the run.
        """
        self._agent, self._job_id, self._made_ms = agent, job_id, made_ms
        with agent.errors():
            self._experiment = experiments.of_pipeline(agent, pipeline)
            found = self._search(f"tags.`{JOB_TAG}` = '{job_id}' AND tags.`{KIND_TAG}` = 'tune'")
            if found:
                self.run_id = str(found[0].info.run_id)
                agent.client().update_run(self.run_id, status="RUNNING")
            else:
                self.run_id = self._create(job_id, {**tags, KIND_TAG: "tune"})
            below = self._search(f"tags.`{PARENT_TAG}` = '{self.run_id}'")
        self._known = {int(run.data.tags[TRIAL_TAG]): run for run in below}

    def log(self, trial: Trial) -> None:
        """Write a trial; one that is there whole is left as it is."""
        known, client = self._known.get(trial.number), self._agent.client()
        if known is not None and known.info.status != "RUNNING":
            return
        with self._agent.errors():
            if known is None:
                tags = {PARENT_TAG: self.run_id, KIND_TAG: "trial", TRIAL_TAG: str(trial.number)}
                run_id = self._create(f"trial-{trial.number}", tags)
            else:
                run_id = str(known.info.run_id)
            losses = [Metric("validation_loss", loss, self._made_ms, epoch) for epoch, loss in enumerate(trial.losses)]
            if trial.losses:
                losses.append(Metric("lowest_validation_loss", trial.loss, self._made_ms, 0))
            client.log_batch(run_id, params=_params(trial))
            for start in range(0, len(losses), _AT_ONCE):
                client.log_batch(run_id, metrics=losses[start : start + _AT_ONCE])
            client.set_tag(run_id, STATE_TAG, trial.state)
            client.set_terminated(run_id, "FAILED" if trial.state == "failed" else "FINISHED")

    def finish(self, trials: Sequence[Trial], best: Trial, section: str) -> None:
        """Write what the study has found, with the sections of the pipeline file that say it."""
        client = self._agent.client()
        with self._agent.errors():
            client.log_batch(
                self.run_id,
                params=[*_params(best), Param("trial", str(best.number))],
                metrics=[Metric("lowest_validation_loss", best.loss, self._made_ms, 0)],
            )
            client.log_text(self.run_id, section, BEST)
            client.log_text(self.run_id, json.dumps([trial._asdict() for trial in trials]), TRIALS)
            client.set_terminated(self.run_id)

    def fail(self) -> None:
        """Say that the study came to nothing."""
        with self._agent.errors():
            self._agent.client().set_terminated(self.run_id, "FAILED")

    def _create(self, name: str, tags: dict[str, str]) -> str:
        made = self._agent.client().create_run(self._experiment, run_name=name, tags={JOB_TAG: self._job_id, **tags})
        return str(made.info.run_id)

    def _search(self, condition: str) -> list[Any]:
        return list(self._agent.client().search_runs([self._experiment], condition, max_results=_MOST_RUNS))


def _params(trial: Trial) -> list[Param]:
    return [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in trial.values.items()]
