"""Where the outputs of a partition go on: behind what was out when it was claimed, topic by topic.

Shapes: N ticks, rows or bars in the order of the log.
"""

from collections.abc import Collection, Mapping

import numpy as np

from ml_core.types import Int32, Int64

Place = tuple[int, int]  # offset of a tick, and its index in the record

WHOLE_RECORD = 1 << 31  # above every index


class Tails:
    """From which tick on each output topic is written.

    Ticks below ``position`` are out everywhere. Later ones repeat what is out, with equal names and values, but for
    topics that stay: what is out of them was made by what is gone, so they go on behind it.
    """

    def __init__(
        self,
        position: int = 0,
        out: Mapping[str, Place] | None = None,
        stays: Collection[str] = (),
        renumbers: Collection[str] = (),
    ) -> None:
        """Go on from a checkpoint.

        Args:
            position: Of the checkpoint.
            out: Topic -> the last tick whose output is out.
            stays: Topics whose tail is not written again.
            renumbers: Feature sets whose bars behind their tail begin with another revision: names would come again.
        """
        self.position, self.out, self.stays = position, dict(out or {}), frozenset(stays)
        self.renumbers = set(renumbers)

    def last(self, topic: str) -> Place:
        """Return the last tick whose output for ``topic`` is not written any more."""
        below = self.position - 1, WHOLE_RECORD
        return max(below, self.out.get(topic, below)) if topic in self.stays else below

    def first(self, topic: str, offset_N: Int64, index_N: Int32 | Int64) -> int:
        """Return how many of the ticks in front need no output for ``topic`` any more; the others do."""
        offset, index = self.last(topic)
        if not len(offset_N) or offset_N[0] > offset:  # nearly always
            return 0
        same, behind = np.searchsorted(offset_N, offset, "left"), np.searchsorted(offset_N, offset, "right")
        return int(same + np.searchsorted(index_N[same:behind], index, "right"))

    def reach(self, topics: Collection[str]) -> int:
        """Return the highest tick offset of which something is out in ``topics``; -1 where nothing is."""
        return max((self.out[topic][0] for topic in topics if topic in self.out), default=-1)

    def behind(self, position: int) -> dict[str, Place]:
        """Return what is out of ticks from ``position`` on."""
        return {topic: place for topic, place in self.out.items() if place[0] >= position}
