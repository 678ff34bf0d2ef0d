"""The model that every contender serves: seeded weights, scaled for real rows; a file, and the champion of a store.

usage: python -m tests.benchmarks.model FOLDER

A process of its own, because torch and MLflow are heavy. Leaves FOLDER/model.onnx, FOLDER/weights.npz and the model
store of a worker whose TICKWISE_HOME is FOLDER.
"""

import sys
from pathlib import Path

import torch

from ml_core.contract import ModelContract
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.data_processor.scaling import fit_scaler
from ml_core.model.build import build
from ml_core.model.export import export
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.spec import PipelineSpec, load
from ml_core.types import SymbolTable
from model_ops_manager.mlflow_agent import MlflowAgent
from model_ops_manager.registration import register
from model_ops_manager.scoring import ABSTAIN
from tests.benchmarks import workload

SEED = 4
_ROWS = 200_000
# Scores of the size of one, so that a bound on their error means something.
_PRIOR = ((0.0, 1.0),)


def make(spec: PipelineSpec) -> FittedModel:
    """Return the model of the pipeline, not trained: its speed does not depend on its weights."""
    plan = FeaturePlan.from_spec(spec)
    ticks = workload.make(_ROWS).ticks
    rows = features.step(ticks, FeatureState(plan, SymbolTable(ticks.symbols)))
    scaler = fit_scaler(rows.x_NF[(rows.flags_N & ABSTAIN) == 0])
    contract = ModelContract(
        pipeline=spec.name,
        spec_hash=spec.hash,
        model_kind=spec.model.kind,
        features=plan.names,
        feature_hash=plan.hash,
        window=spec.features.window,
        label_kind=spec.label.kind,
        label_price=spec.label.price,
        horizons_ns=spec.label.horizons,
        delay_ns=spec.label.delay,
        dead_zone=(0.0,),
        prior=_PRIOR,
        scaler=scaler,
        trained_from_ns=int(ticks.ts_ns_N[0]),
        trained_to_ns=int(ticks.ts_ns_N[-1]),
        seed=SEED,
        code_version="bench",
    )
    network = build(spec, features=len(plan.names), outputs=contract.outputs, seed=SEED)
    shift_O, scale_O = output_scale(spec.label.kind, _PRIOR)
    onnx = export(ScoringGraph(network, scaler, shift_O=shift_O, scale_O=scale_O), contract)
    return FittedModel(contract, onnx, {name: value.numpy() for name, value in network.state_dict().items()})


def main(folder: Path) -> None:
    """Make the model, write it, and register it as champion."""
    torch.set_num_threads(1)
    model = make(load(workload.PIPELINE))
    model.save(folder)
    agent = MlflowAgent(f"sqlite:///{folder / 'mlflow.db'}", folder)
    version = register(agent, model, params={}, tags={})
    agent.set_champion(version.name, version.version, reason="benchmark")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
