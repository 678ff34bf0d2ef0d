"""Inference without torch: an ONNX file that carries its contract, and the probe it passes before it may score.

Shapes: B rows of a batch, T rows of a window, F features, O outputs, H horizons.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnxruntime as ort
from pydantic import ValidationError

from ml_core.contract import ModelContract
from ml_core.errors import ModelRefusedError, SchemaMismatchError
from ml_core.types import CLASS_LABELS, Float32

CONTRACT_KEY = "tickwise.contract"
# An input of the graph that is false where it is not given: the rows are scaled already.
IS_SCALED = "is_scaled"
MAX_BYTES = 256 * 2**20  # a graph is held twice while it loads; the largest sensible tick model has a few megabytes
CHUNK_ROWS = 4096  # bounds the memory of one call on a whole hold-out part
PROBE_ROWS = 256
MEDIAN = 0.5
PROBE_SIZES = (1, 2, 3, 7, 16, 17, 64, 255)
HUGE = 1e30  # far outside every scaler, and its square overflows float32

# Rows (N, F), medians and ranges (F,), limit -> scaled rows (N, F), bit for bit as the graph scales them.
Scale = Callable[[Float32, Float32, Float32, np.float32], Float32]


_TRUE = np.array(True)


class Scorer:
    """A model as it serves: the same row gives the same bits whatever batch it comes in.

    Calls are safe from several threads. One call uses one core.
    """

    contract: ModelContract

    def __init__(self, onnx: bytes, scale: Scale | None = None) -> None:
        """Load the bytes of a model file.

        Args:
            onnx: The file.
            scale: What scales rows faster than the graph does; used where the graph takes them scaled.

        Raises:
            ModelRefusedError: The message starts with the reason: ``too_large``, ``unreadable``, ``no_contract``,
                ``bad_contract`` or ``shape``. A retry will not help.
        """
        if len(onnx) > MAX_BYTES:
            raise ModelRefusedError(f"too_large: the model has {len(onnx)} bytes, at most {MAX_BYTES} are loaded")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong arrives as an exception; the log would repeat it on stderr
        try:
            self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # the runtime's errors share no base class
            raise ModelRefusedError(f"unreadable: ONNX Runtime cannot load the model: {error}") from error
        self.contract = _contract(metadata)
        self._check_shapes()
        takes_scaled = any(each.name == IS_SCALED for each in self._session.get_overridable_initializers())
        self._scale = scale if takes_scaled else None
        scaler = self.contract.scaler
        self._scaler = np.array(scaler.median, np.float32), np.array(scaler.iqr, np.float32), np.float32(scaler.limit)

    def outputs(self, x_BTF: Float32) -> Float32:
        """Return what the graph says of raw feature rows, float32 (B, O); B may be 0.

        Raises:
            SchemaMismatchError: ``x_BTF`` has another window or number of features. A retry will not help.
            ModelRefusedError: ``fails`` (the graph raises) or ``shape``. A retry will not help.
        """
        window, features = self.contract.window, len(self.contract.features)
        if x_BTF.ndim != 3 or x_BTF.shape[1:] != (window, features):
            raise SchemaMismatchError(f"the model takes rows of shape (B, {window}, {features}), got {x_BTF.shape}")
        x_BTF = np.ascontiguousarray(x_BTF, dtype=np.float32)
        return self._outputs(x_BTF, self._scale)

    def _outputs(self, x_BTF: Float32, scale: Scale | None) -> Float32:
        if scale is not None:
            x_BTF = scale(x_BTF.reshape(-1, x_BTF.shape[2]), *self._scaler).reshape(x_BTF.shape)
        is_scaled = scale is not None
        if 0 < len(x_BTF) <= CHUNK_ROWS and self.contract.block is None:
            return self._run(x_BTF, is_scaled)
        parts = [self._run(x_bTF, is_scaled)[:used] for x_bTF, used in self._blocks(x_BTF)]
        return np.concatenate(parts) if parts else np.empty((0, self.contract.outputs), dtype=np.float32)

    def scores(self, x_BTF: Float32) -> Float32:
        """Return one score a horizon, float32 (B, H): P(up) - P(down), the predicted log return, or its median."""
        return self.scores_of(self.outputs(x_BTF))

    def scores_of(self, y_BO: Float32) -> Float32:
        """Return the scores (B, H) of what ``outputs`` returned."""
        return scores_of(y_BO, self.contract.label_kind, self.contract.quantiles)

    def probe(self) -> None:
        """Score difficult rows in batches of many sizes, every row in several places, and compare the bits.

        Raises:
            ModelRefusedError: The message starts with the reason: ``fails`` (the graph raises), ``not_finite``,
                ``not_repeatable``, ``scaling`` or ``batch_dependent``. A retry will not help.
        """
        x_BTF = probe_rows(self.contract)
        y_BO, score_BH = self.outputs(x_BTF), self.scores(x_BTF)
        if not (np.isfinite(y_BO).all() and np.isfinite(score_BH).all()):
            row = int(np.flatnonzero(~np.isfinite(y_BO).all(axis=1))[0])
            raise ModelRefusedError(f"not_finite: the output of probe row {row} is not finite")
        if self.outputs(x_BTF).tobytes() != y_BO.tobytes():
            raise ModelRefusedError("not_repeatable: the same rows scored twice give other outputs")
        if self._outputs(x_BTF, None).tobytes() != y_BO.tobytes():
            raise ModelRefusedError("scaling: the graph scales rows in another way than its contract says")
        for places in _places():
            part_BTF = x_BTF[places]
            same = self.outputs(part_BTF).tobytes() == y_BO[places].tobytes()
            if not same or self.scores(part_BTF).tobytes() != score_BH[places].tobytes():
                rows = f"{len(places)} rows from row {places[0]}"
                raise ModelRefusedError(f"batch_dependent: {rows} give other bits than among {PROBE_ROWS} rows")

    def _run(self, x_BTF: Float32, is_scaled: bool) -> Float32:
        given = {self._input: x_BTF, IS_SCALED: _TRUE} if is_scaled else {self._input: x_BTF}
        try:
            y_BO: Float32 = self._session.run(None, given)[0]
        except Exception as error:  # the runtime's errors share no base class
            raise ModelRefusedError(f"fails: the model cannot score {len(x_BTF)} rows: {error}") from error
        if y_BO.shape != (len(x_BTF), self.contract.outputs):
            raise ModelRefusedError(f"shape: {len(x_BTF)} rows gave outputs of shape {y_BO.shape}")
        return y_BO

    def _blocks(self, x_BTF: Float32) -> Iterator[tuple[Float32, int]]:
        """Yield chunks with the number of rows that count; in block mode each has exactly ``block`` rows."""
        size = self.contract.block or CHUNK_ROWS
        for start in range(0, len(x_BTF), size):
            x_bTF = x_BTF[start : start + size]
            used = len(x_bTF)
            if self.contract.block and used < size:
                x_bTF = np.concatenate([x_bTF, np.zeros((size - used, *x_BTF.shape[1:]), dtype=np.float32)])
            yield x_bTF, used

    def _check_shapes(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if (
            len(inputs) != 1
            or len(outputs) != 1
            or inputs[0].type != "tensor(float)"
            or outputs[0].type != "tensor(float)"
        ):
            raise ModelRefusedError("shape: the graph must take one float32 tensor and return one")
        expected = [self.contract.window, len(self.contract.features)]
        batch, *rest = inputs[0].shape
        if isinstance(batch, int) or rest != expected:
            raise ModelRefusedError(
                f"shape: the graph takes {inputs[0].shape}, the contract says (any batch, {expected})"
            )
        if list(outputs[0].shape[1:]) != [self.contract.outputs]:
            raise ModelRefusedError(
                f"shape: the graph returns {outputs[0].shape}, the contract says (batch, {self.contract.outputs})"
            )
        self._input = inputs[0].name


def scores_of(y_BO: Float32, label_kind: str, quantiles: Sequence[float] = ()) -> Float32:
    """Return the scores (B, H) of the outputs of a model: P(up) - P(down), the number that is told, or its median."""
    if label_kind in CLASS_LABELS:
        return direction_scores(y_BO)
    return y_BO[:, quantiles.index(MEDIAN) :: len(quantiles)] if quantiles else y_BO


def direction_scores(y_BO: Float32) -> Float32:
    """Return P(up) - P(down) of logits (down, flat, up) a horizon, float32 (B, H), stable for logits of any size.

    Columns are made contiguous and the sum is written out, so that no value depends on where its row stands.

    >>> direction_scores(np.array([[0.0, 0.0, 0.0], [-1000.0, 0.0, 1000.0]], dtype=np.float32)).tolist()
    [[0.0], [1.0]]
    """
    logits = y_BO.astype(np.float64).reshape(len(y_BO), y_BO.shape[1] // 3, 3)
    down, flat, up = (np.ascontiguousarray(logits[..., column]) for column in range(3))
    top = np.maximum(np.maximum(down, flat), up)
    with np.errstate(invalid="ignore"):  # a logit that is not finite makes its score NaN
        e_down, e_flat, e_up = np.exp(down - top), np.exp(flat - top), np.exp(up - top)
    score_BH: Float32 = ((e_up - e_down) / (e_down + e_flat + e_up)).astype(np.float32)
    return score_BH


def probe_rows(contract: ModelContract) -> Float32:
    """Return the seeded raw rows (256, T, F) of the probe: usual ones, missing values, infinities and huge values."""
    rng = np.random.default_rng(0)
    shape = (PROBE_ROWS, contract.window, len(contract.features))
    x_BTF = rng.standard_normal(shape) * 2 * np.array(contract.scaler.iqr) + np.array(contract.scaler.median)
    x_BTF[0] = np.nan
    x_BTF[1] = HUGE
    x_BTF[2] = -HUGE
    x_BTF[3] = np.inf
    x_BTF[4] = 0.0
    for place, codes in zip(contract.places.coded_G, contract.encoding.codes.values(), strict=True):
        for row in range(6, PROBE_ROWS, 2):  # among others: what never was seen
            x_BTF[row, :, place] = [*codes, HUGE, 0.5][row // 2 % (len(codes) + 2)]
    x_BTF[5::16] = np.where(rng.random(x_BTF[5::16].shape) < 0.3, np.nan, x_BTF[5::16])
    with np.errstate(over="ignore"):
        rows_BTF: Float32 = x_BTF.astype(np.float32)
    return rows_BTF


def _places() -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    for size in PROBE_SIZES:
        for start in sorted({0, 1, 5, PROBE_ROWS - size}):
            if start + size <= PROBE_ROWS:
                yield np.arange(start, start + size)
    yield np.arange(PROBE_ROWS)[::-1].copy()


def _contract(metadata: dict[str, str]) -> ModelContract:
    text = metadata.get(CONTRACT_KEY)
    if text is None:
        raise ModelRefusedError(
            f"no_contract: the model file has no metadata {CONTRACT_KEY!r}; export it with tickwise"
        )
    try:
        contract = ModelContract.model_validate_json(text)
    except ValidationError as error:
        raise ModelRefusedError(f"bad_contract: {error}") from error
    features, horizons = len(contract.features), len(contract.horizons_ns)
    lengths = {
        "scaler.median": (len(contract.scaler.median), features),
        "scaler.iqr": (len(contract.scaler.iqr), features),
        "prior": (len(contract.prior), horizons),
    }
    wrong = [
        f"{name} has {got} entries, not {expected}" for name, (got, expected) in lengths.items() if got != expected
    ]
    unknown = {*contract.encoding.missing, *contract.encoding.codes} - {*contract.features}
    if unknown:
        wrong.append(f"encoding names {', '.join(sorted(unknown))}, no feature")
    if contract.quantiles and (MEDIAN not in contract.quantiles or contract.label_kind in CLASS_LABELS):
        wrong.append(f"quantiles are {contract.quantiles}: without the median, or of classes")
    if contract.block is not None and not 1 <= contract.block <= CHUNK_ROWS:
        wrong.append(f"block is {contract.block}, not 1 to {CHUNK_ROWS}")
    if wrong or not features or not horizons or contract.window < 1:
        raise ModelRefusedError(f"bad_contract: {'; '.join(wrong) or 'it has no features, no horizons or no window'}")
    return contract
