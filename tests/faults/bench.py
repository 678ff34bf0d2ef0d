"""What all scenarios have in common."""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_core import fit as learning

Result = dict[str, Any]


class Bench(NamedTuple):
    """What a scenario is given."""

    folder: Path
    model: learning.FittedModel
    kafka: str  # of those that leave it alone
    seed: int
    is_short: bool
    soak_minutes: float

    @property
    def random(self) -> random.Random:
        """Moments and victims."""
        return random.Random(self.seed)


Scenario = Callable[[Bench], Awaitable[Result]]
