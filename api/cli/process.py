"""What every long-running command does first."""

import faulthandler
import signal

from data_io.logs import configure
from data_io.settings import check_names


def begin() -> None:
    """Set up logging, and refuse misspelt ``TICKWISE_*`` variables whichever process they are meant for.

    On SIGUSR1 the stacks of all threads are written to standard error.

    Raises:
        InvalidSettingsError: A variable is unknown; the message names the nearest valid one.
    """
    from api.settings import ServerSettings
    from data_io.archive.settings import ArchiveSettings
    from data_io.feeds.settings import FeedSettings
    from model_ops_manager.jobs.settings import RunnerSettings
    from streams.settings import WorkerSettings

    configure()
    faulthandler.register(signal.SIGUSR1)
    check_names(WorkerSettings, RunnerSettings, ServerSettings, ArchiveSettings, FeedSettings)
