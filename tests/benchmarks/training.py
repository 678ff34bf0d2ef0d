"""Where the time of training goes: forward, backward and step, what lies between them, and checkpoints.

usage: taskset -c 1 python -m tests.benchmarks.training [ROWS]

Trains the MLP 22-64-32-3 at batch 1,024 on random rows through the learner of a job, on one thread. Shares are of the
CPU time of that thread in one run, so they hold on a busy machine as well. Prints a JSON object: ``outside`` is the
share of the epochs' time, validation apart, that is none of forward (with the loss), backward and step; ``batches`` and
``clip`` are parts of it. ``checkpoint`` is the share that checkpoints of a job take at their default distance, with the
time of waiting for the disk.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from ml_core.contract import ModelContract, Scaler
from ml_core.data_loader.arrays import Batches
from ml_core.data_processor.dataset import Dataset, Processed
from ml_core.learners import network
from ml_core.learners.port import Task
from ml_core.spec import PipelineSpec, parse
from ml_core.trainer import loop
from ml_core.trainer.checkpoint import Checkpoints
from ml_core.trainer.loop import Hooks
from tests.benchmarks.clock import Clock

FEATURES, EPOCHS, RUNS = 22, 6, 5
SPEC: dict[str, Any] = {
    "name": "training",
    "model": {"kind": "mlp", "params": {"hidden": [64, 32]}},
    "train": {"batch_size": 1024, "epochs": EPOCHS, "patience": EPOCHS},
}


class FileStore:
    """Keeps a checkpoint as a job does: written, synchronised, renamed."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``."""
        self.path = folder / "checkpoint"

    def load(self) -> bytes | None:
        """Return nothing: every run starts afresh."""
        return None

    def save(self, data: bytes) -> None:
        """Write ``data``."""
        fresh = self.path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)


def task(rows: int, spec: PipelineSpec, store: FileStore) -> Task:
    """Return the task of a pipeline on random rows."""
    rng = np.random.default_rng(0)
    x_MF = rng.standard_normal((rows, FEATURES), dtype=np.float32)
    y_NH = np.digitize(x_MF[:, :1] + rng.standard_normal((rows, 1)), [-0.5, 0.5])
    row_N = np.arange(rows)
    dataset = Dataset(
        x_MF, row_N[:, None].astype(np.int32), row_N, row_N[:, None], y_NH.astype(np.float64), y_NH,
        np.ones(rows, np.float32), np.zeros(rows, np.int32), ("S",),
    )  # fmt: skip
    scaler = Scaler(median=(0.0,) * FEATURES, iqr=(1.35,) * FEATURES)
    prior = ((1 / 3, 1 / 3, 1 / 3),)
    cut = rows * 9 // 10
    processed = Processed(dataset, row_N[:cut], row_N[cut:], row_N[cut:], scaler, (0.0,), prior, None, {})  # type: ignore[arg-type]  # training reads no plan
    contract = ModelContract(
        pipeline=spec.name, spec_hash=spec.hash, model_kind="mlp", model_params=spec.model.params,
        features=tuple(f"f{i}" for i in range(FEATURES)), feature_hash="", window=1, label_kind="direction",
        label_price="mid", horizons_ns=(10**9,), delay_ns=0, dead_zone=(0.0,), prior=prior, scaler=scaler,
        trained_from_ns=0, trained_to_ns=rows, seed=0, code_version="0",
    )  # fmt: skip
    return Task(spec, contract, processed, None, 0, 1, Hooks(), store)


@contextmanager
def watched(clock: Clock, disk: Clock) -> Iterator[None]:
    """Time the parts of training."""
    with (
        mock.patch.object(loop._Loop, "_forward", clock.timed("forward", loop._Loop._forward)),
        mock.patch.object(loop, "_evaluate", clock.timed("validation", loop._evaluate)),
        mock.patch.object(torch.Tensor, "backward", clock.timed("backward", torch.Tensor.backward)),
        mock.patch.object(torch.optim.AdamW, "step", clock.timed("step", torch.optim.AdamW.step)),
        mock.patch.object(Batches, "__iter__", clock.each("batches", Batches.__iter__)),
        mock.patch.object(loop, "clip_gradients", clock.timed("clip", loop.clip_gradients)),
        mock.patch.object(Checkpoints, "save", disk.timed("waited", clock.timed("checkpoint", Checkpoints.save))),
        mock.patch.object(loop._Loop, "one_epoch", clock.timed("epochs", loop._Loop.one_epoch)),
    ):
        yield


def measure(rows: int) -> dict[str, float]:
    """Return shares of the time of one training, and ms a step."""
    spec = parse(SPEC)
    steps = EPOCHS * -(-(rows * 9 // 10) // spec.train.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        # one checkpoint in every run, so that its cost is that of one; its share is that of the default
        spec = parse({**SPEC, "train": {**SPEC["train"], "checkpoint_steps": max(1, steps * 2 // 3)}})
        job, clock, disk = task(rows, spec, FileStore(Path(folder))), Clock(time.thread_time), Clock(time.perf_counter)
        graph = network._graph(job)
        with watched(clock, disk):
            network._train(graph, job)
    spent = clock.spent
    epochs = spent.pop("epochs") - spent.pop("checkpoint") - spent.pop("validation")
    checkpoint = disk.spent["waited"]
    inside = sum(spent[name] for name in ("forward", "backward", "step"))
    step_s = epochs / steps
    return {
        **{name: value / epochs for name, value in spent.items()},
        "outside": 1 - inside / epochs,
        "ms_a_step": 1e3 * step_s,
        "checkpoint": checkpoint / (parse(SPEC).train.checkpoint_steps * step_s),
        "checkpoint_ms": 1e3 * checkpoint,
    }


def main() -> None:
    """Measure and print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    torch.optim.AdamW([torch.zeros(1)])  # which wraps the step of its class: before it is timed
    measure(rows)  # warm
    runs = [measure(rows) for _ in range(RUNS)]
    medians = {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}
    spread = [round(edge(run["outside"] for run in runs), 4) for edge in (min, max)]
    sys.stdout.write(json.dumps({"rows": rows, "batch": 1024, **medians, "outside_range": spread}) + "\n")


if __name__ == "__main__":
    main()
