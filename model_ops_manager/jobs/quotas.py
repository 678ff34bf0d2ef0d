"""How many jobs may run at once, over all runners of a store."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quotas:
    """Bounds on running jobs. A job past one waits and lets those behind it pass; runners should agree on them."""

    per_pipeline: int = 0  # 0: no bound
    per_kind: Mapping[str, int] = field(default_factory=dict)  # a kind that is absent has none

    def full(self, running: Iterable[tuple[str, str]]) -> tuple[set[str], set[str]]:
        """Return the pipelines and the kinds of which no more may start.

        Args:
            running: Pipeline and kind of each running job.

        >>> Quotas(per_pipeline=1, per_kind={"batch": 2}).full([("btc", "batch")])
        ({'btc'}, set())
        """
        running = list(running)
        pipelines, kinds = Counter(name for name, _ in running), Counter(kind for _, kind in running)
        return (
            {name for name, count in pipelines.items() if self.per_pipeline and count >= self.per_pipeline},
            {kind for kind, most in self.per_kind.items() if kinds[kind] >= most},
        )


NO_QUOTAS = Quotas()
