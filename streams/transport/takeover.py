"""What a claim makes of the last checkpoint and of what is out: state, models, and where each output goes on.

A worker that finds no checkpoint of its own goes on behind what is out as well, like one whose features have changed.
"""

from collections.abc import Mapping
from typing import NamedTuple

import structlog

from data_io.topics import bars, predictions
from ml_core.errors import ModelNotFoundError, ModelRefusedError, SchemaMismatchError, SetupError
from model_ops_manager.champion import Serving
from streams.partition_state import PartitionState
from streams.transport.published import Out, published
from streams.transport.shared import Shared
from streams.transport.state_log import Manifest
from streams.transport.tails import Tails

log = structlog.get_logger()


class Restored(NamedTuple):
    """What a partition starts with."""

    state: PartitionState
    unused: set[bytes]  # keys in the state topic that mean nothing to it
    position: int  # of the first tick that is not in the state
    serving: dict[str, Serving]
    tails: Tails
    manifest: Manifest  # to be committed before anything is written, where it is not the one that was found


async def restore(
    shared: Shared, number: int, found: Manifest | None, blocks: Mapping[bytes, bytes], first_offset: int
) -> Restored:
    """Return what partition ``number`` starts with.

    Args:
        shared: Of the worker.
        number: Of the partition.
        found: The last manifest.
        blocks: The newest block of each key.
        first_offset: The oldest tick that Kafka still has.

    Raises:
        SetupError: The checkpoint and Kafka do not fit together; an operator has to decide.
        DependencyError: Kafka or the model store did not answer. A retry is safe.
    """
    last = found if found is not None and found.topic_id == shared.topic_id else None
    if last is not None:
        _check(shared, number, last, first_offset)
    elif found is not None:
        log.warning(
            "the topic was created anew: state starts empty", action="rebuild", partition=number, topic=shared.topic
        )
    begins = last.begins if last is not None else None
    out = await published(shared.bootstrap, shared.named, number, shared.topic_id, begins)
    given_up: set[bytes] = set()
    why = "features changed: state is rebuilt from the ticks"
    if last is None:
        last, blocks, given_up = _first(shared, out, first_offset), {}, set(blocks)
        why = "an earlier group has outputs of these ticks: state is rebuilt, and they stay"
    state, unused = _loaded(shared, number, last, blocks, why)
    is_rebuilt = state is None
    # What was skipped stays skipped: state starts empty behind it, also where it is computed again.
    position = max(first_offset, last.shed.last_end) if is_rebuilt else last.position
    bases = _bases(shared, last, out, position) if is_rebuilt else last.bases
    if state is None:
        state = PartitionState(shared.sets, last.labelled, bases)
    serving, lost = await _models(shared, number, last)
    # What is out was made by features or a model that are gone, or that were for an owner that wrote no checkpoint.
    stays = set(shared.named) if is_rebuilt else {*last.stays, *map(predictions.name, lost)}
    for spec in shared.pipelines:
        champion = shared.models.current(spec.name)
        if spec.name not in serving and champion is not None and predictions.name(spec.name) in stays:
            serving[spec.name] = champion
    reached = dict(last.out)  # a tail that was repeated only in part ends below what is out of it
    for topic, each in out.items():
        if each.place is not None:
            reached[topic] = max(each.place, reached.get(topic, each.place))
    renumbers = bases.keys() & shared.sets.keys() if is_rebuilt else ()
    tails = Tails(last.position, reached, stays, renumbers)
    # The bars that are out, and go on, were made by rules that may come again; of the features nothing fits any more.
    kernels = {key: digest for key, digest in last.kernels.items() if not is_rebuilt or key.endswith("/bars")}
    said = {"kernels": kernels, "out": tails.behind(last.position), "stays": sorted(stays), "bases": bases}
    return Restored(state, unused | given_up, position, serving, tails, last.model_copy(update=said))


def _check(shared: Shared, number: int, manifest: Manifest, first_offset: int) -> None:
    if manifest.partitions != shared.partitions:
        raise SetupError(
            f"{shared.topic} had {manifest.partitions} partitions and has {shared.partitions}: symbols have moved "
            f"between partitions, so the state of worker group {shared.group!r} no longer fits. "
            f"Use a new group (TICKWISE_GROUP) to start over."
        )
    if manifest.position < first_offset:
        raise SetupError(
            f"ticks {manifest.position} to {first_offset - 1} of {shared.topic}-{number} were deleted by "
            "retention before they were read. They are lost. "
            "Use a new group (TICKWISE_GROUP) to go on with what is left."
        )


def _first(shared: Shared, out: Mapping[str, Out], first_offset: int) -> Manifest:
    """Return the manifest of a group that has none: it fits no state where something is out of the same ticks."""
    places = [each.place for each in out.values() if each.place is not None]
    # Up to there every topic has its outputs, but for letters that were held when an earlier group was killed: only
    # that group would write them again.
    position = min(places)[0] if len(places) == len(out) else first_offset
    return Manifest(
        topic=shared.topic,
        topic_id=shared.topic_id,
        partitions=shared.partitions,
        position=max(position, first_offset),
        kernels={} if places else PartitionState(shared.sets, {}).kernels,
        models={},
        begins={topic: each.end for topic, each in out.items() if each.place is None},
    )


def _loaded(
    shared: Shared, number: int, manifest: Manifest, blocks: Mapping[bytes, bytes], why: str
) -> tuple[PartitionState | None, set[bytes]]:
    """Return the state of the checkpoint, none where it has to be rebuilt, and the keys that mean nothing to it."""
    state = PartitionState(shared.sets, manifest.labelled, manifest.bases)
    if all(manifest.kernels.get(name) == digest for name, digest in state.kernels.items()):
        try:
            return state, state.load(blocks.items())
        except SchemaMismatchError as error:
            log.error("state blocks do not fit", action="rebuild", partition=number, error=str(error))
    # Another kernel or another `use`: the old state means nothing to it, so it is computed from the ticks.
    log.warning(why, action="rebuild", partition=number)
    return None, set(blocks)


def _bases(shared: Shared, manifest: Manifest, out: Mapping[str, Out], position: int) -> dict[str, int]:
    """Return the revisions that bars begin with where the ticks, or the rules, are not those they were made of.

    No bar has had more revisions than records were ever written.
    """
    kernels, bases = PartitionState(shared.sets, {}).kernels, dict(manifest.bases)
    for name in shared.sets:
        key, each = f"{name}/bars", out.get(bars.name(name))
        is_same = manifest.kernels.get(key) == kernels.get(key) and position == 0 and name not in bases
        if each is not None and each.was_written and not is_same:
            bases[name] = each.end
    return bases


async def _models(shared: Shared, number: int, manifest: Manifest) -> tuple[dict[str, Serving], list[str]]:
    """Return the versions of the checkpoint, and the pipelines of which it cannot serve any more."""
    serving: dict[str, Serving] = {}
    lost: list[str] = []
    for spec in shared.pipelines:
        version = manifest.models.get(spec.name)
        if version is None:
            continue
        try:
            serving[spec.name] = await shared.models.load(spec.name, version)
        except (ModelRefusedError, ModelNotFoundError) as error:
            lost.append(spec.name)
            log.warning(
                "the version of the checkpoint cannot serve any more",
                action="takeover",
                partition=number,
                pipeline=spec.name,
                version=version,
                error=str(error),
            )
    return serving, lost
