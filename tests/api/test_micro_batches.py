"""Questions that come together are answered together; each gets its own answer, and no queue grows without bound."""

import asyncio

import pytest

from api import micro_batches
from api.errors import BusyError, NotServingError
from api.micro_batches import WAITING_BATCHES, MicroBatcher


class Answering:
    """Takes down the batches; answers once the gate is open, errors with themselves."""

    def __init__(self):
        self.batches, self.gate, self.begun = [], asyncio.Event(), asyncio.Event()

    async def __call__(self, questions):
        self.batches.append(list(questions))
        self.begun.set()
        await self.gate.wait()
        return [each if isinstance(each, Exception) else str(each).encode() for each in questions]

    async def busy(self):
        async with asyncio.timeout(10):
            await self.begun.wait()


def asks(batcher, *questions, rows=1):
    return [asyncio.ensure_future(batcher.ask(question, rows)) for question in questions]


async def settled(*tasks):
    async with asyncio.timeout(10):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_arrives_while_a_batch_is_answered_is_the_next_batch():
    answering = Answering()
    batcher = MicroBatcher("answer", answering, batch_rows=8)
    first = asks(batcher, 1)
    await answering.busy()
    later = asks(batcher, 2, 3, 4)
    await asyncio.sleep(0)
    answering.gate.set()

    assert await settled(*first, *later) == [b"1", b"2", b"3", b"4"]
    assert answering.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_a_limit_and_a_larger_question_is_one_of_its_own():
    answering = Answering()
    answering.gate.set()
    batcher = MicroBatcher("answer", answering, batch_rows=5)

    answers = await settled(*asks(batcher, 1, 2, 3, rows=2), *asks(batcher, 4, rows=9), *asks(batcher, 5, rows=5))

    assert answers == [b"1", b"2", b"3", b"4", b"5"]
    assert answering.batches == [[1, 2], [3], [4], [5]]


async def test_where_too_many_rows_wait_the_next_is_told_to_come_later_and_the_others_are_answered():
    answering = Answering()
    batcher = MicroBatcher("answer", answering, batch_rows=2)
    first = asks(batcher, 0)
    await answering.busy()
    waiting = asks(batcher, *range(WAITING_BATCHES), rows=2)
    await asyncio.sleep(0)

    with pytest.raises(BusyError, match="32 rows wait"):
        await batcher.ask("one more", 1)
    answering.gate.set()

    assert await settled(*first, *waiting) == [b"0", *(str(n).encode() for n in range(WAITING_BATCHES))]
    assert await batcher.ask("one more", 1) == b"one more"


async def test_an_idle_batcher_takes_a_question_of_any_size():
    answering = Answering()
    answering.gate.set()

    assert await MicroBatcher("answer", answering, batch_rows=1).ask("large", 1000) == b"large"


async def test_an_error_of_one_question_is_not_the_others():
    answering = Answering()
    answering.gate.set()
    wrong = ValueError("only mine")

    assert await settled(*asks(MicroBatcher("answer", answering, batch_rows=8), 1, wrong, 3)) == [b"1", wrong, b"3"]


async def test_an_error_of_a_batch_reaches_all_of_it_and_the_next_batch_is_answered():
    async def answer(questions):
        if "bad" in questions:
            raise ZeroDivisionError
        return [b"ok"] * len(questions)

    batcher = MicroBatcher("answer", answer, batch_rows=2)

    found = await settled(*asks(batcher, "bad", "beside it", "next"))

    assert [type(each) for each in found] == [ZeroDivisionError, ZeroDivisionError, bytes]


async def test_an_answer_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(micro_batches, "BATCH_TIMEOUT_S", 0.01)

    (found,) = await settled(*asks(MicroBatcher("answer", Answering(), batch_rows=8), 1))

    assert isinstance(found, NotServingError)
    assert "no answer within" in str(found)


@pytest.mark.parametrize("answers", [[], [b"one"], [b"one", b"two", b"three"]])
async def test_another_number_of_answers_is_an_error_of_the_batch_and_the_next_one_is_answered(answers):
    async def answer(questions):
        return answers if len(questions) == 2 else [b"ok"]

    batcher = MicroBatcher("answer", answer, batch_rows=2)

    found = await settled(*asks(batcher, 1, 2, 3))

    assert [str(each) for each in found[:2]] == [f"answer gave {len(answers)} answers to 2 questions"] * 2
    assert found[2] == b"ok"


async def test_who_waits_behind_other_batches_waits_no_longer_than_the_bound(monkeypatch):
    monkeypatch.setattr(micro_batches, "BATCH_TIMEOUT_S", 0.05)
    answering = Answering()
    batcher = MicroBatcher("answer", answering, batch_rows=1)

    found = await settled(*asks(batcher, *range(6)))
    answering.gate.set()

    assert [str(each) for each in found] == ["no answer within 0.05 s"] * 6
    assert await batcher.ask("next", 1) == b"next"
    assert answering.batches == [[0], ["next"]]  # nobody waits for the others any more


async def test_a_stop_answers_those_who_wait():
    answering = Answering()
    batcher = MicroBatcher("answer", answering, batch_rows=1)
    tasks = asks(batcher, 1, 2, 3)
    await answering.busy()
    assert "answer" in {task.get_name() for task in asyncio.all_tasks()}

    await batcher.stop()

    assert [str(each) for each in await settled(*tasks)] == ["the server stops"] * 3
    assert "answer" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_who_has_gone_is_passed_over():
    answering = Answering()
    batcher = MicroBatcher("answer", answering, batch_rows=8)
    gone, stays = asks(batcher, 1, 2)
    await answering.busy()
    gone.cancel()
    await asyncio.sleep(0)
    answering.gate.set()

    assert await stays == b"2"
