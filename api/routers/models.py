"""Models of the pipelines: their versions, and which one is champion."""

from datetime import datetime
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.errors import responses
from api.parts import Parts, PartsOf
from ml_core.spec import find

router = APIRouter(prefix="/v1/models", tags=["models"])

EXAMPLE: dict[str, Any] = {
    "pipeline": "demo",
    "champion": 3,
    "serving": 3,
    "problem": None,
    "versions": [
        {
            "version": 3,
            "champion": True,
            "created_at": "2026-11-24T10:00:00Z",
            "metrics": {"holdout_log_loss": 0.91, "prior_log_loss": 1.02},
            "decision": {"promote": True, "reason": "lower loss than the champion", "figures": {}},
            "tags": {"tickwise.job": "train-01JD8Z0V6W7X8Y9Z0A1B2C3D4E"},
        }
    ],
}


class VersionOut(BaseModel):
    """One registered version."""

    version: int
    champion: bool
    created_at: datetime
    metrics: dict[str, float]
    decision: dict[str, Any] = Field(description="promote, reason, figures; empty before it was judged")
    tags: dict[str, str]


class ModelOut(BaseModel):
    """The model of one pipeline."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    pipeline: str
    champion: int | None = Field(description="version that holds the alias")
    serving: int | None = Field(description="version that answers here; follows the champion once it passed its probe")
    problem: str | None = Field(description="why the champion does not serve, where it does not")
    versions: list[VersionOut] = Field(description="newest first, at most 100")


class ModelList(BaseModel):
    """The models of all pipelines."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"models": [EXAMPLE]}]})

    models: list[ModelOut]


class ChampionRequest(BaseModel):
    """Which version shall be champion."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": 2}]})

    version: int = Field(ge=1, lt=2**31)


@router.get("", operation_id="list_models", responses=responses(503))
async def list_models(parts: PartsOf) -> ModelList:
    """List the models of all pipelines; one without a model has no versions."""
    return ModelList(models=[await _model(parts, name) for name in parts.pipelines])


@router.get("/{pipeline}", operation_id="get_model", responses=responses(404, 503))
async def get_model(pipeline: str, parts: PartsOf) -> ModelOut:
    """Return the model of one pipeline: its versions with metrics, the decision on each, and which is champion."""
    return await _model(parts, find(parts.pipelines, pipeline).name)


@router.post("/{pipeline}/champion", operation_id="set_champion", responses=responses(404, 503))
async def set_champion(pipeline: str, asked: ChampionRequest, parts: PartsOf) -> ModelOut:
    """Make a version champion; workers and servers follow within seconds, if it passes their probe."""
    name = find(parts.pipelines, pipeline).name

    def move() -> None:
        parts.agent.set_champion(name, asked.version, reason="asked for over HTTP")

    await to_thread.run_sync(move, limiter=parts.model_threads)
    return await _model(parts, name)


async def _model(parts: Parts, name: str) -> ModelOut:
    def read() -> ModelOut:
        champion = parts.agent.champion(name)
        number = champion.version if champion else None
        follower = parts.followers[name]
        return ModelOut(
            pipeline=name,
            champion=number,
            serving=follower.current.version.version if follower.current else None,
            problem=follower.problem,
            versions=[
                VersionOut(**each._asdict(), champion=each.version == number) for each in parts.agent.versions(name)
            ],
        )

    return await to_thread.run_sync(read, limiter=parts.model_threads)
