"""Who may call, from where, and with how much."""

import re

import pytest

from api.server import ROUTERS

TOKEN = "a-token-long-enough"  # noqa: S105 - of these tests alone
ROUTES = sorted((method, route.path) for router in ROUTERS for route in router.routes for method in route.methods)


def filled(path):
    return re.sub(r"\{\w+\}", "x", path)


def test_the_walk_below_sees_every_router():
    assert {path.split("/")[2].split(":")[0] for _, path in ROUTES} == {"jobs", "models", "pipelines", "predictions"}


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/metrics"), ("GET", "/openapi.json")])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}", "Bearer a-token-long-enoügh"])
async def test_every_route_refuses_a_call_without_the_token(make_client, method, path, header):
    async with make_client(api_token=TOKEN) as client:
        headers = {} if header is None else {"Authorization": header.encode()}
        answer = await client.request(method, filled(path), headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "access_denied"


async def test_with_the_token_everything_answers(make_client):
    async with make_client(api_token=TOKEN) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("/v1/jobs", "/v1/pipelines", "/metrics", "/openapi.json"):
            assert (await client.get(path, headers=headers)).status_code == 200, path


async def test_probes_need_no_token(make_client):
    async with make_client(api_token=TOKEN) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503  # without Kafka, but it answers


async def test_without_a_token_only_this_machine_is_answered_by_name(client):
    # a page elsewhere whose name points to 127.0.0.1 sends its own name as host
    rebound = await client.post("/v1/jobs", json={"pipeline": "demo"}, headers={"Host": "evil.example:8000"})

    assert (rebound.status_code, rebound.json()["code"]) == (421, "wrong_host")
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert (await client.get("/livez", headers={"Host": host})).status_code == 200


async def test_a_form_of_another_site_cannot_submit_a_job(client):
    # browsers send text/plain across origins without asking first
    answer = await client.post("/v1/jobs", content=b'{"pipeline": "demo"}', headers={"Content-Type": "text/plain"})

    assert answer.status_code == 422
    assert (await client.get("/v1/jobs")).json()["jobs"] == []


async def test_a_body_over_the_limit_is_refused(make_client):
    async with make_client(max_body_bytes=1024) as client:

        async def in_pieces():
            for _ in range(4):
                yield b" " * 512

        announced = await client.post("/v1/predictions", content=b" " * 2000)
        unannounced = await client.post("/v1/predictions", content=in_pieces())

    assert [announced.status_code, unannounced.status_code] == [413, 413]
    assert announced.json()["code"] == unannounced.json()["code"] == "body_too_large"


async def test_browsers_of_named_origins_may_call_and_others_not(make_client):
    async with make_client(cors_origins="https://app.example.com") as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Idempotency-Key"}
        good = await client.options("/v1/jobs", headers={"Origin": "https://app.example.com", **asked})
        bad = await client.options("/v1/jobs", headers={"Origin": "https://evil.example.com", **asked})
        plain = await client.get("/v1/pipelines", headers={"Origin": "https://app.example.com"})

    assert good.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-origin" not in bad.headers
    assert plain.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "Location" in plain.headers["access-control-expose-headers"]


async def test_without_settings_no_other_origin_may_call(client):
    answer = await client.get("/v1/pipelines", headers={"Origin": "https://app.example.com"})

    assert "access-control-allow-origin" not in answer.headers
