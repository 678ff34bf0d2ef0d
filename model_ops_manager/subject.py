"""What is compared with its ticks."""

from typing import NamedTuple

from ml_core.spec import PipelineSpec
from ml_core.types import OffsetRange
from model_ops_manager.shed import Shed


class Committed(NamedTuple):
    """What checkpoints say is out of a pipeline and one partition; what they do not tell is not known."""

    position: int = 0  # rows of all ticks below it are out, and what belongs to them
    serves_from: int | None = None  # every row from this tick on has a prediction
    bars_from: int | None = None  # bars of all kinds are written from this tick on


class Subject(NamedTuple):
    """What is compared: the outputs of a pipeline that ticks of one partition have given."""

    spec: PipelineSpec
    topic_id: str  # of the ticks
    asked: OffsetRange
    shed: Shed = Shed()  # behind each range state starts empty; what is out about ticks in it was out before
    committed: Committed = Committed()
