"""Records that are wrong: poison, repeated, late, of wrong clocks."""

from collections.abc import Mapping

from data_io.topics import late_ticks
from tests.faults import bar_oracle
from tests.faults import disorder as disordered
from tests.faults.bench import Bench, Result
from tests.faults.scene import Scene
from tests.faults.waiting import FellShortError


async def disorder(bench: Bench) -> Result:
    """A fifth of the ticks comes twice, others late, and clocks are 1.3 s behind, 5 s ahead and one hour off.

    Bars by time must be those of the same ticks in order: without repeats, those that came too late, and times that
    nothing confirmed. Bars by ticks, volume and value must be cut where the same ticks, as they came, fill them.
    """
    bars = {"by": disordered.BARS}
    async with Scene.opened(bench.kafka, bench.folder, bench.model, partitions=1, parts={"bars": bars}) as scene:
        gap_ns, lateness_ns = scene.spec.features.gap, scene.spec.source.lateness
        log = disordered.make(6_000, bench.random, gap_ns=gap_ns, lateness_ns=lateness_ns)
        scene.start("a")
        await scene.lab.send(*log.records)
        await scene.caught_up()
        counted = await scene.late_ticks("a")
        await scene.terminate("a")
        counts = await scene.judged(repeats=False, rowless={0: log.repeated})
        letters = [letter async for letter in scene.lab.records(late_ticks.name(scene.lab.topic), 0)]
        kept = [(letter.key, letter.value, *_late_place(dict(letter.headers))) for letter in letters]
        if kept != [(*log.records[offset], offset, late_ns) for offset, late_ns in log.too_late]:
            raise FellShortError(f"{len(kept)} late letters of {len(log.too_late)} late ticks, or others")
        if counted != {"true": len(kept), "false": log.late - len(kept)}:
            raise FellShortError(f"counted {counted}, of {log.late} late ticks {len(kept)} too late")
        expected = bar_oracle.bars_of(log.of_symbol, scene.spec.bars, gap_ns=gap_ns, lateness_ns=lateness_ns)
        if different := await scene.bars_that_differ(expected):
            raise FellShortError(f"of {len(expected)} bars {len(different)} differ, the first is {different[0]}")
        return {
            **counts,
            "rowless": len(log.repeated),
            "late": log.late,
            "too_late": len(kept),
            "final_bars": len(expected),
        }


def _late_place(headers: Mapping[str, bytes]) -> tuple[int, int]:
    return int(headers["tickwise.late.offset"]), int(headers["tickwise.late.late-ns"])
