"""Training as a job does it, on ticks at hand: no Kafka, no MLflow, no process of its own."""

from dataclasses import dataclass

from ml_core import frames
from ml_core.errors import InputError, NotEnoughDataError
from ml_core.fit import fit
from ml_core.model.export import restated
from ml_core.spec import PipelineSpec
from ml_core.types import TickBatch
from model_ops_manager.jobs.evidence import Champion, judge
from model_ops_manager.simulation import Candidate, Trained


@dataclass(frozen=True)
class JobTrainer:
    """Trains the model of a pipeline and judges it as `jobs.works.train.Train` does."""

    spec: PipelineSpec
    seed: int = 0
    threads: int = 1

    def __call__(self, ticks: TickBatch, champion: Candidate | None) -> Trained:
        """Return a model of ``ticks`` and whether it takes over from ``champion``; raises as ``fit``."""
        if not len(ticks):
            raise NotEnoughDataError("there are no ticks to train on")
        origin, name = None, self.spec.name
        if self.spec.retrain.kind == "incremental":
            if champion is None:
                raise InputError(f"pipeline {name!r} has no champion to go on from; give it a first model")
            origin = champion
        fitted = fit(
            frames.to_frame(ticks),
            self.spec,
            start=None if origin is None else origin.model,
            seed=self.seed,
            threads=self.threads,
        )
        if origin is not None:
            fitted = fitted._replace(model=restated(fitted.model, parent=f"{name}/{origin.number}"))
        rival = None if champion is None else Champion(champion.number, champion.scorer)
        decision = judge(fitted, self.spec, rival)
        return Trained(fitted.model, decision, len(ticks), int(ticks.ts_ns_N.min()), int(ticks.ts_ns_N.max()))
