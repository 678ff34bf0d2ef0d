"""Where the rows of a partition begin again: how far back, and which kill was the reason."""

import bisect
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_io.topics import rows
from tests.faults.scene import CHECKPOINT_S, RATE, Scene
from tests.faults.waiting import FellShortError

SLACK_S = 2.0  # of a checkpoint that is written while other workers start

Ends = Mapping[int, int]  # of the log of rows, by partition


class Jump(NamedTuple):
    """Rows that begin again; ``_skipped`` of the scene proves that what follows has no hole."""

    partition: int
    at: int  # place in the log of the first record that is there again
    back: int  # ticks


async def row_ends(scene: Scene) -> dict[int, int]:
    """Return where the log of rows ends."""
    return await scene.ends(rows.name(scene.spec.feature_set))


async def jumps(scene: Scene) -> list[Jump]:
    """Return all of them, those of transactions that were aborted too."""
    found = []
    for number in range(scene.lab.partitions):
        reached = -1
        async for record in scene.lab.records(rows.name(scene.spec.feature_set), number):
            offsets: Sequence[int] = rows.decode(record.value).rows.offset_N.tolist()
            for before, after in itertools.pairwise([reached, *offsets]):
                if after <= before:
                    found.append(Jump(number, record.offset, before + 1 - after))
            reached = offsets[-1]
    return found


def of_kills(found: Sequence[Jump], kills: Sequence[Ends]) -> list[list[Jump]]:
    """Return the jumps of each kill, of which ``kills`` has where the log ended.

    Raises:
        FellShortError: Rows began again before the first kill, or in a partition more often than there were kills.
    """
    of_kill: list[list[Jump]] = [[] for _ in kills]
    for jump in found:
        number = bisect.bisect_right([ends[jump.partition] for ends in kills], jump.at) - 1
        if number < 0:
            raise FellShortError(f"rows began again before any kill: {jump}")
        of_kill[number].append(jump)
    # After one kill there may be two: who is still to catch up with what is out hands over what it took over itself.
    often = Counter(jump.partition for jump in found)
    if max(often.values(), default=0) > len(kills):
        raise FellShortError(f"rows began again {dict(often)} times by partition, of {len(kills)} kills")
    return of_kill


async def must_be_tails(scene: Scene, found: Sequence[Jump]) -> int:
    """Return the most ticks that were computed again, of workers that kept pace when they died.

    Raises:
        FellShortError: They are more than came since the last checkpoint.
    """
    ends = await scene.ends()
    most = {number: (CHECKPOINT_S + SLACK_S) * RATE * end / sum(ends.values()) for number, end in ends.items()}
    if long := [jump for jump in found if jump.back > most[jump.partition]]:
        raise FellShortError(f"more than a checkpoint was computed again: {long}, at most {most}")
    return max((jump.back for jump in found), default=0)
