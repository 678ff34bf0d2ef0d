"""Sends slots by the clock, whether or not anybody keeps up: an open loop.

usage: python -m tests.benchmarks.driver SLOTS BOOTSTRAP TOPIC FIRST COUNT SLOT_S REPORT

SLOTS is what `Slots.save` wrote; slots FIRST to FIRST + COUNT - 1 are sent, SLOT_S seconds apart (0: as fast as Kafka
takes them), past the end of the pass with later times. REPORT gets a JSON object with ``began_ns``, when the first
was due (monotonic clock), and how late it was sent at worst and at the 99th percentile. It is written at the start,
with the first of these only, and again at the end.
"""

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.raw_producer import RawProducer
from tests.benchmarks.slots import Slots

LEAD_S = 0.2
UNBOUNDED, BUSY_WINDOW = 1 << 30, 4


def drive(slots: Slots, producer: RawProducer, first: int, count: int, slot_s: float, report: Path) -> None:
    """Send ``count`` slots on schedule and wait until the last is acknowledged."""
    for number in (0, len(slots) - 1):
        slots.slot(number, 0)  # compiles, or reads from the cache, what writes times
    late_J = np.zeros(count)
    gc.disable()
    began_ns = time.monotonic_ns() + int(LEAD_S * 1e9)
    report.write_text(json.dumps({"began_ns": began_ns}), encoding="utf-8")
    window = UNBOUNDED if slot_s else BUSY_WINDOW
    for j in range(count):
        passes, number = divmod(first + j, len(slots))
        parts = slots.slot(number, passes)
        due_ns = began_ns + int(j * slot_s * 1e9)
        if slot_s and (wait_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(wait_ns / 1e9)
        late_J[j] = time.monotonic_ns() - due_ns
        producer.send(parts, window=window)
    producer.settle()
    late_ms_J = late_J / 1e6
    found = {"late_ms_p99": float(np.percentile(late_ms_J, 99)), "late_ms_max": float(late_ms_J.max())}
    partial = report.with_suffix(".part")
    partial.write_text(json.dumps({"began_ns": began_ns, "ended_ns": time.monotonic_ns(), **found}), encoding="utf-8")
    partial.replace(report)


def main(path: str, bootstrap: str, topic: str, first: str, count: str, slot_s: str, report: str) -> None:
    """Send what the command line asks for."""
    slots = Slots.load(Path(path))
    with RawProducer(bootstrap, topic) as producer:
        drive(slots, producer, int(first), int(count), float(slot_s), Path(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
