"""The errors of tickwise: one tree, named by what the caller can do about them."""

import difflib
from collections.abc import Iterable


class TickwiseError(Exception):
    """tickwise could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        """Use ``message``, or the first line of the class docstring."""
        super().__init__(message or (type(self).__doc__ or "").split("\n", 1)[0])


class InputError(TickwiseError):
    """The input is wrong. A retry will not help."""


class SchemaMismatchError(InputError):
    """Two sides disagree about columns, features or versions."""


class NotEnoughDataError(InputError):
    """There is too little data for what was asked."""


class LeakError(InputError):
    """A data set tells a model what it must not know."""


class SpecError(InputError):
    """The pipeline file is wrong."""


class ArchiveDamagedError(InputError):
    """A file of the archive is not what its name says, or its bytes have changed."""


class NotFoundError(TickwiseError):
    """The thing asked for does not exist. A retry will not help."""


class JobNotFoundError(NotFoundError):
    """No such job."""


class PipelineNotFoundError(NotFoundError):
    """No such pipeline."""


class SymbolNotFoundError(NotFoundError):
    """No row of such a symbol."""


class ModelNotFoundError(NotFoundError):
    """No such model, version or alias."""


class ConflictError(TickwiseError):
    """The thing is in a state that does not allow this. The caller decides."""


class JobStateError(ConflictError):
    """The job is in a state that does not allow this."""


class QueueFullError(ConflictError):
    """Too many jobs wait. A retry helps once some have ended."""


class IdempotencyConflictError(ConflictError):
    """The idempotency key was used before with another request."""


class LeaseLostError(ConflictError):
    """The job was taken from this runner: its lease ran out, or the job was ended elsewhere."""


class TrainingCancelledError(ConflictError):
    """Training was cancelled, as asked for."""


class DependencyError(TickwiseError):
    """Something tickwise depends on did not answer. A retry is safe."""


class StuckError(DependencyError):
    """Nothing has moved for too long while there was work. A restart is safe."""


class SourceUnavailableError(DependencyError):
    """The source of ticks did not answer. A retry is safe."""


class ModelStoreUnavailableError(DependencyError):
    """The model store did not answer. A retry is safe."""


class JobStoreUnavailableError(DependencyError):
    """The job store did not answer. A retry is safe."""


class KafkaUnavailableError(DependencyError):
    """Kafka did not answer. A retry is safe."""


class ArchiveUnavailableError(DependencyError):
    """The folder of the archive did not take or give files. A retry is safe."""


class CorruptRecordError(DependencyError):
    """Fetched record batches are damaged. Fetching them again is safe."""


class SetupError(TickwiseError):
    """The installation or its settings are wrong; an operator has to act."""


class UnknownPartError(SetupError):
    """A named part (module:Class) cannot be found or used."""


class InvalidSettingsError(SetupError):
    """A setting is wrong."""


class ModelRefusedError(InputError):
    """A model failed its probe and was refused; the one in service stays."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or all names.

    >>> nearest("windw", ["window", "use"])
    "; did you mean 'window'?"
    >>> nearest("zzz", ["b", "a"])
    '; known: a, b'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
