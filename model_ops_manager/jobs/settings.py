"""Settings of the runner."""

from pydantic import Field

from data_io.settings import CommonSettings


class RunnerSettings(CommonSettings):
    """Settings of ``tickwise runner``."""

    max_parallel: int = Field(default=1, ge=1, le=64, description="jobs at once, each a process of its own")
    runner_poll_s: float = Field(default=0.5, gt=0, le=60, description="how often the store is asked for work")
    lease_s: float = Field(default=30.0, ge=3, le=3600, description="a runner silent for so long has lost its jobs")
    job_timeout_s: float = Field(default=3600.0, gt=0, description="a job that runs longer is failed")
    job_memory_mb: int = Field(default=0, ge=0, description="address space of a job, MB; 0: no limit")
    max_ticks: int = Field(default=2_000_000, ge=1000, description="newest ticks a job reads where no ranges are given")
