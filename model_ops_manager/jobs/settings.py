"""Settings of the runner."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data_io.settings import PREFIX, CommonSettings
from ml_core.types import JobKind
from model_ops_manager.jobs.quotas import Quotas


class RunnerSettings(CommonSettings):
    """Settings of ``tickwise runner`` and of the jobs it starts."""

    max_parallel: int = Field(default=1, ge=1, le=64, description="jobs at once, each a process of its own")
    max_per_pipeline: int = Field(
        default=0, ge=0, description="jobs of one pipeline at once, over all runners; 0: no limit"
    )
    max_per_kind: dict[JobKind, Annotated[int, Field(ge=1)]] = Field(
        default={}, description='jobs of one kind at once, over all runners, such as {"batch": 2}'
    )
    runner_executor: Literal["local", "ray"] = Field(
        default="local", description="where jobs run: processes of this machine, or of the machines of a Ray cluster"
    )
    ray_address: str = Field(
        default="auto", description="HOST:PORT of a Ray cluster; auto: the one of this machine; local: start one here"
    )
    runner_poll_s: float = Field(
        default=0.25, ge=0.05, le=0.5, description="how often the store is asked for work and for cancellations"
    )
    lease_s: float = Field(default=30.0, ge=3, le=3600, description="a runner silent for so long has lost its jobs")
    runner_stop_s: float = Field(
        default=12.0, ge=1, le=600, description="how long a runner that stops waits for jobs that register a model"
    )
    job_timeout_s: float = Field(default=3600.0, ge=1, description="a job that runs longer has failed")
    job_memory_mb: int = Field(default=0, ge=0, description="a job with more resident memory has failed; 0: no limit")
    job_threads: int = Field(default=1, ge=1, le=256, description="cores one job may use")
    predictions: Path | None = Field(
        default=None, description="folder where prediction jobs write their files; none: predictions in TICKWISE_HOME"
    )
    prediction_topics: list[str] = Field(
        default=[], description='topics that prediction jobs may write to, such as ["past.btc"]; none: files alone'
    )
    history: Path | None = Field(
        default=None, description="folder of files of ticks that prediction jobs may read; none: data sets alone"
    )
    model_cards: bool = Field(
        default=True, description="draw a card of every model, with baselines and plots, and log it to its run"
    )
    max_ticks: int = Field(
        default=2_000_000, ge=1000, description="most ticks that one job trains on; predicting has no bound"
    )

    @property
    def quotas(self) -> Quotas:
        """How many jobs may run at once, over all runners."""
        return Quotas(self.max_per_pipeline, {kind.value: most for kind, most in self.max_per_kind.items()})

    def environment(self) -> dict[str, str]:
        """Return the variables from which a process of this runner reads these very settings."""
        folders = {name: getattr(self, name) for name in ("archive", "predictions", "history")}
        values = {
            **self.model_dump(mode="json", exclude={"jobs_url", "home", "mlflow_tracking_uri", *folders}),
            **{name: folder.absolute() for name, folder in folders.items() if folder is not None},
            "home": self.home.absolute(),
            "mlflow_tracking_uri": self.tracking_uri,
            "jobs_url": self.job_store_url,
        }
        return {
            PREFIX + name.upper(): json.dumps(value) if isinstance(value, dict | list) else str(value)
            for name, value in values.items()
        }
