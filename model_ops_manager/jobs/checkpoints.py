"""Where a job keeps how far it is, so that another attempt goes on from there: a folder a job under ``home/jobs``.

Every attempt writes a file of its own name, so one that was taken over and does not know it yet overwrites nothing.
"""

import os
import shutil
from pathlib import Path

import structlog

from data_io import disk

log = structlog.get_logger()

_PREFIX, _SUFFIX = "attempt-", ".bin"


class JobCheckpoint:
    """The checkpoint of one job as one attempt sees it. A file is there whole or not at all, also after a power cut."""

    def __init__(self, home: Path, job_id: str, attempt: int) -> None:
        """Use ``home``; nothing is made before the first ``save``."""
        self._folder = _folder(home, job_id)
        self._file = self._folder / f"{_PREFIX}{attempt:06}{_SUFFIX}"  # names sort as attempts do

    def load(self) -> bytes | None:
        """Return what was saved last, by this attempt or the newest one before it; None where nothing was."""
        for path in reversed(self._files()):
            try:
                return path.read_bytes()
            except OSError as error:
                log.warning("checkpoint not read", action="load-checkpoint", file=str(path), error=str(error))
        return None

    def save(self, data: bytes) -> None:
        """Keep ``data`` in place of what was saved before. Where that fails, the job goes on and the log says so."""
        part = self._file.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._file)
            disk.sync(self._folder)
            for older in self._files()[:-1]:
                older.unlink(missing_ok=True)
        except OSError as error:
            log.warning("checkpoint not saved", action="save-checkpoint", file=str(self._file), error=str(error))

    def _files(self) -> list[Path]:
        """Return the files of all attempts, that of the newest one last."""
        return sorted(self._folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def remove(home: Path, job_id: str) -> None:
    """Remove what a job kept; it has reached its final state."""
    shutil.rmtree(_folder(home, job_id), ignore_errors=True)


def job_ids(home: Path) -> list[str]:
    """Return the jobs that keep something."""
    folder = home / "jobs"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _folder(home: Path, job_id: str) -> Path:
    return home / "jobs" / job_id
