"""Stores a training in progress as bytes without pickle, and takes it up again to the identical result."""

import io
import json
import logging
import zipfile
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ml_core.trainer.state import Arrays

log = logging.getLogger(__name__)

FACTS = "facts"
FORMAT = 1
# What unpacking damaged bytes raises; RuntimeError where they seem to be encrypted, or packed in another way.
DAMAGES = (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)


class CheckpointStore(Protocol):
    """Where the newest checkpoint of one task is kept."""

    def load(self) -> bytes | None:
        """Return what was saved last, None where nothing was."""
        ...

    def save(self, data: bytes) -> None:
        """Keep ``data`` in place of what was kept before; a crash leaves one of the two whole."""
        ...


class Checkpoints:
    """The checkpoints of one task: those of another task are passed over."""

    def __init__(self, store: CheckpointStore, *, task: str, every_steps: int) -> None:
        """Keep them in ``store``.

        Args:
            store: The place.
            task: Hash of all that the result depends on.
            every_steps: Steps from one checkpoint to the next; never by the clock, which decides nothing here.
        """
        self._store, self._task, self._every_steps = store, task, every_steps
        self._saved_step = 0

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """Return arrays and facts of the newest checkpoint of this task, None where there is none."""
        data = self._store.load()
        if data is None:
            return None
        try:
            arrays, facts = unpack(data)
            found = facts["format"], facts["task"]
        except DAMAGES as error:
            log.warning("the checkpoint is damaged, training starts afresh: %s", error)
            return None
        if found != (FORMAT, self._task):
            log.warning("the checkpoint is of another task, training starts afresh")
            return None
        self._saved_step = int(facts["step"])
        return arrays, facts

    def is_due(self, step: int) -> bool:
        """Return True where ``step`` steps are enough for the next one."""
        return step - self._saved_step >= self._every_steps

    def save(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Store the place reached."""
        self._store.save(pack(arrays, {**facts, "format": FORMAT, "task": self._task}))
        self._saved_step = int(facts["step"])


def pack(arrays: Arrays, facts: Mapping[str, Any]) -> bytes:
    """Return ``arrays`` and ``facts`` (JSON; NaN and infinities allowed) as one npz archive."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    np.savez(buffer, allow_pickle=False, **{FACTS: text}, **arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[Arrays, dict[str, Any]]:
    """Return what ``pack`` was given.

    Raises:
        One of ``DAMAGES``: The bytes are damaged. A retry will not help.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = json.loads(arrays.pop(FACTS).tobytes())
    return arrays, facts
