"""What is compared with its ticks."""

from typing import NamedTuple

from ml_core.spec import PipelineSpec
from ml_core.types import OffsetRange
from model_ops_manager.shed import Shed


class Subject(NamedTuple):
    """What is compared: the outputs of a pipeline that ticks of one partition have given."""

    spec: PipelineSpec
    topic_id: str  # of the ticks
    asked: OffsetRange
    shed: Shed = Shed()  # behind each range state starts empty; what is out about ticks in it was out before
