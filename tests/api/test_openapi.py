"""The description of the API is valid, complete and stable."""

import json

from fastapi.openapi.models import OpenAPI

OPERATIONS = {
    "cancel_job": "POST /v1/jobs/{job_id}:cancel",
    "get_job": "GET /v1/jobs/{job_id}",
    "get_model": "GET /v1/models/{pipeline}",
    "get_pipeline": "GET /v1/pipelines/{pipeline}",
    "list_jobs": "GET /v1/jobs",
    "list_models": "GET /v1/models",
    "list_pipelines": "GET /v1/pipelines",
    "livez": "GET /livez",
    "metrics": "GET /metrics",
    "predict": "POST /v1/predictions",
    "readyz": "GET /readyz",
    "set_champion": "POST /v1/models/{pipeline}/champion",
    "submit_job": "POST /v1/jobs",
    "watch_job": "GET /v1/jobs/{job_id}/events",
}


def operations(description):
    return [(path, method, op) for path, item in description["paths"].items() for method, op in item.items()]


async def test_the_description_is_valid_and_every_reference_leads_somewhere(client):
    description = (await client.get("/openapi.json")).json()

    OpenAPI.model_validate(description)
    text = json.dumps(description)
    known = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert {part.split('"')[0] for part in text.split('"$ref": "')[1:]} <= known


async def test_operation_ids_are_those_that_clients_know(client):
    description = (await client.get("/openapi.json")).json()

    found = {op["operationId"]: f"{method.upper()} {path}" for path, method, op in operations(description)}

    assert found == OPERATIONS


async def test_every_operation_says_what_it_does_and_shows_it(client):
    description = (await client.get("/openapi.json")).json()
    schemas = description["components"]["schemas"]

    def shown(content):
        schema = schemas.get(content.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
        return "example" in content or "examples" in content or "examples" in schema

    for path, method, op in operations(description):
        place = f"{method} {path}"
        assert op.get("summary"), place
        assert op.get("description"), place
        assert op.get("tags"), place
        for content in op.get("requestBody", {}).get("content", {}).values():
            assert shown(content), f"{place}: the body has no example"
        for status, response in op["responses"].items():
            assert response["description"], f"{place} {status}"
            if status[0] == "2":
                for content in response.get("content", {}).values():
                    assert shown(content), f"{place}: the answer {status} has no example"


async def test_every_error_of_v1_is_described_as_a_problem(client):
    description = (await client.get("/openapi.json")).json()

    for path, method, op in operations(description):
        if not path.startswith("/v1/"):
            continue
        assert {"401", "422", "500"} <= set(op["responses"]), f"{method} {path}"
        for status, response in op["responses"].items():
            if status[0] in "45":
                reference = {"$ref": "#/components/schemas/Problem"}
                assert response["content"] == {"application/problem+json": {"schema": reference}}, f"{path} {status}"
