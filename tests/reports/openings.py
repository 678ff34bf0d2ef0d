"""How often the test part of each cell has been opened: a file beside the pages that every run adds to.

What a later search tries is chosen by people who know how the earlier ones ended, so a page tells all of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FILE = "quality_openings.json"


class Opening(NamedTuple):
    """One look at a test part."""

    day: str
    commit: str
    trials: int
    best_neural: str
    ic: float  # Spearman, of the best neural model
    ridge_ic: float | None
    said: str = ""


def note(folder: Path, made: Mapping[str, Opening]) -> dict[str, list[Opening]]:
    """Add what was opened, by cell, to the file in ``folder`` and return all that was ever opened, oldest first."""
    path = folder / FILE
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {cell: [Opening(**each) for each in openings] for cell, openings in told.items()}
    for cell, opening in made.items():
        known.setdefault(cell, []).append(opening)
    told = {cell: [opening._asdict() for opening in openings] for cell, openings in known.items()}
    path.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return known
