"""A fitted model as files, without torch and without pickle: the graph that serves, its weights, its contract."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.contract import ModelContract
from ml_core.errors import ModelNotFoundError, ModelRefusedError
from ml_core.model.runtime import MAX_BYTES, Scorer

FILES = MODEL, WEIGHTS, CONTRACT, REPORT = "model.onnx", "weights.npz", "contract.json", "report.json"


@dataclass(frozen=True)
class FittedModel:
    """What training gives: ``onnx`` serves, ``weights`` let an incremental job go on, ``report`` tells how it went.

    The contract inside ``onnx`` is the one in ``contract``.
    """

    contract: ModelContract
    onnx: bytes
    weights: dict[str, npt.NDArray[Any]]
    report: dict[str, Any] = field(default_factory=dict)

    def scorer(self) -> Scorer:
        """Return a scorer of this model.

        Raises:
            ModelRefusedError: As ``Scorer``.
        """
        return Scorer(self.onnx)

    def save(self, folder: Path) -> None:
        """Write the model into ``folder``, which is made where it is missing; an earlier model there is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).write_bytes(self.onnx)
        np.savez(folder / WEIGHTS, allow_pickle=False, **self.weights)
        (folder / CONTRACT).write_text(self.contract.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / REPORT).write_text(json.dumps(self.report, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "FittedModel":
        """Return the model that ``save`` wrote into ``folder``.

        Raises:
            ModelNotFoundError: A file is missing. A retry will not help.
            ModelRefusedError: A file is damaged (``unreadable``) or very large (``too_large``), or the contract beside
                the graph is not the one inside it (``bad_contract``). A retry will not help.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ModelNotFoundError(f"{folder} holds no whole model: {', '.join(missing)} is missing")
        if max((folder / name).stat().st_size for name in FILES) > MAX_BYTES:
            raise ModelRefusedError(f"too_large: {folder} holds a file of more than {MAX_BYTES} bytes")
        onnx = (folder / MODEL).read_bytes()
        try:
            stored_bytes = io.BytesIO((folder / WEIGHTS).read_bytes())  # numpy leaves a damaged file open
            _check_size(stored_bytes)
            with np.load(stored_bytes, allow_pickle=False) as stored:
                weights = {name: stored[name] for name in stored.files}
            contract = ModelContract.model_validate_json((folder / CONTRACT).read_bytes())
            report = json.loads((folder / REPORT).read_bytes())
        except ModelRefusedError:
            raise
        except Exception as error:  # numpy raises whatever a damaged archive leads to
            raise ModelRefusedError(f"unreadable: a file of the model in {folder} is damaged: {error}") from error
        if Scorer(onnx).contract != contract:
            raise ModelRefusedError(f"bad_contract: {folder / CONTRACT} is not the contract inside {MODEL}")
        return cls(contract, onnx, weights, report)


def _check_size(weights: io.BytesIO) -> None:
    """Refuse weights that are small on disk alone: gigabytes of zeros are a few bytes there."""
    with zipfile.ZipFile(weights) as packed:
        size = sum(each.file_size for each in packed.infolist())
    if size > MAX_BYTES:
        raise ModelRefusedError(f"too_large: {WEIGHTS} holds {size} bytes, at most {MAX_BYTES} are loaded")
    weights.seek(0)
