"""Files and folders that are whole or not there."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ml_core.errors import InputError, SourceUnavailableError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a hidden name beside ``path`` to write a file or folder at; at the end it is synced and renamed.

    A file of that name is replaced, as is an empty folder. After an error nothing is left.

    Raises:
        InputError: ``path`` has no name that can be given, or is a folder with something in it. A retry will not help.
        SourceUnavailableError: The disk did not take it. A retry is safe.
    """
    if path.name in ("", "..") or path.is_mount() or "\0" in path.name:
        raise InputError(f"{str(path)!r} is no name for what is written; give another")
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path} leads to another folder; give that one")
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"the folder {path} is not empty; give another")
        make(path.parent)
        yield hidden
        _sync_all(hidden)
        hidden.replace(path)
        sync(path.parent)
    except OSError as error:
        raise SourceUnavailableError(f"{path} was not written: {error.strerror or error}") from error
    finally:
        remove(hidden)


def make(folder: Path) -> None:
    """Make ``folder`` and those above it, so that they survive a loss of power."""
    if folder.is_dir():
        return
    make(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, if it is there and the disk lets us."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for inside in path.iterdir():
            _sync_all(inside)
    sync(path)
