"""Answers for ``store_process.py`` what the model store holds: MLflow's client in a process of its own.

stdin has one JSON object a line: first ``tracking_uri`` and ``home``, then requests of ``id``, ``do`` and ``args``.
stdout has a line an answer, in any order: ``id``, ``size``, and ``found`` or ``error`` with ``message``; ``size`` bytes
follow it.

usage: python -m model_ops_manager.store_child [SECONDS_OF_SILENCE_AFTER_WHICH_IT_ENDS]
"""

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import structlog

from data_io.logs import configure
from ml_core.errors import TickwiseError
from model_ops_manager.mlflow_agent import MlflowAgent, ModelVersion

log = structlog.get_logger()

THREADS = 8  # requests at once: a server that hangs for one pipeline holds up no other

Answer = tuple[Any, bytes]  # what is JSON, and what is not
Question = Callable[..., Answer]


def questions(agent: MlflowAgent) -> dict[str, Question]:
    """Return what may be asked of ``agent``, by name."""

    def champion(name: str) -> Answer:
        found = agent.champion(name)
        return found and found._asdict(), b""

    def version(name: str, number: int) -> Answer:
        return agent.version(name, number)._asdict(), b""

    def load_onnx(**version: Any) -> Answer:
        return None, agent.load_onnx(ModelVersion(**version))

    return {each.__name__: each for each in (champion, version, load_onnx)}


def lines(source: int, idle_s: float | None, is_busy: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the lines of the file descriptor ``source`` until it ends, or is silent for ``idle_s`` while not busy."""
    rest = b""
    while True:
        *whole, rest = rest.split(b"\n")
        yield from whole
        if select.select([source], [], [], idle_s)[0]:
            part = os.read(source, 65536)
            if not part:
                return
            rest += part
        elif not is_busy():
            return


def main(idle_s: float | None) -> None:
    """Answer until stdin ends, or nothing was asked for ``idle_s`` seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker says when this one ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    configure()
    pool, lock = ThreadPoolExecutor(THREADS), Lock()
    under_way: set[Future[None]] = set()
    said_by_worker = map(json.loads, lines(0, idle_s, lambda: bool(under_way)))
    opening = next(said_by_worker, None)
    if opening is not None:
        ask = questions(MlflowAgent(opening["tracking_uri"], Path(opening["home"])))
        for said in said_by_worker:
            task = pool.submit(_answer, said["id"], ask[said["do"]], said["args"], answers, lock)
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    os._exit(0)  # without waiting for a store that hangs: nobody reads its answer


def _answer(number: int, question: Question, args: dict[str, Any], answers: BinaryIO, lock: Lock) -> None:
    data = b""
    said: dict[str, Any]
    try:
        found, data = question(**args)
        said = {"found": found}
    except TickwiseError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # whoever asked has to hear of it, whatever it is
        log.exception("the model store could not be read", action="read")
        said = {"error": type(error).__name__, "message": f"{type(error).__name__}: {error}"}
    with lock:
        answers.write(json.dumps({"id": number, "size": len(data), **said}).encode() + b"\n" + data)
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else None)
