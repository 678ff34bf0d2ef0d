"""The card of a model: what it was made of, how it did beside the baselines, and plots, as Markdown and PNG.

Drawn where a model is made and never where it serves. Shapes: N rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core import contenders
from ml_core.data_processor.dataset import Processed
from ml_core.errors import InputError
from ml_core.evaluation import compare
from ml_core.evaluation.bootstrap import Interval
from ml_core.evaluation.compare import Difference, Figures, Rows
from ml_core.evaluation.coverage import acting, half_width, within
from ml_core.evaluation.curves import calibration, calibration_error, cumulative_ic, rise_probability, slope
from ml_core.fit import Fit
from ml_core.spec import PipelineSpec, format_duration
from ml_core.types import Float64

CARD = "card.md"
MOMENTUM = "return"  # the first feature of this name is what momentum follows
RIVAL = "ridge"
WIDTH = 0.8  # share of outcomes that the width around a prediction is to hold


class Shown(NamedTuple):
    """A model on the rows of a card."""

    name: str
    score_N: npt.NDArray[np.floating]
    in_returns: bool = True  # the score is a predicted return
    error_V: Float64 | None = None  # of predictions on other rows, none of them learned from: came less said


class Result(NamedTuple):
    """The figures of a model, and how far it is ahead of the rival."""

    name: str
    figures: Figures
    ahead: Difference | None  # None: it is the rival


def results(models: Sequence[Shown], rows: Rows, rival: str = RIVAL) -> list[Result]:
    """Return the figures of each model, all on the same rows."""
    scores = {model.name: model.score_N for model in models}
    return [
        Result(
            model.name,
            compare.figures(model.score_N, rows, in_returns=model.in_returns),
            None if model.name == rival else compare.against(model.score_N, scores[rival], rows, rival=rival),
        )
        for model in models
    ]


def of_fit(fit: Fit, spec: PipelineSpec, folder: Path, *, horizon: int = 0) -> Path:
    """Write the card of a fitted model into ``folder`` and return it: its hold-out rows, with the baselines beside it.

    Args:
        fit: The model with the rows it was judged on.
        spec: The pipeline.
        folder: Made where it is missing.
        horizon: Which of the horizons the card shows.

    Raises:
        InputError: The label is a volatility: a card's figures and baselines are of returns. A retry will not help.
    """
    if spec.label.kind == "volatility":
        raise InputError("label.kind 'volatility': a card is of scores of returns, and a volatility has no sign")
    processed, scorer = fit.processed, fit.model.scorer()
    dataset = processed.dataset
    holdout_I = processed.holdout_I[np.argsort(dataset.ts_ns_N[processed.holdout_I], kind="stable")]
    names = list(processed.plan.names)
    in_returns = spec.label.kind == "return"

    def said(chosen_I: "np.typing.NDArray[np.int64]") -> Float64:
        return scorer.scores(dataset.x_MF[dataset.idx_NT[chosen_I]])[:, horizon].astype(np.float64)

    error_V = dataset.return_NH[processed.validation_I, horizon] - said(processed.validation_I) if in_returns else None
    models = [Shown(spec.model.kind, said(holdout_I), in_returns, error_V)]
    baselines = {"ridge": contenders.ridge(), "zero": contenders.zero, "prior": contenders.prior}
    past = next((name for name in names if name.partition(":")[0] == MOMENTUM), None)
    if past is not None:
        baselines["momentum"] = contenders.momentum(past)
    for name, learn in baselines.items():
        score_N = learn(processed)(holdout_I)[:, horizon]
        models.append(Shown(name, score_N, name != "momentum" and (in_returns or name != "prior")))
    rows = Rows(
        dataset.ts_ns_N[holdout_I],
        dataset.return_NH[holdout_I, horizon],
        2e-4 * dataset.cost_bps_N[holdout_I] + (0.0 if spec.costs.half_spread else _spread(processed, holdout_I)),
        spec.label.delay + spec.label.horizons[horizon],
    )
    contract = fit.model.contract
    about = {
        "pipeline": spec.name,
        "model": f"{spec.model.kind} {contract.model_params or ''}".strip(),
        "label": f"{spec.label.kind} of the {spec.label.price} over {format_duration(spec.label.horizons[horizon])}",
        "features": f"{', '.join(names)} ({contract.feature_hash}), window {contract.window}",
        "training rows": f"{len(processed.train_I):,}, labels up to {_utc(contract.trained_to_ns)}",
        "rows of the figures": f"{len(holdout_I):,}, {_utc(rows.ts_ns_N[0])} to {_utc(rows.ts_ns_N[-1])}",
        "code": contract.code_version,
    }
    return write(folder, f"Model card: {spec.name}", about, models, rows)


def write(folder: Path, title: str, about: Mapping[str, str], models: Sequence[Shown], rows: Rows) -> Path:
    """Write a card about the first of ``models`` into ``folder``; one of the others is named ridge."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", "", *(f"- {name}: {text}" for name, text in about.items()), ""]
    lines += table(results(models, rows))
    lines += told(models[0], rows)
    for caption, path in plots(folder, "card", models[0], models, rows):
        lines += [f"![{caption}]({path.name})", ""]
    card = folder / CARD
    card.write_text("\n".join(lines), encoding="utf-8")
    return card


def table(found: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a table of models."""
    yield (
        "| model | IC (Spearman) | Pearson | winsorised | AUC of the sign | R2 against zero | edge, bps "
        f"| acts on | after costs, bps | IC ahead of {RIVAL} | Pearson ahead of {RIVAL} |"
    )
    yield "|" + " --- |" * 11
    for name, figures, ahead in found:
        cells = (
            name,
            _with(figures.ic, figures.ic_interval),
            _with(figures.pearson, figures.pearson_interval),
            _number(figures.winsorised),
            _number(figures.sign_auc),
            _number(figures.r2, 4),
            _number(figures.edge_bps),
            f"{figures.acted:.1%}" if np.isfinite(figures.acted) else "",
            _number(figures.after_costs_bps, 4),
            _with(ahead.ic, ahead.ic_interval) if ahead else "",
            _with(ahead.pearson, ahead.pearson_interval) if ahead else "",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    reasons = {figures.ic_interval.reason for _, figures, _ in found if figures.ic_interval.low is None}
    reasons |= {ahead.ic_interval.reason for _, _, ahead in found if ahead and ahead.ic_interval.low is None}
    for reason in sorted(reason for reason in reasons if reason):
        yield f"Without an interval: {reason}."
        yield ""


def told(model: Shown, rows: Rows) -> Iterator[str]:
    """Yield what else is to be said of a model: how it is calibrated, what it covers, how it acts on few rows."""
    if model.in_returns:
        yield f"Calibration: what came is {slope(model.score_N, rows.return_N):.2f} times what was said (1 is right)."
    if model.error_V is not None:
        width = half_width(model.error_V, WIDTH)
        held = within(model.score_N.astype(np.float64), rows.return_N, width)
        moved_N, moved_V = rows.return_N != 0, model.error_V
        chance = rise_probability(model.score_N[moved_N].astype(np.float64), moved_V)
        error = calibration_error(calibration(chance, rows.return_N[moved_N] > 0))
        yield f"Chances of a rise are off by {error:.3f} on the mean."
        yield (
            f"Coverage: within {width * 1e4:.2f} bps of the prediction, the width that held {WIDTH:.0%} of earlier "
            f"outcomes, lie {held:.1%} of these."
        )
    yield ""
    yield "| surest rows | rows | right way, of those that moved | edge, bps |"
    yield "| --- | --- | --- | --- |"
    for share, count, hits, edge in acting(model.score_N, rows.return_N):
        yield f"| {share:.0%} | {count:,} | {hits:.1%} | {edge:.3f} |"
    yield ""


def plots(folder: Path, stem: str, model: Shown, models: Sequence[Shown], rows: Rows) -> Iterator[tuple[str, Path]]:
    """Draw the plots of ``model`` and those of all ``models``; yield caption and file of each."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(5, 4), layout="constrained")
    unit = 1e4 if model.in_returns else 1.0
    curve = calibration(model.score_N, rows.return_N)
    axes.errorbar(
        curve.predicted_K * unit, curve.observed_K * 1e4, 2 * curve.spread_K * 1e4 / np.sqrt(curve.count_K), fmt="o-"
    )
    if model.in_returns:
        ends = [curve.predicted_K.min() * 1e4, curve.predicted_K.max() * 1e4]
        axes.plot(ends, ends, color="gray", linewidth=0.8)
    axes.set_xlabel("predicted, bps" if model.in_returns else "score")
    axes.set_ylabel("mean return that came, bps (bars: rows as if independent)")
    yield _saved(figure, folder, stem, "calibration", f"{model.name}: calibration by tenths of the score")
    if model.error_V is not None:
        moved_N = rows.return_N != 0
        chance_N = rise_probability(model.score_N[moved_N].astype(np.float64), model.error_V)
        curve = calibration(chance_N, rows.return_N[moved_N] > 0)
        figure, axes = pyplot.subplots(figsize=(5, 4), layout="constrained")
        axes.errorbar(curve.predicted_K, curve.observed_K, 2 * curve.spread_K / np.sqrt(curve.count_K), fmt="o-")
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        axes.set_xlabel("chance of a rise that was said")
        axes.set_ylabel("share that rose, of those that moved (bars: as if independent)")
        yield _saved(figure, folder, stem, "reliability", f"{model.name}: reliability of the sign")
    hours_N = (rows.ts_ns_N - rows.ts_ns_N[0]) / 3.6e12
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for each in models:
        path_N = cumulative_ic(each.score_N, rows.return_N)
        if np.isfinite(path_N).all():
            axes.plot(hours_N, path_N, label=each.name, linewidth=1.8 if each is model else 0.9)
    _over_time(axes, "rank correlation so far, share of the day's")
    yield _saved(figure, folder, stem, "cumulative-ic", "information coefficient as it gathers")
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for each in models:
        gain_N = np.sign(each.score_N) * rows.return_N
        axes.plot(hours_N, np.cumsum(gain_N) / len(gain_N) * 1e4, label=each.name, linewidth=0.9)
    _over_time(axes, "mean edge so far, bps a row, before costs")
    yield _saved(figure, folder, stem, "cumulative-edge", "edge as it gathers")


def _spread(processed: Processed, chosen_I: Any) -> Float64:
    """Return the spread of rows as a log return, where the pipeline has it as a feature; else 0.

    It stands in for ``costs.half_spread`` where that is not said.
    """
    names = list(processed.plan.names)
    if "relative_spread" not in names:
        return np.zeros(len(chosen_I))
    spread_I = contenders.last_rows(processed, chosen_I)[:, names.index("relative_spread")]
    return np.nan_to_num(spread_I.astype(np.float64)) * 1e-4


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _over_time(axes: Any, what: str) -> None:
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set_xlabel("hours since the first row")
    axes.set_ylabel(what)
    axes.legend(fontsize=8, ncols=2, loc="upper left")  # to look for the best place takes long


def _saved(figure: Any, folder: Path, stem: str, what: str, caption: str) -> tuple[str, Path]:
    path = folder / f"{stem}_{what}.png"
    figure.axes[0].set_title(caption, fontsize=10)
    figure.savefig(path, dpi=100)
    _pyplot().close(figure)
    return caption, path


def _with(value: float, interval: Interval) -> str:
    if not np.isfinite(value):
        return ""
    return _number(value) + (f" ({interval.low:.3f} to {interval.high:.3f})" if interval.low is not None else "")


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else ""


def _utc(ts_ns: int | np.int64) -> str:
    return f"{np.datetime64(int(ts_ns), 'ns').astype('datetime64[s]')}Z"
