"""Trains a registered version once more, from the ticks, the pipeline and the seed that it was made of."""

import asyncio
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_io.data_fetcher.gap_range import with_marks
from data_io.data_fetcher.kafka_range import Fetched, fetch_ranges
from data_io.topics.ticks import TickDecoder
from ml_core.contract import FOREIGN_KINDS, ModelContract
from ml_core.data_processor import canonical
from ml_core.errors import InputError, ModelRefusedError
from ml_core.fit import Fit, Progress, fit
from ml_core.model.fitted import FittedModel
from ml_core.spec import PipelineSpec
from model_ops_manager import recipe as recipes
from model_ops_manager.mlflow_agent import MlflowAgent, ModelVersion
from model_ops_manager.recipe import Recipe


class Figure(NamedTuple):
    """One metric of the recorded and of the reproduced model; None where one of them has none."""

    name: str
    recorded: float | None
    reproduced: float | None

    @property
    def is_equal(self) -> bool:
        """Whether they are the same number."""
        return self.recorded == self.reproduced


class Reproduction(NamedTuple):
    """A version beside what came out when it was trained once more."""

    version: ModelVersion
    ticks: int
    recorded_hash: str | None  # of the data set; None: the version is older than such hashes
    reproduced_hash: str | None
    figures: list[Figure]
    same_weights: bool  # to the bit

    @property
    def same_data(self) -> bool:
        """Whether both were trained and judged on the same rows, labels, weights, returns and costs, to the bit."""
        return self.is_comparable and self.recorded_hash == self.reproduced_hash

    @property
    def is_comparable(self) -> bool:
        """Whether there are two hashes, and of one form."""
        if self.recorded_hash is None or self.reproduced_hash is None:
            return False
        return canonical.form(self.recorded_hash) == canonical.form(self.reproduced_hash)


def load(agent: MlflowAgent, version: ModelVersion) -> tuple[FittedModel, Recipe]:
    """Return a version and its recipe.

    Raises:
        InputError: It was trained elsewhere. A retry will not help.
        ModelNotFoundError: It has no recipe: it was registered before there were any. A retry will not help.
        ModelRefusedError: Its files are damaged. A retry will not help.
        ModelStoreUnavailableError: A retry is safe.
    """
    said = f"version {version.version} of {version.name}"
    recorded = agent.load_fitted(version)
    if recorded.contract.model_kind in FOREIGN_KINDS:
        raise InputError(f"{said} was trained elsewhere, so it cannot be trained once more here")
    return recorded, Recipe.read(agent.load_file(version, recipes.FILE), said)


def reproduce(
    agent: MlflowAgent,
    version: ModelVersion,
    recorded: FittedModel,
    spec: PipelineSpec,
    *,
    kafka: str,
    max_ticks: int,
    archive: Path | None = None,
    threads: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> Reproduction:
    """Return what comes out when ``version`` is trained once more.

    Args:
        agent: The model store: an incremental model goes on from its parent there.
        version: What to reproduce.
        recorded: The version's files.
        spec: The pipeline of its recipe.
        kafka: Where its ticks are.
        max_ticks: Most ticks to read: what the store says of the ranges is input.
        archive: Folder of archived ticks, where Kafka may have deleted them.
        threads: How many the learner may use; another number than then may change the last bits.
        progress: Called after every epoch.

    Raises:
        InputError: The version was not trained on a topic, has more ticks than ``max_ticks``, or they are lost. A
            retry will not help.
        ModelRefusedError: Its parent is no version. A retry will not help.
        TickwiseError: As ``fetch_ranges`` and ``fit``.
    """
    contract = recorded.contract
    if contract.topic is None or not contract.ranges:
        raise InputError(f"version {version.version} of {version.name} was not trained on a topic of ticks")
    start = None if contract.parent is None else agent.load_fitted(_parent(agent, contract.parent))
    topic, decoder = contract.topic, TickDecoder(spec.source.map)
    limit = max_ticks + len(contract.ranges)  # the newest ticks of a job are at least one of each partition

    async def read() -> Fetched:
        fetched = await fetch_ranges(kafka, topic, contract.ranges, decoder, limit=limit, archive=archive)
        return await with_marks(kafka, spec.source.gaps, fetched, contract.gap_ranges)

    fetched = asyncio.run(read())
    again = fit(
        fetched.frame,
        spec,
        marks=fetched.marks,
        start=start,
        seed=contract.seed,
        threads=threads,
        progress=progress,
    )
    return Reproduction(
        version,
        len(fetched.frame),
        contract.dataset_hash,
        again.model.contract.dataset_hash,
        _figures(contract, again),
        _is_same(recorded, again.model),
    )


def _parent(agent: MlflowAgent, name: str) -> ModelVersion:
    found = re.fullmatch(r"([^/]+)/([1-9][0-9]{0,8})", name)
    if found is None:
        raise ModelRefusedError(f"its parent {name[:64]!r} is no version, such as btc/3")
    return agent.version(found[1], int(found[2]))


def _figures(contract: ModelContract, again: Fit) -> list[Figure]:
    names = {**contract.metrics, **again.metrics}
    return [Figure(name, _finite(contract.metrics.get(name)), _finite(again.metrics.get(name))) for name in names]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_same(a: FittedModel, b: FittedModel) -> bool:
    return a.weights.keys() == b.weights.keys() and all(
        np.array_equal(a.weights[name], b.weights[name], equal_nan=True) for name in a.weights
    )
