"""How long a simulated day takes on one core: a pipeline over past ticks in virtual time, retraining excluded.

usage: python -m tests.benchmarks.simulation [--ticks 10_000_000] [--symbols 100] [--core 0]

Writes a synthetic day to a Parquet file, or its beginning where fewer ticks are asked for, and trains the default model
on another one. Then simulates the day as `tickwise simulate --out` does, in a process that is pinned to one core; only
this is timed. ``cpu_s`` is what it took of that core, where the machine was busy with other things too; shares are of
it. Prints a table; the last line is JSON.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from data_io.data_fetcher.sources import open_source
from data_io.sinks.parquet import ParquetWriter
from ml_core.data_processor import features
from ml_core.model.fitted import FittedModel
from ml_core.spec import PipelineSpec, parse
from model_ops_manager import scoring
from model_ops_manager.matured import Outcomes
from model_ops_manager.prediction_sinks import ParquetSink
from model_ops_manager.simulation import Simulation, ticks_of
from tests.benchmarks.clock import Clock

SPEC: dict[str, Any] = {"name": "day", "label": {"horizons": ["10s"], "delay": "20ms"}, "train": {"epochs": 2}}
RATE = 10_000_000 / 86_400  # ticks per second of event time
TRAIN_TICKS = 60_000
DAY, MODEL = "day.parquet", "model"


def prepare(folder: Path, ticks: int, symbols: int) -> None:
    """Write the first ``ticks`` of a synthetic day, and a model trained on another one."""
    from ml_core.fit import fit

    with ParquetWriter(folder / DAY, "exchange") as writer:
        for chunk in open_source(f"synthetic:symbols={symbols},ticks={ticks},rate={RATE},seed=1").chunks():
            writer.write(chunk)
    frame = open_source(f"synthetic:symbols={symbols},ticks={TRAIN_TICKS},rate={RATE},seed=2").fetch()
    fit(frame, parse(SPEC)).model.save(folder / MODEL)


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Time the parts of a simulation."""
    with (
        mock.patch.object(features, "move", clock.timed("kernel", features.move)),
        mock.patch.object(scoring, "score", clock.timed("score", scoring.score)),
        mock.patch.object(Outcomes, "see", clock.timed("mature", Outcomes.see)),
        mock.patch.object(Outcomes, "add", clock.timed("mature", Outcomes.add)),
        mock.patch.object(Outcomes, "settle", clock.timed("mature", Outcomes.settle)),
        mock.patch.object(ParquetSink, "write", clock.timed("output", ParquetSink.write)),
        mock.patch.object(ParquetSink, "finish", clock.timed("output", ParquetSink.finish)),
    ):
        yield


def measure(folder: Path, core: int) -> dict[str, Any]:
    """Simulate the day in ``folder`` on ``core`` and return the figures."""
    os.sched_setaffinity(0, {core})
    features.warm_up()
    spec, model = parse(SPEC), FittedModel.load(folder / MODEL)
    clock = Clock(time.process_time)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    with watched(clock):
        report = _simulated(folder, spec, model, clock)
    cpu_s, seconds = time.process_time() - cpu_s, time.perf_counter() - began_s
    shares = {name: round(spent / cpu_s, 3) for name, spent in clock.spent.items()}
    ticks = report["ticks"]
    return {
        "ticks": ticks,
        "scored": report["versions"][0]["scored"],
        "matured": report["versions"][0]["matured"],
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "ticks_per_s": round(ticks / seconds),
        "us_a_tick_cpu": round(1e6 * cpu_s / ticks, 3),
        "shares": shares | {"other": round(1 - sum(shares.values()), 3)},
        "peak_rss_mb": _peak_rss_mb(),
    }


def _simulated(folder: Path, spec: PipelineSpec, model: FittedModel, clock: Clock) -> dict[str, Any]:
    about: dict[str, Any] = {"topic_id": "day", "horizons_ns": spec.label.horizons, "model": spec.name, "version": 0}
    sink = ParquetSink(folder / "predictions.parquet", **about)
    simulation = Simulation(spec, sink=sink)
    simulation.start_with(model)
    ticks = ticks_of(open_source(str(folder / DAY)), simulation.symbols)
    read = clock.timed("parse", lambda: next(ticks, None))
    while (batch := read()) is not None:
        simulation.add(batch)
    report = simulation.report()
    sink.finish()
    return report


def _peak_rss_mb() -> int:
    """Return the most memory that was ever resident since this program began; getrusage would count its parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 0 if found is None else round(int(found[1]) / 1024)


def main() -> None:
    """Prepare, measure in a process of its own, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ticks", type=int, default=10_000_000)
    options.add_argument("--symbols", type=int, default=100)
    options.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in the folder, as the child
    asked = options.parse_args()
    if asked.measure is not None:
        sys.stdout.write(json.dumps(measure(asked.measure, asked.core)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), asked.ticks, asked.symbols)
        command = [sys.executable, "-m", __spec__.name, "--measure", folder, "--core", str(asked.core)]
        # threads of BLAS would wait for one another on that core
        one = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=one).stdout)
    found = {"symbols": asked.symbols, **found}
    for name, value in found.items():
        sys.stdout.write(f"{name:<14} {value}\n")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
