"""What the server is made of: stores, followers, newest rows and who answers, owned by the lifespan."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Self

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from api.answers import Answerer, Asked
from api.latest_rows import LatestRows
from api.metrics import Metrics
from api.micro_batches import MicroBatcher
from api.questions import Question
from api.settings import ServerSettings
from ml_core.data_processor.plan import FeaturePlan
from ml_core.errors import SpecError, TickwiseError
from ml_core.spec import PipelineSpec, find, load_all
from model_ops_manager.champion import ChampionFollower, must_fit
from model_ops_manager.jobs.store import JobStore
from model_ops_manager.mlflow_agent import MlflowAgent

logger = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 5.0
# Scoring one row is far below a millisecond and ONNX Runtime releases the interpreter: two threads fill two cores.
SCORING_THREADS = 2
# Calls to a model store that hangs must not take the threads that jobs need.
MODEL_THREADS = 4


@dataclass
class Parts:
    """The parts of one running server."""

    settings: ServerSettings
    pipelines: Mapping[str, PipelineSpec]
    plans: Mapping[str, FeaturePlan]
    jobs: JobStore
    agent: MlflowAgent
    followers: Mapping[str, ChampionFollower]
    rows: Mapping[str, LatestRows]  # by feature set
    metrics: Metrics
    open_streams: int = 0
    stopping: bool = False  # the server was told to stop: event streams end
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make one answerer a pipeline."""
        self.answerers = {
            name: Answerer(spec, self.followers[name], self.rows[spec.feature_set], self.metrics)
            for name, spec in self.pipelines.items()
        }
        self.batchers = {
            name: MicroBatcher(f"answer-{name}", partial(self._answer, answerer), batch_rows=answerer.batch_rows)
            for name, answerer in self.answerers.items()
        }

    @classmethod
    def build(cls, settings: ServerSettings, metrics: Metrics) -> Self:
        """Read the pipeline files and make the parts; nothing is asked of Kafka or the model store yet.

        Raises:
            SpecError: A pipeline file is wrong, or two that share a feature set do not fit together.
        """
        pipelines = load_all(settings.pipelines)
        plans = {name: FeaturePlan.from_spec(spec) for name, spec in pipelines.items()}
        agent = MlflowAgent(settings.tracking_uri, settings.home)
        return cls(
            settings=settings,
            pipelines=pipelines,
            plans=plans,
            jobs=JobStore(settings.job_store_url),
            agent=agent,
            followers={
                name: ChampionFollower(
                    agent, name, settings.champion_poll_s, must_fit(plans[name].hash, spec.features.window)
                )
                for name, spec in pipelines.items()
            },
            rows={
                name: LatestRows(
                    settings.kafka,
                    name,
                    topic=members[0].source.topic,
                    plan=plans[members[0].name],
                    windows={spec.features.window for spec in members},
                    read_back=settings.rows_read_back,
                    metrics=metrics,
                )
                for name, members in _feature_sets(pipelines, plans).items()
            },
            metrics=metrics,
        )

    def start(self) -> None:
        """Start following champions and rows, in the running event loop."""
        self.scoring_threads = CapacityLimiter(SCORING_THREADS)
        self.model_threads = CapacityLimiter(MODEL_THREADS)
        work = {f"follow-champion-{name}": follower.run for name, follower in self.followers.items()}
        work |= {f"follow-rows-{name}": rows.run for name, rows in self.rows.items()}
        for name, run in work.items():
            task = asyncio.create_task(run(), name=name)
            task.add_done_callback(_tell_if_it_failed)
            self._tasks.append(task)

    async def stop(self) -> None:
        """End what ``start`` started and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(
            *self._tasks, *(batcher.stop() for batcher in self.batchers.values()), return_exceptions=True
        )
        self._tasks.clear()

    async def predict(self, question: Question) -> bytes:
        """Return the JSON of the answer; it shares a batch with the questions that come at the same time.

        Raises:
            TickwiseError: As the pipeline, the model, the newest rows or the values ask for.
        """
        name = find(self.pipelines, question.pipeline).name
        asked = self.answerers[name].check(question)
        return await self.batchers[name].ask(asked, max(1, len(asked.rows)))

    async def _answer(self, answerer: Answerer, asked: Sequence[Asked]) -> Sequence[bytes | Exception]:
        # a model may take long, and nothing else shall wait for it
        return await to_thread.run_sync(answerer.answer, asked, limiter=self.scoring_threads, abandon_on_cancel=True)

    async def checks(self) -> dict[str, str | None]:
        """Return what is wrong with each part, None where nothing is; waits ``CHECK_TIMEOUT_S`` at most."""
        ended = {task.get_name() for task in self._tasks if task.done()}
        found = {"jobs": await _outcome(self.jobs.ping)}
        for name, follower in self.followers.items():
            wrong = None if follower.current else follower.problem or "no version is champion yet"
            found[f"model {name}"] = "its task ended; see the log" if f"follow-champion-{name}" in ended else wrong
        for name, rows in self.rows.items():
            found[f"rows {name}"] = "its task ended; see the log" if f"follow-rows-{name}" in ended else rows.problem
        return found

    def update_metrics(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.event_streams.set(self.open_streams)
        for name, follower in self.followers.items():
            self.metrics.model_version.labels(name).set(follower.current.version.version if follower.current else 0)
        for name, rows in self.rows.items():
            self.metrics.latest_rows_ready.labels(name).set(rows.problem is None)
            self.metrics.latest_rows_symbols.labels(name).set(rows.symbols)


def _feature_sets(
    pipelines: Mapping[str, PipelineSpec], plans: Mapping[str, FeaturePlan]
) -> dict[str, list[PipelineSpec]]:
    """Return the pipelines of each feature set, which must agree about topic and features."""
    sets: dict[str, list[PipelineSpec]] = {}
    for spec in pipelines.values():
        members = sets.setdefault(spec.feature_set, [])
        members.append(spec)
        first = members[0]
        if spec.source.topic != first.source.topic or plans[spec.name].hash != plans[first.name].hash:
            raise SpecError(
                f"pipelines {first.name!r} and {spec.name!r} share the feature set {spec.feature_set!r} but not topic "
                "and features; give one of them a set of its own (features.set)"
            )
    return sets


async def _outcome(call: Callable[[], object]) -> str | None:
    """Return None when ``call`` comes back in time, else what went wrong."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await to_thread.run_sync(call, abandon_on_cancel=True)
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except TickwiseError as error:
        return str(error)
    return None


def _tell_if_it_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s ended", task.get_name(), exc_info=error)


def parts_of(request: Request) -> Parts:
    """Return the parts of the server that got ``request``."""
    parts: Parts = request.app.state.parts
    return parts


PartsOf = Annotated[Parts, Depends(parts_of)]
