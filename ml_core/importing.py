"""A model trained elsewhere joined to a pipeline: its file and its signature in, a model that serves like ours out.

Shapes: B rows of a batch, T rows of a window, F features.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from ml_core.contract import ModelContract, code_version
from ml_core.data_processor.dataset import barriers_of
from ml_core.data_processor.features import FeaturePlan
from ml_core.errors import ModelRefusedError, NotFoundError, SpecError
from ml_core.learners.boosting import MAX_TREES
from ml_core.model.export import check_parity, with_block
from ml_core.model.fitted import FittedModel
from ml_core.model.foreign.lightgbm_file import read_lightgbm
from ml_core.model.foreign.onnx_file import read_onnx
from ml_core.model.foreign.port import Foreign
from ml_core.model.foreign.signature import Signature
from ml_core.model.foreign.wrapped import Wrapping
from ml_core.model.foreign.wrapped_onnx import file_of
from ml_core.model.foreign.xgboost_file import read_xgboost
from ml_core.model.runtime import MAX_BYTES, Scorer, probe_rows
from ml_core.spec import PipelineSpec, format_duration
from ml_core.types import Float32

FORMATS = {".onnx": "ONNX", ".txt": "LightGBM's text", ".json": "XGBoost's JSON"}
MAX_TEXT_BYTES = 64 * 2**20  # a text is many times as large in memory


def import_model(path: Path, spec: PipelineSpec, signature: Signature) -> FittedModel:
    """Return the model in ``path`` as one of ``spec``: raw rows in, outputs of the contract out, probed.

    It says what its own engine says of the same rows: checked on the probe's rows, and on rows at the thresholds of its
    trees. Nothing in the file is run but operators of the ONNX standard, and nothing is unpickled.

    Raises:
        NotFoundError: No such file.
        SpecError: The signature does not fit the pipeline.
        UnknownPartError: What reads the format is not installed.
        ModelRefusedError: The message starts with the reason: ``format``, ``too_large``, one of the reader's, of
            ``Wrapping``, ``parity``, or one of the probe's. A retry will not help for all of these.
    """
    plan = FeaturePlan.from_spec(spec)
    _check_question(signature, spec)
    data = _read(path)
    foreign = _parsed(data, path.suffix, signature)
    wrapping = Wrapping(foreign, signature, plan.names)
    contract = _contract(wrapping, spec, plan, {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()})
    file = with_block(file_of(wrapping, contract))
    x_BTF = _parity_rows(wrapping, contract)
    gap = check_parity(wrapping.expected, file, foreign.engine, x_BTF)
    report = {"import": {"engine": foreign.engine, "rows": len(x_BTF), "largest_gap": gap}}
    return FittedModel(Scorer(file).contract, file, {}, report)


def _check_question(signature: Signature, spec: PipelineSpec) -> None:
    """Raise where the model answers another question than the pipeline asks."""
    asked = {
        "window": (signature.window, spec.features.window),
        "label": (signature.label, spec.label.kind),
        "horizons": tuple([format_duration(h) for h in each] for each in (signature.horizons, spec.label.horizons)),
    }
    for name, (ours, theirs) in asked.items():
        if ours != theirs:
            raise SpecError(f"{name}: the signature says {ours!r}, the pipeline {spec.name!r} asks for {theirs!r}")


def _read(path: Path) -> bytes:
    if path.suffix not in FORMATS:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in FORMATS.items())
        raise ModelRefusedError(f"format: {path.name!r} is not one of {known}; nothing else is opened")
    if not path.is_file():  # a device or a pipe has no end
        raise NotFoundError(f"cannot read the model {path}: there is no such file")
    limit = MAX_BYTES if path.suffix == ".onnx" else MAX_TEXT_BYTES
    try:
        size = path.stat().st_size
        if size > limit:
            raise ModelRefusedError(f"too_large: {path} has {size} bytes, at most {limit} are read")
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"cannot read the model {path}: {error}") from error


def _parsed(data: bytes, suffix: str, signature: Signature) -> Foreign:
    if suffix == ".onnx":
        return read_onnx(data, signature.output)
    if signature.output is not None:
        raise SpecError("output: only an ONNX graph has outputs with names")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ModelRefusedError(f"unreadable: the file is no text: {error}") from error
    foreign = read_lightgbm(text) if suffix == ".txt" else read_xgboost(text)
    if len(foreign.voices) > MAX_TREES:
        raise ModelRefusedError(f"too_large: the model has {len(foreign.voices)} trees, at most {MAX_TREES} are served")
    return foreign


def _contract(wrapping: Wrapping, spec: PipelineSpec, plan: FeaturePlan, origin: dict[str, Any]) -> ModelContract:
    signature = wrapping.signature
    even = (1 / 3, 1 / 3, 1 / 3) if signature.is_classes else (0.0, 1.0)
    return ModelContract(
        pipeline=spec.name,
        spec_hash=spec.hash,
        model_kind=wrapping.foreign.kind,
        model_params={**origin, "signature": signature.model_dump(mode="json", exclude_defaults=True)},
        features=plan.names,
        feature_hash=plan.hash,
        window=spec.features.window,
        label_kind=spec.label.kind,
        label_price=spec.label.price,
        horizons_ns=spec.label.horizons,
        delay_ns=spec.label.delay,
        dead_zone=signature.dead_zone,
        barriers=barriers_of(spec),
        prior=(even,) * len(spec.label.horizons),
        scaler=wrapping.scaler,
        trained_from_ns=0,
        trained_to_ns=math.ceil(signature.trained_to.timestamp()) * 10**9,
        seed=0,
        code_version=code_version(),
    )


def _parity_rows(wrapping: Wrapping, contract: ModelContract) -> Float32:
    """Return the probe's rows, and rows on each threshold of a tree, one float32 below and one above."""
    x_BTF = probe_rows(contract)
    if wrapping.signature.inputs == "scaled":
        return x_BTF
    splits = wrapping.foreign.splits()
    edge_BTF = np.repeat(x_BTF[-1:], 3 * len(splits), axis=0)
    flat_BX = edge_BTF.reshape(len(edge_BTF), x_BTF[0].size)
    for number, (column, threshold) in enumerate(splits):
        at = np.float32(threshold)
        with np.errstate(over="ignore"):  # trees may split off missing values at the largest number
            near = np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf))
        flat_BX[3 * number : 3 * number + 3, wrapping.column_X[column]] = near
    return np.concatenate([x_BTF, edge_BTF])
