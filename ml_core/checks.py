"""What a pipeline and its own parts must do before any compute is spent on them, tried on an untrained model.

Shapes: N ticks, R rows, B rows of a batch, T rows of a window, F features, H horizons, O outputs.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ml_core.contract import ModelContract
from ml_core.data_processor import look_ahead
from ml_core.data_processor.dataset import Dataset, Processed
from ml_core.data_processor.features import FeaturePlan
from ml_core.data_processor.windows import Tail
from ml_core.errors import ModelRefusedError, TickwiseError
from ml_core.learners import boosting, network
from ml_core.learners.port import Task
from ml_core.model.export import export
from ml_core.model.fitted import FittedModel
from ml_core.model.runtime import CHUNK_ROWS, Scorer, probe_rows
from ml_core.model.trial import trial_contract, trial_graph
from ml_core.spec import PipelineSpec
from ml_core.trainer.loop import Hooks
from ml_core.types import CLASS_LABELS, Float32, RowBatch, TickBatch

LATENCY_CALLS = 1000  # so that the 99th percentile is the tenth slowest
LATENCY_S = 2.0  # at most
BATCH = "batch_dependent", "mixes_rows"  # reasons of a refusal that are not about the export itself


class Finding(NamedTuple):
    """How a check went."""

    check: str
    passed: bool | None  # None: it could not be tried
    detail: str
    figures: dict[str, float] = {}  # noqa: RUF012 - never changed


def run_checks(spec: PipelineSpec, ticks: TickBatch, *, cuts: int = 20) -> list[Finding]:
    """Return how each check went, in order; those that need what an earlier one could not make are not tried.

    ``builds``: features, model, parameters and loss are known and fit together, an own loss on a batch of noise.
    ``exports``: the untrained model becomes an
    ONNX graph that says what it says itself. ``batch``: a row's outputs do not depend on its batch. ``saves``: read
    back from files, the model gives the same bits. ``look_ahead``: no feature of ``ticks`` knows what comes after its
    tick. ``latency``: how long one row takes on one core, and how many rows a second; it always passes.

    Trees are tried as learned from random rows, as many rounds as the pipeline asks for at most.
    """
    findings: list[Finding] = []
    try:
        plan = FeaturePlan.from_spec(spec)
        make = _trial(spec, features=len(plan.names))
    except TickwiseError as error:
        return [Finding("builds", passed=False, detail=str(error))]
    findings.append(Finding("builds", passed=True, detail=f"{len(plan.names)} features, {spec.model.kind}"))
    model = _exported(make, findings)
    if model is not None:
        findings.append(_saves(model))
    findings.append(_looks_ahead(spec, plan, ticks, cuts, None if model is None else model.scorer()))
    if model is not None:
        findings.append(_latency(model.scorer()))
    return findings


def _trial(spec: PipelineSpec, *, features: int) -> Callable[[], FittedModel]:
    """Return what makes an untrained model; raises where it cannot be built."""
    contract = trial_contract(spec, features=features)
    if spec.model.kind == boosting.KIND:
        boosting.check(spec, features=features, outputs=contract.outputs)
        return lambda: _learned(spec, contract)
    network.check(spec, features=features, outputs=contract.outputs)
    graph = trial_graph(spec, features=features)
    return lambda: _model(export(graph, contract), {name: each.numpy() for name, each in graph.state_dict().items()})


def _learned(spec: PipelineSpec, contract: ModelContract) -> FittedModel:
    count, horizons, width = 2000, len(contract.horizons_ns), len(contract.features)
    rng = np.random.default_rng(0)
    x_MF = rng.standard_normal((count + contract.window - 1, width)).astype(np.float32)
    y_NH: Any = rng.standard_normal((count, horizons)).astype(np.float32)
    if contract.label_kind in CLASS_LABELS:
        y_NH = rng.integers(0, 3, (count, horizons))
    number_N = np.arange(count)
    dataset: dict[str, Any] = {name: np.zeros(count) for name in Dataset._fields}
    dataset |= {"x_MF": x_MF, "idx_NT": (number_N[:, None] + np.arange(contract.window)).astype(np.int32)}
    dataset |= {"y_NH": y_NH, "weight_N": np.ones(count, np.float32)}
    parts: dict[str, Any] = dict.fromkeys(Processed._fields)
    parts |= {"dataset": Dataset(**dataset), "train_I": number_N, "validation_I": number_N}
    task = Task(spec, contract, Processed(**parts), start=None, seed=0, threads=1, hooks=Hooks())
    learned = boosting.learn(task)
    return _model(learned.onnx, learned.weights)


def _model(onnx: bytes, weights: dict[str, Any]) -> FittedModel:
    return FittedModel(Scorer(onnx).contract, onnx, weights)


def _exported(make: Callable[[], FittedModel], findings: list[Finding]) -> FittedModel | None:
    try:
        model = make()
    except ModelRefusedError as error:
        of_batches = str(error).startswith(BATCH)
        findings.append(Finding("exports", passed=of_batches, detail="" if of_batches else str(error)))
        if of_batches:
            findings.append(Finding("batch", passed=False, detail=str(error)))
        return None
    findings.append(Finding("exports", passed=True, detail=f"{len(model.onnx):,} bytes"))
    block = model.contract.block
    told = "any batch gives the same bits" if block is None else f"the same bits in blocks of {block} rows"
    findings.append(Finding("batch", passed=True, detail=told))
    return model


def _saves(model: FittedModel) -> Finding:
    x_BTF = probe_rows(model.contract)
    with tempfile.TemporaryDirectory(prefix="tickwise-check-") as folder:
        model.save(Path(folder))
        loaded = FittedModel.load(Path(folder))
    is_same = loaded.scorer().outputs(x_BTF).tobytes() == model.scorer().outputs(x_BTF).tobytes()
    return Finding("saves", passed=is_same, detail="the same bits" if is_same else "other bits after loading")


def _looks_ahead(spec: PipelineSpec, plan: FeaturePlan, ticks: TickBatch, cuts: int, scorer: Scorer | None) -> Finding:
    def scores(rows: RowBatch) -> Float32:
        x_RTF, ready_R = Tail(spec.features.window, rows.x_NF.shape[1]).windows(rows)
        score_RH = np.full((len(rows), len(spec.label.horizons)), np.nan, np.float32)
        if scorer is not None:
            score_RH[ready_R] = scorer.scores(x_RTF[ready_R])
        return score_RH

    try:
        found = look_ahead.find(ticks, plan.anew, cuts=cuts, score=None if scorer is None else scores)
    except TickwiseError as error:
        return Finding("look_ahead", passed=None, detail=f"not proven: {error}")
    if not found.leaks:
        return Finding("look_ahead", passed=True, detail=f"{found.rows} rows, {cuts} cuts, {found.scored} scored")
    return Finding("look_ahead", passed=False, detail="; ".join(map(str, found.leaks)))


def _latency(scorer: Scorer) -> Finding:
    x_BTF = np.resize(probe_rows(scorer.contract)[5:], (CHUNK_ROWS, *probe_rows(scorer.contract).shape[1:]))
    took_ms: list[float] = []
    end_s = time.perf_counter() + LATENCY_S
    while len(took_ms) < LATENCY_CALLS and (len(took_ms) < 10 or time.perf_counter() < end_s):
        start_s = time.perf_counter()
        scorer.scores(x_BTF[:1])
        took_ms.append((time.perf_counter() - start_s) * 1e3)
    start_s = time.perf_counter()
    scorer.scores(x_BTF)
    rows_s = len(x_BTF) / (time.perf_counter() - start_s)
    p50, p99 = (float(value) for value in np.percentile(took_ms, [50, 99]))
    figures = {"p50_ms": p50, "p99_ms": p99, "rows_s": rows_s}
    told = f"one row {p50:.3g} ms (99 of 100 within {p99:.3g} ms), {rows_s:,.0f} rows/s on one core"
    return Finding("latency", passed=True, detail=told, figures=figures)
