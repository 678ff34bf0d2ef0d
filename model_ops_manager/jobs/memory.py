"""The memory of a process and of what it has started, as Linux tells it."""

import os
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SESSION, _RESIDENT_PAGES = 3, 21  # of /proc/PID/stat, behind the name
_ZOMBIE = b"Z"


def of_session_mb(session: int) -> int:
    """Return the memory of the processes of ``session``, MiB; 0 where the system does not tell.

    Of a lone process what is resident. Of several the pages that they share, as forks do, count once.
    """
    resident = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[_SESSION]) == session and fields[0] != _ZOMBIE:
            resident[folder] = int(fields[_RESIDENT_PAGES]) * _PAGE_BYTES
    sizes = resident.values() if len(resident) < 2 else [_share(folder, size) for folder, size in resident.items()]
    return sum(sizes) // 2**20


def _share(folder: Path, resident: int) -> int:
    """Return the proportional share of a process, bytes; what is ``resident`` where the system does not tell."""
    try:
        lines = (folder / "smaps_rollup").read_bytes().splitlines()
    except OSError:
        return resident
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:")), resident)
