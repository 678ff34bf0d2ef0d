"""Settings of the worker."""

from typing import Literal, Self

from pydantic import Field, model_validator

from data_io.settings import PREFIX, CommonSettings

# Kafka aborts a transaction of 15 s; before that a checkpoint has to end it.
MAX_TRANSACTION_S = 10.0


class WorkerSettings(CommonSettings):
    """Settings of ``tickwise worker``."""

    group: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,100}$", description="worker group; default: from the topic"
    )
    instance: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]{1,100}$", description="static membership: unique per running worker"
    )
    delivery: Literal["default", "exactly_once"] = Field(
        default="default",
        description="exactly_once: predictions, rows and checkpoint are one transaction, for readers of committed data",
    )
    checkpoint_s: float | None = Field(
        default=None,
        gt=0,
        le=300,
        description="default 5, with exactly_once 0.2 and at most 10: readers of committed data wait for it",
    )
    linger_ms: float = Field(
        default=0, ge=0, le=1000, description="gather ticks of a partition this long: fewer, larger batches"
    )
    session_timeout_s: float = Field(default=10.0, ge=6, le=300)
    champion_poll_s: float = Field(default=2.0, gt=0, le=3600)
    worker_host: str = "127.0.0.1"
    worker_port: int = Field(default=0, ge=0, le=65535, description="port of /livez, /readyz and /metrics; 0: none")
    partitions: int = Field(
        default=4, ge=1, le=1024, description="partitions of market.ticks.v1 where it has to be created"
    )
    stuck_s: float = Field(default=60.0, gt=0, description="no progress for this long while ticks wait: not ready")
    stuck_exit_s: float = Field(default=300.0, ge=0, description="and for this long: the worker ends with 3; 0: never")
    shed: Literal["keep_all", "skip_to_latest"] = Field(
        default="keep_all",
        description="of a partition that is too far behind; skip_to_latest: what waits is skipped, counted and logged",
    )
    shed_lag: int = Field(default=1_000_000, ge=1, description="so many records behind is too far for skip_to_latest")
    parity_s: float = Field(
        default=60.0, ge=0, le=86_400, description="every so often some rows are computed again and compared; 0: never"
    )

    @property
    def checkpoint_interval_s(self) -> float:
        """Seconds between two checkpoints of a partition."""
        return self.checkpoint_s or (0.2 if self.delivery == "exactly_once" else 5.0)

    @model_validator(mode="after")
    def _transactions_end_in_time(self) -> Self:
        if self.delivery == "exactly_once" and self.checkpoint_interval_s > MAX_TRANSACTION_S:
            raise ValueError(
                f"{PREFIX}CHECKPOINT_S is more than {MAX_TRANSACTION_S:.0f} with {PREFIX}DELIVERY=exactly_once"
            )
        return self
