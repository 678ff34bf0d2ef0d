"""Probes and figures."""

import re

from ml_core.errors import JobStoreUnavailableError


async def test_alive_looks_at_nothing_else(client):
    answer = await client.get("/livez")

    assert (answer.status_code, answer.text) == (200, "ok")


async def test_not_ready_names_what_is_missing(client, serving_of):
    await serving_of(client)

    answer = await client.get("/readyz")

    assert answer.status_code == 503
    lines = answer.text.splitlines()
    assert "[+]jobs ok" in lines
    assert "[+]model demo ok" in lines
    assert "[-]model untrained: no version is champion yet" in lines
    assert any(line.startswith("[-]rows demo: ") for line in lines)
    assert lines[-1] == "not ready"


async def test_ready_says_so_and_verbose_says_of_what(client, serving_of, monkeypatch):
    await serving_of(client)
    await serving_of(client, "windows")
    client.parts.followers["untrained"].current = client.parts.followers["demo"].current
    await client.parts.stop()  # else the consumer would soon report again that Kafka is away
    for rows in client.parts.rows.values():
        rows.problem = None

    short, long = await client.get("/readyz"), await client.get("/readyz?verbose")

    assert (short.status_code, short.text) == (200, "ok")
    assert long.text.splitlines().count("[+]rows demo ok") == 1

    def away():
        raise JobStoreUnavailableError("the database is away")

    monkeypatch.setattr(client.parts.jobs, "ping", away)
    assert "[-]jobs: the database is away" in (await client.get("/readyz")).text


async def test_figures_have_one_prefix_and_templates_instead_of_ids(client):
    await client.get("/v1/jobs/train-1")
    await client.get("/nowhere/at/all")

    text = (await client.get("/metrics")).text

    assert {line.split("_")[0] for line in text.splitlines() if not line.startswith("#")} == {"tickwise"}
    assert 'tickwise_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 1.0' in text
    assert 'route="none"' in text
    assert "train-1" not in text
    assert re.search(r'tickwise_latest_rows_ready\{feature_set="demo"\} 0\.0', text)


async def test_pipelines_are_shown_as_they_are_understood(client):
    listed = (await client.get("/v1/pipelines")).json()["pipelines"]
    one = (await client.get("/v1/pipelines/windows")).json()
    missing = await client.get("/v1/pipelines/window")

    assert [each["name"] for each in listed] == ["demo", "untrained", "windows"]
    assert (one["features"], one["window"], one["horizons"]) == (["return:1s", "queue_imbalance"], 3, ["1s"])
    assert one["spec"]["train"]["batch_size"] == 1024
    assert (missing.status_code, missing.json()["detail"]) == (404, "no pipeline 'window'; did you mean 'windows'?")
