"""Project errors as RFC 9457 problems: the one place where HTTP codes stand."""

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ml_core.errors import ConflictError, DependencyError, InputError, NotFoundError, TickwiseError

MAX_ERRORS = 20  # in one answer

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
BODY_TOO_LARGE = "body_too_large"
# one status a base; what is not listed is ours to mend: 500
STATUS: dict[type[TickwiseError], int] = {
    InputError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    DependencyError: 503,
}


class AccessDeniedError(Exception):
    """The request carries no valid token."""


class BusyError(DependencyError):
    """The server holds as many of these as it may. A retry is safe."""


class NotServingError(DependencyError):
    """The pipeline cannot predict now. A retry is safe."""


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="`#/...` into the body, or the name of the parameter or header")
    detail: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="URI of the kind of problem")
    title: str
    status: int
    detail: str
    instance: str = Field(description="path of the request")
    code: str = Field(description="stable name of the problem, for programs")
    request_id: str = Field(description="also in the header X-Request-ID and in the server's log")
    errors: list[FieldError] | None = None


def code_of(error: type[Exception]) -> str:
    """Return the stable name of a project error.

    >>> from ml_core.errors import JobNotFoundError
    >>> code_of(JobNotFoundError)
    'job_not_found'
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__.removesuffix("Error")).lower()


Responses = dict[int | str, dict[str, Any]]  # of a route, as FastAPI takes them


def responses(*statuses: int) -> Responses:
    """Return the OpenAPI entries of the problems that a route may answer, besides the common 401, 422 and 500."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({401, 422, 500, *statuses})
    }


def problem(
    request: Request,
    status: int,
    detail: str,
    code: str,
    *,
    errors: Sequence[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the answer for one problem."""
    body = Problem(
        type=f"urn:tickwise:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
        code=code,
        request_id=getattr(request.state, "request_id", ""),
        errors=list(errors) if errors is not None else None,
    )
    extra = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(
        body.model_dump(exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={**extra, **(headers or {})},
    )


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with a problem."""
    app.add_exception_handler(TickwiseError, answer)
    app.add_exception_handler(AccessDeniedError, _access_denied)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """Return the answer for a project error."""
    status = next((status for base, status in STATUS.items() if isinstance(error, base)), None)
    if status is None:
        return internal(request, error)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        logger.warning("%s %s: %s", request.method, request.url.path, error)
    return problem(request, status, str(error), code_of(type(error)))


async def _access_denied(request: Request, _error: Exception) -> JSONResponse:
    detail = "This server needs a token: send `Authorization: Bearer <token>`."
    return problem(request, 401, detail, "access_denied", headers={"WWW-Authenticate": "Bearer"})


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type alone
    found = error.errors()
    errors = [FieldError(pointer=_pointer(detail), detail=_reason(detail)) for detail in found[:MAX_ERRORS]]
    which = "see `errors`" if len(found) <= MAX_ERRORS else f"`errors` has the first {MAX_ERRORS} of {len(found)}"
    return problem(request, 422, f"The request is not valid; {which}.", "invalid_request", errors=errors)


def _pointer(detail: Mapping[str, Any]) -> str:
    loc = detail["loc"]
    if loc[0] != "body":
        return str(loc[-1])
    # of broken JSON the place is a position in the text, which is no pointer
    steps = loc[1:] if detail["type"] != "json_invalid" else ()
    return "#" + "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def _reason(detail: Mapping[str, Any]) -> str:
    # pydantic's messages name what was expected and never the value; a JSON error names a position
    return str(detail["msg"]).removeprefix("Value error, ")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
    # 413 alone has had two names over the versions of Python
    phrase = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_").replace("-", "_")
    code = BODY_TOO_LARGE if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else phrase
    return problem(request, error.status_code, str(error.detail), code, headers=error.headers)


def internal(request: Request, error: Exception) -> JSONResponse:
    """Return the answer for an error that nobody expected; only the log learns what it was."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(request, 500, "The server failed; its log has the details under this request_id.", "internal")
