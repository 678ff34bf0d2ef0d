"""Follows the alias ``champion`` of a pipeline and serves what passes its probe."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from ml_core.contract import ModelContract
from ml_core.errors import ModelNotFoundError, ModelRefusedError, TickwiseError
from ml_core.model.runtime import Scorer
from model_ops_manager.mlflow_agent import MlflowAgent, ModelVersion

log = structlog.get_logger()


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


def load_serving(agent: MlflowAgent, name: str, number: int, check: Check) -> Serving:
    """Return version ``number`` of ``name``, loaded, checked against its pipeline and probed.

    Raises:
        ModelRefusedError: It does not fit or failed its probe. A retry will not help.
        ModelNotFoundError: It is gone. A retry will not help.
        ModelStoreUnavailableError: The store did not answer. A retry is safe.
    """
    version = agent.version(name, number)
    scorer = Scorer(agent.load_onnx(version))
    check(scorer.contract)
    scorer.probe()
    return Serving(version, scorer)


class ChampionFollower:
    """Polls the alias; a new champion serves once it has loaded and passed its probe, until then the old one does."""

    def __init__(self, agent: MlflowAgent, name: str, poll_s: float, check: Check) -> None:
        """Follow the champion of ``name`` as far as ``check`` lets it; ``run`` does the polling."""
        self.agent, self.name, self.poll_s, self.check = agent, name, poll_s, check
        self.current: Serving | None = None
        self.refused: dict[int, str] = {}  # versions that failed their probe, and why
        self.problem: str | None = None  # what stands in the way now
        self.polled_s: float | None = None  # monotonic time of the last answer of the store

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(self.poll_s)

    async def poll(self) -> None:
        """Look once; an error is kept in ``problem`` and changes nothing else."""
        try:
            await asyncio.to_thread(self._look)
        except TickwiseError as error:
            if str(error) != self.problem:
                log.warning("champion not updated", action="follow", pipeline=self.name, error=str(error))
            self.problem = str(error)

    def _look(self) -> None:
        champion = self.agent.champion(self.name)
        self.polled_s = time.monotonic()
        if champion is None or (self.current is not None and champion.version == self.current.version.version):
            self.problem = None
            return
        if champion.version in self.refused:
            self.problem = f"version {champion.version} was refused: {self.refused[champion.version]}"
            return
        try:
            self.current = load_serving(self.agent, self.name, champion.version, self.check)
        except (ModelRefusedError, ModelNotFoundError) as error:
            self.refused[champion.version] = str(error)
            raise
        self.problem = None
        log.info("champion loaded", action="follow", pipeline=self.name, version=champion.version)
