"""Calls of actors that may be between two lives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.calls import first_answer


class Actor:
    """Answers the calls that are made from the `alive`th on; those before hang."""

    def __init__(self, alive: int, answer: Any = "well") -> None:
        self.asked, self._alive, self._answer = 0, alive, answer

    def health(self) -> asyncio.Future[Any]:
        self.asked += 1
        said: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.asked > self._alive:
            if isinstance(self._answer, Exception):
                said.set_exception(self._answer)
            else:
                said.set_result(self._answer)
        return said


def answer(actor: Actor, timeout_s: float = 5.0) -> Any:
    async def run() -> Any:
        return await first_answer(actor.health, 0.01, timeout_s)

    return asyncio.run(run())


def test_a_call_that_was_made_of_the_life_before_does_not_keep_the_next_one_waiting() -> None:
    actor = Actor(alive=3)
    assert answer(actor) == "well"
    assert actor.asked == 4


def test_who_answers_at_once_is_asked_once() -> None:
    actor = Actor(alive=0)
    assert answer(actor) == "well"
    assert actor.asked == 1


def test_nobody_answers_within_the_time_or_one_fails() -> None:
    with pytest.raises(TimeoutError):
        answer(Actor(alive=1 << 30), timeout_s=0.05)
    with pytest.raises(RuntimeError, match="dead"):
        answer(Actor(alive=1, answer=RuntimeError("dead")))
