"""Folders that commands write to."""

import os
from pathlib import Path

from ml_core.errors import SetupError


def made(folder: Path) -> Path:
    """Return ``folder``, which is made where it is missing: asked for before work is done that would be lost.

    Raises:
        SetupError: It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise SetupError(f"cannot write to {folder}: it is read-only")
    return folder
