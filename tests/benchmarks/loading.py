"""How fast rows come from Parquet into shuffled batches, and in how much memory: `python -m tests.benchmarks.loading`.

From Kafka there is no such path: a job fetches ticks, as many as TICKWISE_MAX_TICKS, and makes rows of them in memory.

The last line on standard output is JSON. ``rows_per_cpu_s`` counts time of this process alone, so that neighbours on
the machine do not enter it; ``grown_mb`` is memory of its own (no page cache) above what it had before the first batch.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.data_loader.mapped import BLOCK, BlockBatches, ParquetBlocks

FEATURES = [f"f{i}" for i in range(22)]


def write(path: Path, rows: int) -> None:
    """Write random rows, a block at a time."""
    schema = pa.schema([*((name, pa.float32()) for name in FEATURES), ("y", pa.int8()), ("weight", pa.float32())])
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for start in range(0, rows, BLOCK):
            size = min(BLOCK, rows - start)
            columns = [rng.standard_normal(size, dtype=np.float32) for _ in FEATURES]
            columns += [rng.integers(0, 3, size).astype(np.int8), np.ones(size, np.float32)]
            file.write_table(pa.table(columns, schema=schema), row_group_size=BLOCK)


def own_mb() -> float:
    """Return the memory of this process that is backed by no file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def measure(path: Path, batch_size: int) -> dict[str, float]:
    """Read one epoch."""
    blocks = ParquetBlocks([path], features=FEATURES, targets=["y"], weight="weight")
    batches = BlockBatches(blocks, batch_size=batch_size)
    before = most = own_mb()
    rows, wall_s, cpu_s = 0, time.perf_counter(), time.process_time()
    for number, batch in enumerate(batches):
        rows += len(batch.weight_B)
        if number % 256 == 0:
            most = max(most, own_mb())
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    blocks.close()
    return {
        "rows": rows, "rows_per_s": round(rows / wall_s), "rows_per_cpu_s": round(rows / cpu_s),
        "grown_mb": round(most - before), "file_mb": round(path.stat().st_size / 2**20),
    }  # fmt: skip


def main() -> None:
    """Write a file, read it, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.loading", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(path, asked.rows)
        sys.stdout.write(json.dumps(measure(path, asked.batch_size)) + "\n")


if __name__ == "__main__":
    main()
