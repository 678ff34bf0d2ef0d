"""Follows the alias ``champion`` of a pipeline and serves what passes its probe."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from ml_core.contract import ModelContract
from ml_core.errors import ModelRefusedError, TickwiseError
from ml_core.model.runtime import Scale, Scorer
from ml_core.spec import PipelineSpec, format_duration
from model_ops_manager.mlflow_agent import ModelVersion

log = structlog.get_logger()


class ModelReader(Protocol):
    """What serving asks of the model store: ``MlflowAgent``, or ``StoreProcess`` where MLflow would weigh too much.

    Every method raises ModelStoreUnavailableError when the store does not answer; a retry is safe.
    """

    def champion(self, name: str) -> ModelVersion | None:
        """Return the version with the alias ``champion``; None where there is none."""
        ...

    def version(self, name: str, number: int) -> ModelVersion:
        """Return one version, or raise ModelNotFoundError: a retry will not help."""
        ...

    def load_onnx(self, version: ModelVersion) -> bytes:
        """Return the graph of a version, or raise ModelNotFoundError or ModelRefusedError: a retry will not help."""
        ...


class Serving(NamedTuple):
    """A version that has passed its probe."""

    version: ModelVersion
    scorer: Scorer


Check = Callable[[ModelContract], None]


def must_fit(plan_hash: str, window: int) -> Check:
    """Return a check that a model takes rows of the feature schema ``plan_hash`` in windows of ``window``."""

    def check(contract: ModelContract) -> None:
        if (contract.feature_hash, contract.window) != (plan_hash, window):
            raise ModelRefusedError(
                f"schema: trained on features {contract.feature_hash} in windows of {contract.window}, "
                f"the pipeline has {plan_hash} in windows of {window}"
            )

    return check


def must_be_of(spec: PipelineSpec) -> Check:
    """Return a check that a model that nobody registered, such as one in a folder, was made for ``spec``."""
    ours = {"pipeline": spec.name, "label": spec.label.kind, "horizons": [*map(format_duration, spec.label.horizons)]}

    def check(contract: ModelContract) -> None:
        horizons = [*map(format_duration, contract.horizons_ns)]
        theirs = {"pipeline": contract.pipeline, "label": contract.label_kind, "horizons": horizons}
        other = [f"{name} {theirs[name]!r}, not {ours[name]!r}" for name in ours if theirs[name] != ours[name]]
        if other:
            raise ModelRefusedError(f"schema: the model was made for {'; '.join(other)}")

    return check


def accept_any(_contract: ModelContract) -> None:
    """Accept a model of any schema: the check of who looks at the schema elsewhere."""


def load_serving(
    agent: ModelReader, name: str, number: int, check: Check = accept_any, scale: Scale | None = None
) -> Serving:
    """Return version ``number`` of ``name``, loaded, checked against its pipeline and probed; ``scale`` as `Scorer`.

    Raises:
        ModelRefusedError: It does not fit or failed its probe. A retry will not help.
        ModelNotFoundError: It is gone. A retry will not help.
        ModelStoreUnavailableError: The store did not answer. A retry is safe.
    """
    version = agent.version(name, number)
    scorer = Scorer(agent.load_onnx(version), scale)
    check(scorer.contract)
    scorer.probe()
    return Serving(version, scorer)


class ChampionFollower:
    """Polls the alias; a new champion serves once it has loaded and passed its probe, until then the old one does.

    Loading and probing happen in a thread; everything else, callbacks included, in the event loop.
    """

    def __init__(
        self,
        agent: ModelReader,
        name: str,
        poll_s: float,
        check: Check = accept_any,
        scale: Scale | None = None,
    ) -> None:
        """Follow the champion of ``name`` as far as ``check`` lets it; ``run`` polls. ``scale`` as `Scorer`."""
        self.agent, self.name, self.poll_s, self.check, self.scale = agent, name, poll_s, check, scale
        self.current: Serving | None = None
        self.refused: dict[int, str] = {}  # versions that did not fit or failed their probe, and why
        self.problem: str | None = None  # what stands in the way now
        self.on_change: list[Callable[[Serving], None]] = []  # told of every new `current`
        self._answered_s: float | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since the store answered last; None before the first answer."""
        return None if self._answered_s is None else time.monotonic() - self._answered_s

    async def run(self) -> None:
        """Poll until cancelled; no error of a poll ends it."""
        while True:
            await self.poll()
            await asyncio.sleep(self.poll_s)

    async def poll(self) -> None:
        """Look once; an error is kept in ``problem`` and changes nothing else."""
        try:
            found = await asyncio.to_thread(self._look)
        except TickwiseError as error:
            self._note(str(error))
        except Exception as error:  # the old champion serves on whatever a new one, or its store, leads to
            log.exception("champion not updated", action="follow", pipeline=self.name)
            self.problem = f"{type(error).__name__}: {error}"
        else:
            self.problem = None
            if found is not None:
                self.current = found
                log.info("champion loaded", action="follow", pipeline=self.name, version=found.version.version)
                for tell in self.on_change:
                    tell(found)

    def _look(self) -> Serving | None:
        """Return the champion where it is not the current one and passes."""
        champion = self.agent.champion(self.name)
        self._answered_s = time.monotonic()
        if champion is None or (self.current is not None and champion.version == self.current.version.version):
            return None
        if champion.version not in self.refused:
            try:
                return load_serving(self.agent, self.name, champion.version, self.check, self.scale)
            except ModelRefusedError as error:
                self.refused[champion.version] = str(error)
        raise ModelRefusedError(f"version {champion.version} was refused: {self.refused[champion.version]}")

    def _note(self, problem: str) -> None:
        if problem != self.problem:  # the same one is not logged at every poll
            log.warning("champion not updated", action="follow", pipeline=self.name, error=problem)
        self.problem = problem
