"""How each contender is started."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import environments


class Task(NamedTuple):
    """What a contender is told."""

    bootstrap: str
    ticks_topic: str
    topic_id: str
    out_topic: str
    group: str
    model: Path
    partitions: int
    aim: str = "throughput"  # or "latency": batches are what has arrived, in the best form of each


class Kind(NamedTuple):
    """A contender and its forms; ``prepare`` makes its environment once and returns the start of its command line."""

    forms: tuple[str, ...]
    prepare: Callable[[], Sequence[str]]
    warm_s: float = 0.0  # of work before it runs as fast as it can, besides what every contender is given


_FORMS = ("idiomatic", "best")
JVM_WARM_S = 15.0  # its compilers take a good part of the core for the first millions of ticks


def _module(name: str) -> list[str]:
    return ["-m", f"tests.benchmarks.contenders.{name}"]


def _beside_ours(name: str) -> Callable[[], Sequence[str]]:
    return lambda: [str(environments.python("aiokafka", with_ours=True)), *_module(name)]


def _with_environment(name: str) -> Callable[[], Sequence[str]]:
    return lambda: [str(environments.python(name)), *_module(name)]


CONTENDERS: Mapping[str, Kind] = {
    "tickwise": Kind((), lambda: [sys.executable, "-m", "api.cli", "worker"]),
    "stock_faust": Kind(_FORMS, _beside_ours("stock_faust")),
    "plain_loop": Kind(("best",), _beside_ours("plain_loop")),
    "quixstreams": Kind(_FORMS, _with_environment("quixstreams")),
    "bytewax": Kind(_FORMS, _with_environment("bytewax")),
    "kafka_streams": Kind(_FORMS, lambda: environments.java_command("kafka_streams"), JVM_WARM_S),
}


def variants(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (contender, form) of each; the form of one that has none is empty."""
    return [(name, form) for name in names for form in CONTENDERS[name].forms or ("",)]


def command(name: str, form: str, task: Task) -> list[str]:
    """Return the command line of a contender; the worker of tickwise takes its task from its environment.

    Raises:
        MissingContenderError: It is not in this checkout, or its environment cannot be made here.
    """
    start = list(CONTENDERS[name].prepare())
    if not form:
        return start
    return [
        *start, task.bootstrap, task.ticks_topic, task.topic_id, task.out_topic, task.group, str(task.model),
        str(task.partitions), form, task.aim,
    ]  # fmt: skip
