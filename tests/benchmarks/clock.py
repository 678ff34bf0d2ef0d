"""Where time goes, by what it is spent on."""

import functools
from collections.abc import Callable, Iterator
from typing import Any


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Start at 0."""
        self.spent: dict[str, float] = {}
        self._now = now

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call`` with its time added to ``name``."""

        @functools.wraps(call)  # with its attributes: torch marks a step that its optimiser has wrapped already
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = self._now()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + self._now() - begin

        return run

    def each(self, name: str, iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
        """Return ``iterate`` with the time of every item added to ``name``."""

        def run(self_: Any) -> Iterator[Any]:
            step = self.timed(name, iterate(self_).__next__)
            while True:
                try:
                    item = step()
                except StopIteration:
                    return
                yield item

        return run
