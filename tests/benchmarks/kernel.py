"""The feature kernel alone: what a tick costs with few or many symbols, and with short or long features.

usage: python -m tests.benchmarks.kernel

Prints a JSON object: nanoseconds a tick by number of symbols, and by the factor that all durations are multiplied with.
"""

import json
import statistics
import sys
import time

from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.spec import PipelineSpec, load
from ml_core.types import SymbolTable, TickBatch
from tests.benchmarks import workload
from tests.benchmarks.workload import Workload

TICKS, BATCH, ROUNDS = 500_000, 8_192, 5
SYMBOLS = (1, 100, 10_000)
FACTORS = (1, 4, 16, 64)


def ns_a_tick(spec: PipelineSpec, work: Workload) -> float:
    """Return the median CPU time over ``ROUNDS`` passes; the first fills state and caches and does not count."""
    *columns, symbols = work.ticks
    state = FeatureState(FeaturePlan.from_spec(spec), SymbolTable(symbols))
    spans = []
    for k in range(ROUNDS + 1):
        later = work.ticks.ts_ns_N + k * work.span_ns
        columns[TickBatch._fields.index("ts_ns_N")] = later
        batches = [
            TickBatch(*(column[start : start + BATCH] for column in columns), symbols)
            for start in range(0, TICKS, BATCH)
        ]
        began = time.process_time()
        for batch in batches:
            features.step(batch, state)
        spans.append((time.process_time() - began) / TICKS * 1e9)
    return statistics.median(spans[1:])


def longer(spec: PipelineSpec, factor: int) -> PipelineSpec:
    """Return the pipeline with every duration of its features multiplied."""
    plan = FeaturePlan.from_spec(spec)
    use = []
    for name in plan.names:
        feature, colon, duration = name.partition(":")
        use.append(f"{feature}{colon}{float(duration[:-1]) * factor:g}{duration[-1]}" if colon else name)
    return spec.model_copy(update={"features": spec.features.model_copy(update={"use": tuple(use)})})


def main() -> None:
    """Measure and print."""
    spec = load(workload.PIPELINE)
    features.warm_up()
    by_symbols = {str(count): ns_a_tick(spec, workload.make(TICKS, symbols=count)) for count in SYMBOLS}
    work = workload.make(TICKS)
    by_factor = {str(factor): ns_a_tick(longer(spec, factor), work) for factor in FACTORS}
    sys.stdout.write(json.dumps({"ns_by_symbols": by_symbols, "ns_by_duration_factor": by_factor}) + "\n")


if __name__ == "__main__":
    main()
