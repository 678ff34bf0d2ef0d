"""The card of a job's model in the run of the model store: no job fails for want of it."""

import os
import shutil
from pathlib import Path

import structlog

from ml_core.errors import ModelStoreUnavailableError
from ml_core.fit import Fit
from ml_core.spec import PipelineSpec
from model_ops_manager.mlflow_agent import MlflowAgent

log = structlog.get_logger()

ARTIFACTS = "card"  # folder among the artifacts of a run


def draw(fit: Fit, spec: PipelineSpec, folder: Path, home: Path) -> None:
    """Write the card of ``fit`` into ``folder``; where that fails, the log says why and ``folder`` may hold a part.

    ``home`` keeps what matplotlib knows of fonts, which takes it seconds to find out.
    """
    os.environ.setdefault("MPLCONFIGDIR", str((home / "matplotlib").absolute()))
    try:
        from model_ops_manager import card

        card.of_fit(fit, spec, folder)
    except Exception:  # whatever it is, it says nothing of the model
        log.exception("card not drawn", action="card")


def keep(agent: MlflowAgent, run_id: str, folder: Path) -> None:
    """Log what was drawn in ``folder`` to a run and remove it; where that fails, the log says why."""
    try:
        if any(folder.iterdir()):
            with agent.errors():
                agent.client().log_artifacts(run_id, str(folder), ARTIFACTS)
    except ModelStoreUnavailableError as error:
        log.warning("card not kept", action="card", run=run_id, error=str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
