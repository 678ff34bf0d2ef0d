"""What speaks for a candidate: its losses beside its rival's, on rows that neither side was trained on.

Shapes: N samples, H horizons, I numbers of samples.
"""

from typing import NamedTuple

from ml_core.contract import ModelContract
from ml_core.data_processor.dataset import Processed
from ml_core.data_processor.labels import classes
from ml_core.fit import Fit, losses, prior_losses
from ml_core.model.runtime import Scorer
from ml_core.spec import PipelineSpec
from ml_core.types import CLASS_LABELS, Float64, Int64
from model_ops_manager.promotion import Decision, decide

# Two models can be compared when they answer the same question about the same rows.
_SAME_QUESTION = (
    "feature_hash",
    "window",
    "label_kind",
    "label_price",
    "horizons_ns",
    "delay_ns",
    "barriers",
    "quantiles",
)


class Champion(NamedTuple):
    """The version that serves now."""

    number: int
    scorer: Scorer


def judge(fit: Fit, spec: PipelineSpec, champion: Champion | None) -> Decision:
    """Return whether the model of ``fit`` takes over from ``champion``.

    Without a champion, or with one that the pipeline has left behind (other features or another label, so that it
    cannot serve either), the rival is the class prior of the training rows.
    """
    processed, holdout_I = fit.processed, fit.processed.holdout_I
    look_ahead_ns = spec.label.delay + max(spec.label.horizons)
    changed = [] if champion is None else _changed(fit.model.contract, champion.scorer.contract)
    if champion is None or changed:
        decision = decide(
            losses(fit.model, processed, holdout_I),
            prior_losses(processed, holdout_I, spec.label.kind),
            processed.dataset.ts_ns_N[holdout_I],
            rival="the prior",
            look_ahead_ns=look_ahead_ns,
            gate=spec.gate,
        )
        if champion is None:
            return decision
        note = f"version {champion.number} answers another question ({', '.join(changed)} changed); as a first model"
        return decision._replace(reason=f"{note}: {decision.reason}")
    unseen_I = holdout_I[processed.dataset.ts_ns_N[holdout_I] > champion.scorer.contract.trained_to_ns]
    return decide(
        _fair_losses(fit.model.scorer(), champion.scorer, processed, unseen_I),
        _fair_losses(champion.scorer, fit.model.scorer(), processed, unseen_I),
        processed.dataset.ts_ns_N[unseen_I],
        rival=f"version {champion.number}",
        look_ahead_ns=look_ahead_ns,
        gate=spec.gate,
    )


def _changed(candidate: ModelContract, champion: ModelContract) -> list[str]:
    return [name for name in _SAME_QUESTION if getattr(candidate, name) != getattr(champion, name)]


def _fair_losses(scorer: Scorer, other: Scorer, processed: Processed, indices_I: Int64) -> Float64:
    """Return the losses (I,) of ``scorer``: the mean over its own labels and those of ``other``.

    Each side has fitted how wide `flat` is on its own rows. Labels of one width would favour the side that learned it.
    """
    ours, theirs = scorer.contract.dead_zone, other.contract.dead_zone
    if scorer.contract.label_kind not in CLASS_LABELS or ours == theirs:
        return losses(scorer, processed, indices_I)
    both = [losses(scorer, _relabelled(processed, zone), indices_I) for zone in (ours, theirs)]
    mean: Float64 = (both[0] + both[1]) / 2
    return mean


def _relabelled(processed: Processed, dead_zone: tuple[float, ...]) -> Processed:
    dataset = processed.dataset
    return processed._replace(dataset=dataset._replace(y_NH=classes(dataset.return_NH, dead_zone)))
