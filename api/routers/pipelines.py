"""Pipelines this server knows, as their files say."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.errors import responses
from api.parts import PartsOf
from ml_core.spec import PipelineSpec, find, format_duration

router = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])


EXAMPLE: dict[str, Any] = {
    "name": "demo",
    "hash": "6f2a1c0d9e8b7a65",
    "topic": "market.ticks.v1",
    "feature_set": "demo",
    "features": ["return:1s", "queue_imbalance"],
    "window": 1,
    "horizons": ["1s"],
    "spec": {"name": "demo"},
}


class PipelineOut(BaseModel):
    """One pipeline."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    name: str
    hash: str = Field(description="changes when the file's meaning does")
    topic: str = Field(description="where its ticks come from")
    feature_set: str
    features: list[str] = Field(description="names of a row's values, in their order")
    window: int = Field(description="rows that one prediction looks at")
    horizons: list[str] = Field(description="how far ahead it predicts")
    spec: dict[str, Any] = Field(description="the whole file, defaults included")


class PipelineList(BaseModel):
    """All pipelines, by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pipelines": [EXAMPLE]}]})

    pipelines: list[PipelineOut]


def _out(spec: PipelineSpec, names: tuple[str, ...]) -> PipelineOut:
    return PipelineOut(
        name=spec.name,
        hash=spec.hash,
        topic=spec.source.topic,
        feature_set=spec.feature_set,
        features=list(names),
        window=spec.features.window,
        horizons=[format_duration(horizon) for horizon in spec.label.horizons],
        spec=spec.model_dump(mode="json"),
    )


@router.get("", operation_id="list_pipelines", responses=responses())
async def list_pipelines(parts: PartsOf) -> PipelineList:
    """List the pipelines."""
    return PipelineList(pipelines=[_out(spec, parts.plans[name].names) for name, spec in parts.pipelines.items()])


@router.get("/{pipeline}", operation_id="get_pipeline", responses=responses(404))
async def get_pipeline(pipeline: str, parts: PartsOf) -> PipelineOut:
    """Return one pipeline."""
    spec = find(parts.pipelines, pipeline)
    return _out(spec, parts.plans[spec.name].names)
