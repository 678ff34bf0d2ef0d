"""An untrained model of a pipeline, made to see what would stand in the way of a trained one."""

import json

from torch import nn

from ml_core.contract import Encoding, ModelContract, Scaler
from ml_core.model.build import build, check_params, model_class
from ml_core.model.export import export
from ml_core.model.graph import ScoringGraph, graph_of
from ml_core.spec import PipelineSpec
from ml_core.types import CLASS_LABELS

_passed: set[tuple[type[nn.Module], str]] = set()  # exporting takes seconds, and a job checks more than once


def trial_contract(spec: PipelineSpec, *, features: int) -> ModelContract:
    """Return the contract of a model of ``spec`` that has seen no rows: neutral scaling, an even prior.

    Which features are missing and which codes there are is not known yet: all may be missing, and two codes stand for
    those of a category.
    """
    names = tuple(f"x{number}" for number in range(features))
    coded = names[: len(spec.features.categories)]
    each = (1 / 3, 1 / 3, 1 / 3) if spec.label.kind in CLASS_LABELS else (0.0, 1.0)
    return ModelContract(
        pipeline=spec.name,
        spec_hash=spec.hash,
        model_kind=spec.model.kind,
        model_params=spec.model.params,
        features=names,
        feature_hash="trial",
        window=spec.features.window,
        label_kind=spec.label.kind,
        label_price=spec.label.price,
        horizons_ns=spec.label.horizons,
        delay_ns=spec.label.delay,
        quantiles=spec.model.quantiles,
        dead_zone=(0.0,) * len(spec.label.horizons),
        prior=(each,) * len(spec.label.horizons),
        scaler=Scaler(median=(0.0,) * features, iqr=(1.0,) * features),
        encoding=Encoding(
            missing=names[len(coded) :] if spec.features.missing == "indicator" else (),
            codes=dict.fromkeys(coded, (0, 1)),
        ),
        trained_from_ns=0,
        trained_to_ns=0,
        seed=0,
        code_version="trial",
    )


def trial_graph(spec: PipelineSpec, *, features: int) -> ScoringGraph:
    """Return the network of ``spec`` with first weights, ready to be exported; raises as ``build``."""
    contract = trial_contract(spec, features=features)
    return graph_of(build(spec, features=contract.places.width, outputs=contract.outputs, seed=0), contract)


def trial_export(spec: PipelineSpec, *, features: int) -> None:
    """Export the untrained network of ``spec``, once a process for equal code and parameters.

    Raises:
        SpecError, UnknownPartError: As ``build``.
        ModelRefusedError: As ``export``. A retry will not help.
    """
    part = model_class(spec)
    contract = trial_contract(spec, features=features)
    facts = [check_params(part, spec.model.params), features, spec.features.window, spec.model.quantiles]
    facts += [contract.encoding.model_dump(), spec.label.kind, spec.label.horizons]
    key = part, json.dumps(facts, default=str)
    if key not in _passed:
        export(trial_graph(spec, features=features), contract)
        _passed.add(key)
