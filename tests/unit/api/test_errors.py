"""Every error is a problem, and no answer tells what only the log should hold."""

import logging

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from api import errors
from api.metrics import Metrics
from api.middleware import RequestContext
from ml_core.errors import (
    ConflictError,
    DependencyError,
    InputError,
    NotFoundError,
    SetupError,
    TickwiseError,
)


class Body(BaseModel):
    items: list[int] = Field(max_length=2)


@pytest.fixture
async def client():
    app = FastAPI()
    errors.install(app)
    app.add_middleware(RequestContext, metrics=Metrics())

    @app.post("/raise/{name}")
    async def fail(name: str):
        raise {**ERRORS, "RuntimeError": RuntimeError}[name]("secret-free words")

    @app.post("/body")
    async def body(_body: Body):
        return {}

    @app.post("/bodies")
    async def bodies(_bodies: list[Body]):
        return {}

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def leaves(base):
    return {base.__name__: base} | {k: v for sub in base.__subclasses__() for k, v in leaves(sub).items()}


ERRORS = {name: kind for name, kind in leaves(TickwiseError).items() if kind.__module__ == "ml_core.errors"}


@pytest.mark.parametrize("name", sorted(ERRORS))
async def test_every_project_error_has_the_status_of_its_base(client, name):
    expected = {InputError: 422, NotFoundError: 404, ConflictError: 409, DependencyError: 503, SetupError: 500}
    status = next((status for base, status in expected.items() if issubclass(ERRORS[name], base)), 500)

    answer = await client.post(f"/raise/{name}")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == (status == 503)
    body = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code", "request_id"} == set(body)
    assert body["instance"] == f"/raise/{name}"
    assert body["request_id"] == answer.headers["x-request-id"]
    if status != 500:
        assert (body["detail"], body["code"]) == ("secret-free words", errors.code_of(ERRORS[name]))


async def test_an_unexpected_error_says_nothing_but_is_logged(client, caplog):
    with caplog.at_level(logging.ERROR):
        answer = await client.post("/raise/RuntimeError", headers={"X-Request-ID": "abc-1"})

    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "abc-1"
    assert "words" not in answer.text
    assert "Traceback" not in answer.text
    assert caplog.records[0].exc_info[1].args == ("secret-free words",)


async def test_what_is_wrong_with_a_body_is_pointed_at_and_not_repeated(client):
    answer = await client.post("/body", json={"items": [1, "sesame"]})

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/items/1"]
    assert "sesame" not in answer.text


async def test_an_answer_names_the_first_errors_and_says_how_many_there_are(client):
    answer = await client.post("/bodies", json=[{"items": ["x"]}] * 500)

    assert answer.json()["detail"] == "The request is not valid; `errors` has the first 20 of 500."
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{n}/items/0" for n in range(20)]


async def test_broken_json_is_a_problem_of_the_whole_body(client):
    answer = await client.post("/body", content=b'{"items": [1', headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#"


async def test_an_unknown_path_and_a_wrong_method_are_problems_too(client):
    missing, wrong = await client.get("/nowhere"), await client.get("/body")

    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


async def test_an_odd_request_id_is_replaced(client):
    answer = await client.get("/nowhere", headers={"X-Request-ID": "a b\tc"})

    assert answer.headers["x-request-id"].isalnum()
