"""`tickwise pipelines`: are the files right, and what do they say?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import AsJson, dump, fields, note, say
from data_io.settings import CommonSettings
from ml_core.data_processor.plan import FeaturePlan
from ml_core.errors import SpecError, UnknownPartError
from ml_core.spec import PipelineSpec, files_of, find, format_duration, load, load_all

app = typer.Typer(no_args_is_help=True, help="Check pipeline files.", pretty_exceptions_enable=False)

Files = Annotated[list[Path] | None, typer.Argument(help="Pipeline files or folders; default: TICKWISE_PIPELINES.")]


@app.command()
def check(files: Files = None, as_json: AsJson = False) -> None:
    """Read pipeline files and say what is wrong with each; exit code 2 when something is."""
    reports: list[dict[str, Any]] = []
    for file in files or [CommonSettings.read().pipelines]:
        reports += _reports(file)
    if as_json:
        dump(reports)
    else:
        for report in reports:
            _tell(report)
    if any("error" in report for report in reports):
        raise typer.Exit(2)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="A pipeline of TICKWISE_PIPELINES; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show pipelines as they are understood, defaults included."""
    specs = load_all(CommonSettings.read().pipelines)
    chosen = [find(specs, name)] if name else list(specs.values())
    if as_json:
        dump([{**_describe(spec), "spec": spec.model_dump(mode="json")} for spec in chosen])
        return
    for spec in chosen:
        fields({**spec.model_dump(mode="json"), **_describe(spec)})
        say("")


def _describe(spec: PipelineSpec) -> dict[str, Any]:
    """Return what a reader looks for first; raises SpecError for unknown features."""
    return {
        "name": spec.name,
        "hash": spec.hash,
        "topic": spec.source.topic,
        "feature_set": spec.feature_set,
        "features": list(FeaturePlan.from_spec(spec).names),
        "window": spec.features.window,
        "horizons": [format_duration(horizon) for horizon in spec.label.horizons],
        "model": spec.model.kind,
    }


def _reports(place: Path) -> list[dict[str, Any]]:
    """Return one report a file of ``place``, and one more where two files give one name."""
    try:
        files = files_of(place)
    except SpecError as error:
        return [{"file": str(place), "error": str(error)}]
    reports: list[dict[str, Any]] = []
    for file in files:
        try:
            reports.append(_checked(load(file)))
        except (SpecError, UnknownPartError) as error:
            told = str(error) if str(file) in str(error) else f"{file}: {error}"
            reports.append({"file": str(file), "error": told})
    if not any("error" in report for report in reports):
        try:
            load_all(place)
        except SpecError as error:
            reports.append({"file": str(place), "error": str(error)})
    return reports


def _checked(spec: PipelineSpec) -> dict[str, Any]:
    """Return the description of a pipeline whose features, model and parameters are known.

    Raises:
        SpecError, UnknownPartError: One is not. A retry will not help.
    """
    report = {**_describe(spec), "notes": []}
    try:
        from ml_core import fit
    except ModuleNotFoundError:
        report["notes"].append(
            "model and params are not checked: torch is not installed (pip install 'tickwise[train]')"
        )
    else:
        fit.check(spec)
    return report


def _tell(report: dict[str, Any]) -> None:
    if "error" in report:
        note(report["error"])
        return
    say(f"{report['name']}: {len(report['features'])} features, window {report['window']}, {report['model']}: fine")
    for line in report["notes"]:
        say(f"  note: {line}")
