"""What must be out is read from the checkpoints of a group, and only what they tell for sure."""

import pytest

from data_io.topics import bars, predictions
from ml_core.spec import parse
from model_ops_manager.subject import Committed
from streams import checkpoints
from streams.transport.state_log import Manifest

SPEC = parse({"name": "demo", "bars": {"by": ["time:1s"], "price": "mid"}})
OURS = checkpoints.kernels_of(SPEC)
OF_BARS = f"{SPEC.feature_set}/bars"
SERVES = {"demo": 3}


def manifest(position: int, models=SERVES, kernels=OURS, stays=()) -> Manifest:
    return Manifest(
        topic="ticks", topic_id="id", partitions=1, position=position, kernels=kernels, models=models, stays=list(stays)
    )


def committed(manifests, spec=SPEC) -> Committed:
    told = checkpoints.Told(spec, checkpoints.kernels_of(spec))
    for each, is_visible in manifests:
        told.take(each, is_visible=is_visible)
    return told.committed


@pytest.mark.parametrize(
    ("manifests", "expected"),
    [
        ([manifest(5), manifest(9)], (9, 5, 5)),
        ([manifest(5, models={}), manifest(9), manifest(20)], (20, 9, 5)),
        ([manifest(5), manifest(9, models={"other": 1})], (9, None, 5)),
        ([manifest(5), manifest(9, models={}), manifest(20)], (20, 20, 5)),
        # The version of 5 was lost: what was scored before the next champion is not known.
        ([manifest(5), manifest(5, stays=[predictions.name("demo")]), manifest(9)], (9, 9, 5)),
        # Features changed: state is rebuilt, and a manifest says so until the next checkpoint.
        ([manifest(5), manifest(5, kernels={OF_BARS: OURS[OF_BARS]}), manifest(9)], (9, 9, 9)),
        ([manifest(5), manifest(5, stays=[bars.name(SPEC.feature_set)]), manifest(9)], (9, 5, 9)),
        ([manifest(5, kernels=OURS | {SPEC.feature_set: "other"})], (0, None, None)),
        ([manifest(5, kernels=OURS | {OF_BARS: "other"}), manifest(9)], (9, 5, 9)),
    ],
)
def test_what_must_be_out_follows_from_the_last_checkpoints_that_say_so_without_a_break(manifests, expected) -> None:
    assert committed([(each, True) for each in manifests]) == Committed(*expected)


def test_outputs_of_a_checkpoint_that_may_not_be_readable_yet_need_not_be_out() -> None:
    assert committed([(manifest(5), True), (manifest(9), False)]).position == 5


def test_a_pipeline_without_bars_has_none() -> None:
    spec = parse({"name": "demo"})
    kernels = {SPEC.feature_set: OURS[SPEC.feature_set]}
    assert committed([(manifest(5, kernels=kernels), True)], spec) == Committed(5, 5, None)
