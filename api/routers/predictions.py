"""Predictions on demand: for a symbol's newest row, or for values that the caller has."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.errors import Responses, responses
from api.parts import PartsOf
from api.questions import MAX_FEATURES, MAX_NAME, MAX_ROWS, MAX_VALUE, Question

router = APIRouter(prefix="/v1/predictions", tags=["predictions"])

Value = Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)]
# At the first wrong value it ends: a body has room for half a million, and each would make an error.
Row = Annotated[list[Value | None], Field(max_length=MAX_FEATURES, fail_fast=True)]
Rows = Annotated[list[Row], Field(min_length=1, max_length=MAX_ROWS, fail_fast=True)]


class PredictionRequest(BaseModel):
    """What to predict: exactly one of ``symbol``, ``features`` and ``rows``."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str = Field(max_length=MAX_NAME)
    symbol: str | None = Field(
        default=None, min_length=1, max_length=MAX_NAME, description="predict from its newest row"
    )
    features: dict[str, Value | None] | None = Field(
        default=None, max_length=MAX_FEATURES, description="values of one row by name; null where undefined"
    )
    rows: Rows | None = Field(
        default=None,
        description="consecutive rows of one symbol, oldest first, values in the order of the pipeline's features",
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(given is not None for given in (self.symbol, self.features, self.rows)) != 1:
            raise ValueError("give exactly one of symbol, features and rows")
        return self


class Prediction(BaseModel):
    """One prediction, with the fields and numbers of its record on ``predictions.<pipeline>.v1``."""

    id: str | None = Field(description="name of the row: topic id, partition, offset, index; null for given values")
    symbol: str | None
    ts: int | None = Field(description="event time of the row, ns since the epoch, UTC")
    horizon: str = Field(description="how far ahead `score` looks")
    score: float | None = Field(description="P(up) - P(down), or the expected log return; null when abstained")
    scores: dict[str, float | None] | None = Field(default=None, description="by horizon, where there are several")
    model: str
    version: int
    status: Literal["ok", "abstained"]
    reason: str | None = Field(description="why it abstained")
    feature_age_s: float | None = Field(default=None, description="now minus `ts`; null for given values")


class Predictions(BaseModel):
    """One prediction for each given row, in their order."""

    predictions: list[Prediction]


ASK = {
    "symbol": {"summary": "newest row of a symbol", "value": {"pipeline": "demo", "symbol": "BTCUSDT"}},
    "features": {
        "summary": "values of one row by name",
        "value": {"pipeline": "demo", "features": {"return:1s": 0.4, "queue_imbalance": None}},
    },
    "rows": {"summary": "rows in time order", "value": {"pipeline": "demo", "rows": [[0.4, 0.1], [0.2, None]]}},
}
ANSWER: dict[str, Any] = {
    "id": "NxrSSrYXQSGq5VVnQ1bVIA-0-41-0",
    "symbol": "BTCUSDT",
    "ts": 1723105245123456789,
    "horizon": "1s",
    "score": 0.12,
    "model": "demo",
    "version": 3,
    "status": "ok",
    "reason": None,
    "feature_age_s": 0.021,
}
NAMELESS = {**ANSWER, "id": None, "symbol": None, "ts": None, "feature_age_s": None}
ANSWERS: Responses = {
    200: {
        "content": {
            "application/json": {
                "examples": {
                    "symbol": {"summary": "for a symbol", "value": ANSWER},
                    "rows": {"summary": "for rows", "value": {"predictions": [NAMELESS]}},
                }
            }
        }
    }
}


@router.post(
    "",
    operation_id="predict",
    response_model=Prediction | Predictions,
    responses={**responses(404, 503), **ANSWERS},
)
async def predict(asked: Annotated[PredictionRequest, Body(openapi_examples=ASK)], parts: PartsOf) -> Response:
    """Predict with the champion, for a symbol's newest row or for given values.

    Asked by symbol, the answer equals the record on the topic for the same row and version. Asked with `rows`, it
    holds one prediction a row; rows before the first whole window abstain.
    """
    return Response(await parts.predict(Question(**asked.__dict__)), media_type="application/json")
