"""Models over HTTP on a real model store."""


async def test_a_model_shows_its_versions_with_metrics_decision_and_champion(client, serving_of):
    await serving_of(client)

    model = (await client.get("/v1/models/demo")).json()

    assert (model["pipeline"], model["champion"], model["serving"], model["problem"]) == ("demo", 1, 1, None)
    assert [(each["version"], each["champion"]) for each in model["versions"]] == [(2, False), (1, True)]
    assert model["versions"][0]["metrics"] == {"holdout_log_loss": 0.9, "prior_log_loss": 1.0}
    assert model["versions"][0]["decision"] == {"promote": False, "reason": "by hand", "figures": {}}
    assert model["versions"][1]["decision"]["reason"] == "first"


async def test_every_pipeline_is_listed_also_without_a_model(client):
    models = (await client.get("/v1/models")).json()["models"]

    found = {model["pipeline"]: (model["champion"], len(model["versions"])) for model in models}
    assert found == {"demo": (1, 2), "windows": (1, 1), "untrained": (None, 0)}


async def test_the_alias_moves_when_asked_and_why_is_noted(client):
    moved = (await client.post("/v1/models/demo/champion", json={"version": 2})).json()

    assert moved["champion"] == 2
    assert moved["versions"][0]["decision"]["reason"] == "asked for over HTTP"
    assert client.parts.agent.champion("demo").version == 2


async def test_a_version_or_pipeline_that_is_not_there_changes_nothing(client):
    version = await client.post("/v1/models/demo/champion", json={"version": 9})
    pipeline = await client.post("/v1/models/dmeo/champion", json={"version": 1})
    nonsense = await client.post("/v1/models/demo/champion", json={"version": 0})

    assert (version.status_code, version.json()["code"]) == (404, "model_not_found")
    assert (pipeline.status_code, pipeline.json()["code"]) == (404, "pipeline_not_found")
    assert (nonsense.status_code, nonsense.json()["errors"][0]["pointer"]) == (422, "#/version")
    assert client.parts.agent.champion("demo").version == 1


async def test_a_model_store_that_is_away_takes_down_models_alone(make_client):
    async with make_client(mlflow_tracking_uri="http://127.0.0.1:1") as client:
        models = await client.get("/v1/models/demo")
        jobs = await client.get("/v1/jobs")
        ready = await client.get("/readyz")

    assert (models.status_code, models.json()["code"]) == (503, "model_store_unavailable")
    assert "retry-after" in models.headers
    assert jobs.status_code == 200
    assert "[-]model demo: " in ready.text
