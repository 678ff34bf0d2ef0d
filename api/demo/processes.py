"""The processes of the demo: started with their output in log files, stopped in order, never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ml_core.errors import SetupError

STOP_TIMEOUT_S = 20.0
T = TypeVar("T")


class Processes:
    """Child processes of the demo, ended in reverse order of their start."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Write a log file per process to ``folder``; settings of tickwise come from ``environment`` alone."""
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TICKWISE_", "MLFLOW_"))}
        self.environment = {**inherited, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.exit_codes: dict[str, int] = {}

    def start(self, name: str, *words: str) -> None:
        """Start ``tickwise WORDS`` under ``name``."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "api.cli", *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops the others in order
            )

    def check(self) -> None:
        """Raise SetupError with the end of its log when a process has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise SetupError(f"{name} ended with exit code {process.returncode}:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 20) -> str:
        """Return the last ``lines`` of the log of ``name``."""
        text = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """Ask every process to stop, the last started first; kill what has not stopped in time."""
        for name, process in reversed(self._running.items()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                self.exit_codes[name] = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                self.exit_codes[name] = process.wait()
        self._running.clear()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()


async def wait_for(what: str, condition: Callable[[], T | None], processes: Processes, *, timeout_s: float = 90.0) -> T:
    """Return the first true result of ``condition``, which may block and so runs in a thread.

    Raises:
        SetupError: It was not true in ``timeout_s``, or a process ended meanwhile.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        processes.check()
        result = await asyncio.to_thread(condition)
        if result:
            return result
        if time.monotonic() > deadline:
            raise SetupError(f"{what} was not there after {timeout_s:.0f} s")
        await asyncio.sleep(0.2)
