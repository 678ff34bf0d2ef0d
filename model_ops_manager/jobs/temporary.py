"""Folders for the temporary files of attempts. Who makes one holds its lock, so what the dead have left is known."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "tickwise-attempt-"


class Folder:
    """A folder among the temporary files of this machine; its lock ends with this process, however that ends."""

    def __init__(self) -> None:
        """Make it; raises OSError where there is no room."""
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock: int | None = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.is_dir():
                return
            os.close(self._lock)  # swept before it was locked

    def remove(self) -> None:
        """Remove it with all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep() -> None:
    """Remove the folders that nobody holds: a process that is killed together with its runner removes nothing."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody holds it, or it is not ours
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(number)
