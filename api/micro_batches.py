"""Concurrent requests share one call: what arrives while a batch is answered is the next batch."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from api.errors import BusyError, NotServingError

Q = TypeVar("Q")
Answer = bytes | Exception
_Asked = tuple[Q, int, "asyncio.Future[bytes]"]

WAITING_BATCHES = 16
BATCH_TIMEOUT_S = 30.0


class MicroBatcher(Generic[Q]):
    """Answers questions in batches of what has arrived; it never waits for more to come. Of one event loop."""

    def __init__(
        self, name: str, answer: Callable[[Sequence[Q]], Awaitable[Sequence[Answer]]], *, batch_rows: int
    ) -> None:
        """Prepare.

        Args:
            name: Of its task.
            answer: Gives one answer to each of several questions; an exception among them is raised to who asked.
            batch_rows: Rows of a batch at most; a question of more is a batch of its own.
        """
        self.name, self._answer = name, answer
        self._batch_rows, self._most_rows = batch_rows, batch_rows * WAITING_BATCHES
        self._waiting: deque[_Asked[Q]] = deque()
        self.waiting_rows = 0
        self._task: asyncio.Task[None] | None = None  # there while there is something to answer

    async def ask(self, question: Q, rows: int) -> bytes:
        """Return the answer to ``question``, which has so many rows.

        Raises:
            BusyError: Too many rows wait already. A retry is safe.
            NotServingError: No answer within BATCH_TIMEOUT_S, or the server stops. A retry is safe.
        """
        if self._waiting and self.waiting_rows + rows > self._most_rows:
            raise BusyError(f"{self.waiting_rows} rows wait to be scored; retry later, or send fewer at once")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()
        self._waiting.append((question, rows, answered))
        self.waiting_rows += rows
        if self._task is None:
            self._task = loop.create_task(self._work(), name=self.name)
        try:
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                return await answered
        except TimeoutError:
            raise _no_answer() from None

    async def stop(self) -> None:
        """Answer nothing more of what waits now."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        taken: list[_Asked[Q]] = []
        try:
            while self._waiting:
                if taken := self._take():
                    _tell(taken, await self._answers([question for question, _, _ in taken]))
        except asyncio.CancelledError:
            left = [*taken, *self._waiting]
            self._waiting.clear()
            self.waiting_rows = 0
            _tell(left, [NotServingError("the server stops")] * len(left))
            raise
        finally:
            self._task = None

    def _take(self) -> list[_Asked[Q]]:
        taken: list[_Asked[Q]] = []
        rows = 0
        while self._waiting and (not taken or rows + self._waiting[0][1] <= self._batch_rows):
            asked = self._waiting.popleft()
            self.waiting_rows -= asked[1]
            if not asked[2].done():  # whoever asked has not gone
                taken.append(asked)
                rows += asked[1]
        return taken

    async def _answers(self, questions: Sequence[Q]) -> Sequence[Answer]:
        try:
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                answers = list(await self._answer(questions))
        except TimeoutError:
            return [_no_answer()] * len(questions)
        except Exception as error:  # noqa: BLE001 - whoever asked learns of it
            return [error] * len(questions)
        if len(answers) != len(questions):
            wrong = RuntimeError(f"{self.name} gave {len(answers)} answers to {len(questions)} questions")
            return [wrong] * len(questions)
        return answers


def _no_answer() -> NotServingError:
    return NotServingError(f"no answer within {BATCH_TIMEOUT_S:g} s")


def _tell(taken: Sequence[_Asked[Q]], answers: Sequence[Answer]) -> None:
    for (_, _, answered), answer in zip(taken, answers, strict=True):
        if answered.done():  # whoever asked has gone
            continue
        if isinstance(answer, Exception):
            answered.set_exception(answer)
        else:
            answered.set_result(answer)
