"""`tickwise models`: versions of the pipelines' models, straight from the model store."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from api.cli.output import AsJson, dump, fields, say, table
from data_io.settings import CommonSettings
from ml_core.errors import ModelNotFoundError
from ml_core.spec import load, load_all
from model_ops_manager.mlflow_agent import MlflowAgent

app = typer.Typer(
    no_args_is_help=True, help="List and import models, move the champion.", pretty_exceptions_enable=False
)

Pipeline = Annotated[str, typer.Argument(help="Name of the pipeline, which is the model's too.")]
Version = Annotated[int, typer.Argument(min=1, help="Number of the version.")]


def _agent() -> MlflowAgent:
    settings = CommonSettings.read()
    return MlflowAgent(settings.tracking_uri, settings.home)


@app.command("list")
def list_models(
    pipeline: Annotated[str | None, typer.Argument(help="Only this pipeline; default: all known.")] = None,
    as_json: AsJson = False,
) -> None:
    """List versions, newest first."""
    names = [pipeline] if pipeline else list(load_all(CommonSettings.read().pipelines))
    agent = _agent()
    rows = [row for name in names for row in describe(agent, name)]
    if as_json:
        dump(rows)
        return
    table(
        [{**row, "reason": row["decision"].get("reason"), "loss": _losses(row["metrics"])} for row in rows],
        ("pipeline", "version", "champion", "created_at", "loss", "reason"),
        empty="no versions",
    )


@app.command()
def show(pipeline: Pipeline, version: Version, as_json: AsJson = False) -> None:
    """Show one version with its metrics and the decision on it."""
    found = next((row for row in describe(_agent(), pipeline) if row["version"] == version), None)
    if found is None:
        raise ModelNotFoundError(f"no version {version} of {pipeline} among its newest; see `tickwise models list`")
    dump(found) if as_json else fields(found)


@app.command()
def promote(
    pipeline: Pipeline,
    version: Version,
    reason: Annotated[str, typer.Option(max=500, help="Noted on the version.")] = "asked for on the command line",
    as_json: AsJson = False,
) -> None:
    """Make a version champion; workers and servers follow within seconds, if it passes their probe."""
    _agent().set_champion(pipeline, version, reason=reason)
    if as_json:
        dump({"pipeline": pipeline, "champion": version})
    else:
        say(f"version {version} of {pipeline} is champion")


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="ONNX (.onnx), LightGBM's text (.txt) or XGBoost's JSON (.json).")],
    pipeline: Annotated[Path, typer.Option(help="The pipeline file.")],
    signature: Annotated[Path, typer.Option(help="What its columns and answers mean: TOML or JSON.")],
    alias: Annotated[
        Literal["challenger", "champion"] | None, typer.Option(help="Given to the version; champion: it serves.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a model that was trained elsewhere, once it says here what it says in its own engine."""
    from ml_core.importing import import_model  # needs the training extra, which the other commands do without
    from ml_core.model.foreign.signature import read_signature
    from model_ops_manager.registration import register

    spec = load(pipeline)
    model = import_model(file, spec, read_signature(signature))
    origin = {key: model.contract.model_params[key] for key in ("file", "sha256")}
    agent = _agent()
    made = register(
        agent,
        model,
        params={"kind": "import", "model": model.contract.model_kind, **origin},
        tags={"tickwise.kind": "import", **{f"tickwise.import.{key}": str(value) for key, value in origin.items()}},
    )
    if alias == "champion":
        agent.set_champion(made.name, made.version, reason=f"imported from {file.name}")
    elif alias == "challenger":
        agent.set_challenger(made.name, made.version)
    checked = model.report["import"]
    if as_json:
        dump({"pipeline": made.name, "version": made.version, "alias": alias, "checked": checked})
    else:
        told = f"{checked['rows']} rows as in {checked['engine']}, largest difference {checked['largest_gap']:.2g}"
        say(f"version {made.version} of {made.name}{f' is {alias}' if alias else ''}: {told}")


def describe(agent: MlflowAgent, name: str) -> list[dict[str, Any]]:
    """Return the newest versions of a model, newest first."""
    champion = agent.champion(name)
    number = champion.version if champion else None
    return [{"pipeline": name, **each._asdict(), "champion": each.version == number} for each in agent.versions(name)]


def _losses(metrics: dict[str, float]) -> str:
    """Return the hold-out loss beside the prior's, whichever kind it is."""
    for kind in ("log_loss", "squared_error"):
        if f"holdout_{kind}" in metrics:
            return f"{metrics[f'holdout_{kind}']:.6g} (prior {metrics.get(f'prior_{kind}', float('nan')):.6g})"
    return "-"
