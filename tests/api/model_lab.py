"""Models with random weights for a pipeline: whole and servable, made in a moment."""

import torch

from ml_core.contract import ModelContract, Scaler
from ml_core.data_processor.plan import FeaturePlan
from ml_core.model.build import build
from ml_core.model.export import export
from ml_core.model.fitted import FittedModel
from ml_core.model.graph import ScoringGraph, output_scale
from ml_core.spec import PipelineSpec


def make_model(spec: PipelineSpec, *, seed: int = 0) -> FittedModel:
    plan, horizons = FeaturePlan.from_spec(spec), spec.label.horizons
    prior = ((0.25, 0.5, 0.25),) * len(horizons)
    contract = ModelContract(
        pipeline=spec.name,
        spec_hash=spec.hash,
        model_kind=spec.model.kind,
        features=plan.names,
        feature_hash=plan.hash,
        window=spec.features.window,
        label_kind="direction",
        label_price="mid",
        horizons_ns=horizons,
        delay_ns=0,
        dead_zone=(1e-5,) * len(horizons),
        prior=prior,
        scaler=Scaler(median=(0.0,) * len(plan.names), iqr=(1.0,) * len(plan.names)),
        trained_from_ns=0,
        trained_to_ns=1,
        seed=seed,
        code_version="0",
        metrics={"holdout_log_loss": 0.9, "prior_log_loss": 1.0},
    )
    network = build(spec, features=len(plan.names), outputs=contract.outputs, seed=seed)
    # an untrained network may start at the prior exactly; random weights make every row's score its own
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for weights in network.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) * 0.3)
    shift_O, scale_O = output_scale("direction", prior)
    onnx = export(ScoringGraph(network, contract.scaler, shift_O=shift_O, scale_O=scale_O), contract)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return FittedModel(contract, onnx, weights, {"history": []})
