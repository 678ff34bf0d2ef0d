"""A job as it is stored, and how it is named."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_core import spec as pipeline_file
from ml_core.errors import InputError
from ml_core.spec import PipelineSpec
from ml_core.types import SECOND_NS, JobSpec, JobState

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_CHARACTERS = 26
_MS_NS = 1_000_000
_FRACTION_BITS = 20  # enough for the 10**6 nanoseconds of a millisecond
_RANDOM_BITS = 60
MAX_DEPTH = 16  # of lists and tables in a parameter


def new_id(now_ns: int) -> str:
    """Return the id of a job made at ``now_ns``; ids sort as the jobs were made.

    All kinds share the prefix, or their order would come first. The part after it is a ULID whose first random bits
    hold the nanoseconds within its millisecond.

    >>> new_id(1_700_000_000_000_000_001) < new_id(1_700_000_000_000_000_002), len(new_id(0))
    (True, 32)
    """
    ms, fraction = divmod(now_ns, _MS_NS)
    number = (ms << _FRACTION_BITS | fraction) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    return "train-" + "".join(_CROCKFORD[number >> 5 * place & 31] for place in reversed(range(_ID_CHARACTERS)))


@dataclass(frozen=True)
class Job:
    """One job; ``attempt`` counts how often a runner took it up and fences off the runners before."""

    id: str
    spec: JobSpec
    pipeline: dict[str, Any]  # the pipeline as it was when the job was submitted: `model_dump(mode="json")`
    folder: str | None  # of the pipeline file
    state: JobState
    attempt: int
    losses: int  # attempts whose process was killed or whose runner was lost
    settled: dict[str, Any] | None  # what the first attempt found and every later one has to go by
    runner: str | None  # who runs it, or ran it last
    lease_until_ns: int | None  # another runner may take it up after this
    cancel_requested: bool
    registering: bool  # an attempt has passed the point where the job can be cancelled
    idempotency_key: str | None
    progress: dict[str, Any] | None
    result: dict[str, Any] | None  # of a job that succeeded
    error: str | None  # of a job that failed
    error_type: str | None  # name of the class in `ml_core.errors`, where one applies
    created_ns: int
    started_ns: int | None  # of the last attempt
    finished_ns: int | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Job":
        """Return the job of one row of the table ``jobs``."""
        values = {**row, "state": JobState(row["state"])}
        values["spec"] = JobSpec.model_validate({**row["spec"], "priority": values.pop("priority")})
        del values["pipeline_name"]
        return cls(**values)

    @property
    def trigger(self) -> str:
        """What started the job."""
        return self.spec.trigger

    @property
    def created_at(self) -> datetime:
        """When the job was submitted, UTC."""
        return _utc(self.created_ns)

    @property
    def started_at(self) -> datetime | None:
        """When a runner took it up last, UTC."""
        return None if self.started_ns is None else _utc(self.started_ns)

    @property
    def finished_at(self) -> datetime | None:
        """When it reached its final state, UTC."""
        return None if self.finished_ns is None else _utc(self.finished_ns)

    def pipeline_spec(self) -> PipelineSpec:
        """Return the pipeline to train, with the model parameters that this job replaces.

        Raises:
            SpecError: The stored pipeline was written by a version that knew other names. A retry will not help.
        """
        model = dict(self.pipeline.get("model", {}))
        model["params"] = {**model.get("params", {}), **self.spec.params}
        folder = None if self.folder is None else Path(self.folder)
        return pipeline_file.parse({**self.pipeline, "model": model}, folder=folder, name=f"pipeline of {self.id}")


def check_params(params: Mapping[str, Any]) -> None:
    """Make sure that every database and every reader can take ``params``: one job that they choke on would hide all.

    Raises:
        InputError: A number is not finite, a text is no text, or they are nested very deeply. A retry will not help.
    """
    for name, value in params.items():
        if (why := _objection([name, value], MAX_DEPTH)) is not None:
            raise InputError(f"params: {name[:64]!a} {why}")


def _objection(value: object, depth: int) -> str | None:
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            return f"is nested more than {MAX_DEPTH - 1} deep"
        inside = [*value, *value.values()] if isinstance(value, Mapping) else value
        return next((why for each in inside if (why := _objection(each, depth - 1)) is not None), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if isinstance(value, str) and ("\0" in value or (not value.isascii() and not _is_text(value))):
        return "holds a character that is none"
    return None


def _is_text(value: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in value)  # halves of a pair


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // SECOND_NS, tz=UTC).replace(microsecond=time_ns % SECOND_NS // 1000)
