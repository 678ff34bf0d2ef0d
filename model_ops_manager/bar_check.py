"""Bars of one partition: what is out about a range of ticks, and what these ticks give when they are computed again.

A range judges the bars that a tick in it had written, whenever they began: state is that of all ticks before it. Where
older ticks are gone (``is_cut``), bars by ticks, volume and value cannot be known, because their numbers count from the
oldest tick, nor can those by time that may hold ticks that are gone. Nor is anything judged before ticks that were
skipped: a worker that makes bars skips none. Provisional bars have no name and are passed over.

Behind a rebuild of state bars go on with higher revisions than their ticks give alone, and what older ticks had used of
them is not known where these are gone. Such bars are found by number and tick, and count as renumbered.
"""

from typing import Any, NamedTuple

import msgspec

from data_io.topics import bars as bars_topic
from data_io.topics.bars import Bar
from ml_core.data_processor import bars
from ml_core.data_processor.bars import BarPlan, BarState
from ml_core.data_processor.kernels import RESYNC_TICKS
from ml_core.errors import InputError
from ml_core.types import TickBatch
from model_ops_manager.compared import MAX_COMPARED, Compared, Difference
from model_ops_manager.subject import Subject

_OF_REVISION = {"id", "revision", "status"}


class _Out(NamedTuple):
    """A bar that is out: its place among those of the range, by first appearance, and its record."""

    place: int
    offset: int
    value: bytes


class BarCheck:
    """Takes the bars that are out, then the ticks in order, and counts what is not as it must be."""

    def __init__(
        self,
        subject: Subject,
        plan: BarPlan,
        compared: Compared,
        *,
        is_cut: bool = False,
    ) -> None:
        """Compare bars of ``plan`` that the ticks asked for had written; ``compared`` is added to."""
        self._topic_id, self._asked, self._compared, self._is_cut = subject.topic_id, subject.asked, compared, is_cut
        self._known_from, self._bars_from = subject.shed.last_end, subject.committed.bars_from
        self._prefix = f"{subject.topic_id}-{subject.asked.partition}-"
        self._kinds, rules = frozenset(plan.kinds), plan.rules
        self._doubt_ns = max(rules.gap_ns, rules.lateness_ns)
        self._out: dict[str, _Out] = {}
        self._first: dict[str, int] = {}  # kind -> the first tick that had a bar of it written
        self._last = self._reached = -1  # place of the bar read, and of the one compared, before
        self._newest = -1  # the newest tick that had a bar written
        self._open_from: int | None = None  # what is behind that one and not before this tick may be under way
        # Symbol -> how many of its first ticks were seen, and the newest time among them, where older ones are gone. By
        # then a clock that began with a wrong time is set back.
        self._begun: dict[str, tuple[int, int]] = {}
        self._of_tick: dict[tuple[str, int], list[str]] | None = None  # names by what stays of them, and by the tick

    def add(self, value: bytes | None) -> None:
        """Take a record of bars, as far as it lies in the range.

        It may be new, stand behind the bar that came before it at first, or begin a tail that repeats; else it is
        misplaced. A new one may break off such a tail: where features changed, bars are not repeated.

        Raises:
            InputError: There are more than MAX_COMPARED. A retry will not help.
        """
        bar = bars_topic.decode(value)
        if bar.id is None or bar.offset is None or not bar.id.startswith(self._prefix):
            return
        self._first[bar.kind] = min(bar.offset, self._first.get(bar.kind, bar.offset))
        self._newest = max(self._newest, bar.offset)
        if not self._asked.start <= bar.offset < self._asked.end:
            return
        if bar.kind not in self._kinds or bar.offset < self._known_from:
            why = "before ticks that were skipped" if bar.kind in self._kinds else "bars of another kind"
            self._compared.unchecked[why] += 1
            return
        found = _Out(len(self._out), bar.offset, value or b"")
        before = self._out.setdefault(bar.id, found)
        if len(self._out) > MAX_COMPARED:
            raise InputError(f"there are more than the {MAX_COMPARED} bars that are compared at once: name a range")
        last, self._last = self._last, before.place
        if before is found:
            return
        if before.place > last + 1:
            self._misplaced(bar)
        if before.value == found.value:
            self._compared.repeated += 1
        else:
            self._compared.conflicting += 1
            self._note(bar, ("conflicting", found.value.decode(), before.value.decode()))

    def end_at(self, end: int, settled: int = 0) -> None:
        """End the range before ``end``; bars behind the newest one may not be out yet, from the tick ``settled`` on."""
        self._open_from = settled
        self._asked = self._asked.model_copy(update={"end": end})
        self._out = {name: out for name, out in self._out.items() if out.offset < end}

    def recompute(self, ticks: TickBatch, state: BarState) -> None:
        """Move ``state`` over ``ticks`` and compare the bars they give, as far as they lie in the range."""
        if self._is_cut:
            for symbol, ts_ns in zip(ticks.symbol_N.tolist(), ticks.ts_ns_N.tolist(), strict=True):
                count, newest_ns = self._begun.get(ticks.symbols[symbol], (0, ts_ns))
                if count <= RESYNC_TICKS:
                    self._begun[ticks.symbols[symbol]] = count + 1, max(newest_ns, ts_ns)
        made = bars.step(ticks, state)
        made = made.select(made.offset_B >= max(self._asked.start, self._known_from))
        for _, value, _ in bars_topic.encode(made, topic_id=self._topic_id, partition=self._asked.partition):
            self._compare(bars_topic.decode(value), value or b"")

    def end(self) -> None:
        """Count what is out and was not recomputed."""
        for out in self._out.values():
            bar = bars_topic.decode(out.value)
            if why := self._unknown(bar):
                self._compared.unchecked[why] += 1
            else:
                self._compared.unexpected += 1
                self._note(bar, ("unexpected", "there", "nothing"))

    def _compare(self, expected: Bar, value: bytes) -> None:
        compared = self._compared
        if self._unknown(expected):
            return  # `end` counts what is out
        name = self._name_of(expected)
        found = self._out.pop(name, None)
        if found is None:
            offset = expected.offset or 0
            is_before = self._bars_from is None or offset < self._bars_from
            if is_before and self._first and offset < self._first.get(expected.kind, self._asked.end):
                compared.unchecked["before the first bar of its kind"] += 1
            elif self._open_from is not None and self._open_from <= offset and 0 <= self._newest <= offset:
                compared.unchecked["may be under way"] += 1
            else:  # also where no bar is out at all
                compared.missing += 1
                self._note(expected, ("missing", "nothing", "a bar"))
            return
        compared.compared += 1
        if found.place < self._reached:
            self._misplaced(expected)
        self._reached = max(self._reached, found.place)
        different = [] if found.value == value else differences(bars_topic.decode(found.value), expected)
        if name != expected.id:
            compared.renumbered += 1
            different = [each for each in different if each[0] not in _OF_REVISION]
        if different:
            compared.differs(self._asked.partition, _place(expected), different, of=name)

    def _name_of(self, expected: Bar) -> str:
        """Return the name of a bar, or of the next one with its number and tick that may be the same, renumbered."""
        name, offset = expected.id or "", expected.offset or 0
        if name in self._out and self._out[name].offset == offset:
            return name
        if self._of_tick is None:
            self._of_tick = {}
            for each, out in self._out.items():
                self._of_tick.setdefault((each.rpartition("-")[0], out.offset), []).append(each)
        for other in self._of_tick.get((name.rpartition("-")[0], offset), ()):
            if other in self._out and (self._is_cut or int(other.rpartition("-")[2]) > expected.revision):
                return other
        return name

    def _unknown(self, bar: Bar) -> str | None:
        """Return why a bar cannot be known; None where it can."""
        if not self._is_cut:
            return None
        if not bar.kind.startswith("time:"):
            return "numbered from ticks that are gone"
        _, newest_ns = self._begun.get(bar.symbol, (0, bar.start_ns))
        return "may hold ticks that are gone" if bar.start_ns <= newest_ns + self._doubt_ns else None

    def _misplaced(self, bar: Bar) -> None:
        self._compared.misplaced += 1
        self._note(bar, ("misplaced", "there", "a place in order"))

    def _note(self, bar: Bar, difference: Difference) -> None:
        self._compared.note(self._asked.partition, _place(bar), difference, of=bar.id)


def differences(found: Bar, expected: Bar) -> list[Difference]:
    """Return the fields of two bars that have other bits; JSON keeps those of a float, and ``repr`` shows them."""
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(found, name), getattr(expected, name)) for name in msgspec.structs.asdict(expected)
    }
    return [(name, *pair) for name, pair in pairs.items() if repr(pair[0]) != repr(pair[1])]


def _place(bar: Bar) -> tuple[int, int]:
    return bar.offset or 0, bar.index or 0
