"""Reads the model store through a child process: MLflow's client is larger than all that a worker needs besides.

The child (``store_child.py``) starts with the first question. Where the store is a file, the alias is not asked for
again before the file has changed, and the child ends when nobody asks. A server is asked at every poll, so its child
stays.
"""

import json
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any, NamedTuple, Self, cast

from ml_core.errors import ModelNotFoundError, ModelRefusedError, ModelStoreUnavailableError, TickwiseError
from model_ops_manager.mlflow_agent import INIT_WAIT_S, ModelVersion

IDLE_S = 3.0
# The longest a child may need: it imports MLflow and makes a store, or waits for another process that makes it.
ANSWER_S = INIT_WAIT_S + 30.0
# Two writes within one tick of the file system's clock look alike, so what was written just now proves nothing.
SETTLED_S = 2.0
STOP_S = 5.0
TRIES = 2  # a child may end, being idle, in the moment it is asked

_ERRORS: dict[str, type[TickwiseError]] = {
    each.__name__: each for each in (ModelNotFoundError, ModelRefusedError, ModelStoreUnavailableError)
}
Stamp = tuple[tuple[int, int, int] | None, ...]


class StoreProcess:
    """What a worker asks of the model store; calls block, take ``TRIES * ANSWER_S`` at most, and are safe in threads.

    Every method raises ModelStoreUnavailableError when the store or the child does not answer; a retry is safe.
    ``close`` ends the child and the waiting of every caller; SIGKILL of this process ends the child too.
    """

    def __init__(self, tracking_uri: str, home: Path) -> None:
        """Read the store at ``tracking_uri`` as ``MlflowAgent`` does. Nothing is started yet."""
        self._file = _file_of(tracking_uri)
        self._opening = {"tracking_uri": tracking_uri, "home": str(home.absolute())}
        self._known: dict[str, tuple[Stamp, ModelVersion | None]] = {}
        self._child: _Child | None = None
        self._is_closed = False
        self._lock = Lock()

    def champion(self, name: str) -> ModelVersion | None:
        """Return the version with the alias ``champion``; None where there is none."""
        stamp = None if self._file is None else stamp_of(self._file, time.time())
        if stamp is not None and name in self._known and self._known[name][0] == stamp:
            return self._known[name][1]
        found = self._ask("champion", name=name).found
        champion = None if found is None else ModelVersion(**found)
        if stamp is not None:
            self._known[name] = stamp, champion
        return champion

    def version(self, name: str, number: int) -> ModelVersion:
        """Return one version.

        Raises:
            ModelNotFoundError: There is none of that number. A retry will not help.
        """
        return ModelVersion(**self._ask("version", name=name, number=number).found)

    def load_onnx(self, version: ModelVersion) -> bytes:
        """Return the graph of a version as it was registered; raises as ``MlflowAgent.load_onnx``."""
        return self._ask("load_onnx", **version._asdict()).data

    def close(self) -> None:
        """End the child; what is asked later fails."""
        with self._lock:
            self._is_closed, child = True, self._child
        if child is not None:
            child.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _ask(self, do: str, **args: Any) -> "_Answer":
        for _ in range(TRIES):
            child = self._running()
            try:
                return child.ask(do, args)
            except _EndedError:
                continue
        raise ModelStoreUnavailableError("the process that reads the model store ended before it answered")

    def _running(self) -> "_Child":
        with self._lock:
            if self._is_closed:
                raise ModelStoreUnavailableError("the model store is closed: the worker stops")
            if self._child is None or self._child.has_ended:
                try:
                    self._child = _Child(self._opening, None if self._file is None else IDLE_S)
                except OSError as error:
                    raise ModelStoreUnavailableError(f"no process to read the model store: {error}") from error
            return self._child


def stamp_of(file: Path, now_s: float) -> Stamp | None:
    """Return what changes with every write to the SQLite database ``file``; None where nothing can be said.

    ``now_s`` is the time since the epoch.
    """
    found: list[tuple[int, int, int] | None] = []
    for suffix in ("", "-journal", "-wal"):
        try:
            about = Path(f"{file}{suffix}").stat()
        except FileNotFoundError:
            found.append(None)
        except OSError:
            return None
        else:
            found.append((about.st_ino, about.st_size, about.st_mtime_ns))
    written_s = max((each[2] for each in found if each is not None), default=0) / 1e9
    return None if found[0] is None or now_s - written_s < SETTLED_S else tuple(found)


def _file_of(tracking_uri: str) -> Path | None:
    """Return the file of a SQLite store; None for another kind."""
    scheme, _, rest = tracking_uri.partition(":///")
    name = rest.partition("?")[0]
    return Path(name) if scheme.partition("+")[0] == "sqlite" and name else None


class _Answer(NamedTuple):
    found: Any
    data: bytes


class _EndedError(Exception):
    """The child ended before it answered."""


class _Child:
    """A running child, and the thread that hands out its answers."""

    def __init__(self, opening: dict[str, Any], idle_s: float | None) -> None:
        """Start it, and tell it ``opening`` on a pipe: everyone may read a command line, and a URI may hold a password.

        Raises:
            OSError: The system has no room for it.
        """
        self.has_ended = False
        self._numbers = count()
        self._waiting: dict[int, Future[_Answer]] = {}
        self._lock = Lock()
        command = [sys.executable, "-m", "model_ops_manager.store_child", *([] if idle_s is None else [str(idle_s)])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._questions, self._answers = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._reader = Thread(target=self._read, name="model-store", daemon=True)
        self._reader.start()
        with suppress(_EndedError):  # the first question finds out
            self._send(opening)

    def ask(self, do: str, args: dict[str, Any]) -> _Answer:
        """Return the answer.

        Raises:
            _EndedError: The child has ended, or ends before it answers.
            ModelStoreUnavailableError, ModelNotFoundError, ModelRefusedError: The answer.
        """
        number, answer = next(self._numbers), Future[_Answer]()
        with self._lock:
            if self.has_ended:
                raise _EndedError
            self._waiting[number] = answer
            self._send({"id": number, "do": do, "args": args})
        try:
            return answer.result(ANSWER_S)
        except TimeoutError as error:
            self._process.kill()
            raise ModelStoreUnavailableError(f"the model store did not answer in {ANSWER_S:.0f} s") from error

    def close(self) -> None:
        """End the process, and tell whoever waits for it."""
        self._process.kill()
        self._reader.join(STOP_S)

    def _send(self, said: dict[str, Any]) -> None:
        try:
            self._questions.write(json.dumps(said).encode() + b"\n")
            self._questions.flush()
        except OSError:
            raise _EndedError from None

    def _read(self) -> None:
        """Hand out answers until the child ends."""
        try:
            while line := self._answers.readline():
                said = json.loads(line)
                data = self._answers.read(said["size"])
                if len(data) < said["size"]:
                    break
                with self._lock:
                    answer = self._waiting.pop(said["id"])
                if "error" in said:
                    kind = _ERRORS.get(said["error"], ModelStoreUnavailableError)
                    answer.set_exception(kind(said["message"]))
                else:
                    answer.set_result(_Answer(said["found"], data))
        finally:
            self._process.kill()
            self._process.wait()
            with self._lock:
                self.has_ended = True
                left = list(self._waiting.values())
                self._waiting.clear()
                with suppress(OSError):  # what was not sent any more
                    self._questions.close()
                self._answers.close()
            for answer in left:
                answer.set_exception(_EndedError())
