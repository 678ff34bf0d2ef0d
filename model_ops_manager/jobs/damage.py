"""Rows that versions wrote which checked less: a database holds their parameters, and cannot look into them."""

import json
from typing import Any

from sqlalchemy import Connection, Text, cast, or_, select, update

from ml_core.errors import InputError
from ml_core.types import JobState
from model_ops_manager.jobs.database import jobs
from model_ops_manager.jobs.job import check_params

_SPEC = cast(jobs.c.spec, Text)
_OVER = [state.value for state in JobState if state.is_final]


def mend(connection: Connection, now_ns: int) -> int:
    """Take parameters that no database can read out of their jobs, fail those that are not over, return how many."""
    marks = (_SPEC.contains(each, autoescape=True, escape="/") for each in ("\\u", "NaN", "Infinity"))
    suspects = select(jobs.c.id, jobs.c.state, _SPEC).where(or_(*marks))
    count = 0
    for job_id, state, text in connection.execute(suspects).all():
        spec = json.loads(text)
        why = {name: said for name, value in spec["params"].items() if (said := _objection(name, value))}
        if not why:
            continue
        left = {name: value for name, value in spec["params"].items() if name not in why}
        mended: dict[str, Any] = {"spec": {**spec, "params": left}}
        if state not in _OVER:
            error = "; ".join(why.values())
            mended |= {"state": JobState.FAILED.value, "finished_ns": now_ns, "lease_until_ns": None, "error": error}
            mended |= {"error_type": InputError.__name__, "registering": False}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(mended))
        count += 1
    return count


def _objection(name: str, value: object) -> str | None:
    try:
        check_params({name: value})
    except InputError as error:
        return str(error)
    return None
