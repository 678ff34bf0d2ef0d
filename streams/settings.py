"""Settings of the worker."""

from pydantic import Field

from data_io.settings import CommonSettings


class WorkerSettings(CommonSettings):
    """Settings of ``tickwise worker``."""

    group: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,100}$", description="worker group; default: from the topic"
    )
    instance: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,100}$", description="static membership: unique per running worker"
    )
    checkpoint_s: float = Field(default=5.0, gt=0, le=300)
    session_timeout_s: float = Field(default=10.0, ge=6, le=300)
    champion_poll_s: float = Field(default=2.0, gt=0, le=3600)
    worker_host: str = "127.0.0.1"
    worker_port: int = Field(default=0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0: none")
    partitions: int = Field(
        default=4, ge=1, le=1024, description="partitions of market.ticks.v1 where it has to be created"
    )
    stuck_s: float = Field(default=60.0, gt=0, description="no progress for this long while ticks wait: not ready")
