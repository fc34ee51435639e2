"""Callers that count operations and read, one call at a time, and repeat what was not answered; and what they know at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.simulation.hosts import Ask, Operation, Told
from tests.simulation.world import Process, World

TIMEOUT = 400.0
GIVEN_UP = 12


@dataclass(slots=True)
class Call:
    """One operation or read. `ended` None: it was never answered for certain."""

    partition: int
    operation: Operation | None
    began: float
    ended: float | None = None
    value: tuple[int, int] = (0, 0)


class Caller(Process):
    """Sends to whom it believes to be primary; asks another when refused or not answered."""

    def __init__(self, world: World, name: str, partitions: int, members: tuple[str, ...], history: list[Call]) -> None:
        super().__init__(world, name)
        self._partitions, self._members, self._history = partitions, members, history
        self._believed = dict.fromkeys(range(partitions), members[0])
        self._attempt = self._tries = self._operations = 0
        self._call: Call | None = None
        self.is_stopped = False
        self.later(world.work_random.random() * 100, self._begin)

    def _begin(self) -> None:
        if self.is_stopped:
            return
        chance = self.world.work_random
        operation = None
        if chance.random() < 0.5:
            self._operations += 1
            operation = (self.name, self._operations)
        self._call, self._tries = Call(chance.randrange(self._partitions), operation, self.world.now), 0
        self._history.append(self._call)
        self._try()

    def _try(self) -> None:
        assert self._call is not None
        self._attempt += 1
        self._tries += 1
        attempt = self._attempt
        partition = self._call.partition
        # A write may be sent a second time although the first is on its way: a retry that comes before its answer.
        for _ in range(2 if self._call.operation and self.world.work_random.random() < 0.05 else 1):
            self.world.send(self.name, self._believed[partition], Ask(partition, attempt, self._call.operation))
        self.later(TIMEOUT, lambda: self._lost(attempt))

    def _lost(self, attempt: int) -> None:
        if attempt == self._attempt and self._call is not None:
            self._again()

    def _again(self) -> None:
        assert self._call is not None
        chance = self.world.work_random
        self._believed[self._call.partition] = chance.choice(self._members)
        if self._tries >= GIVEN_UP and chance.random() < 0.3:
            self._next()
        else:
            self._attempt += 1  # an answer that comes late is of no use
            self.later(chance.uniform(5, 60), self._try)

    def _next(self) -> None:
        self._call = None
        self._attempt += 1
        self.later(self.world.work_random.expovariate(1 / 40), self._begin)

    def on_message(self, sender: str, message: Any) -> None:
        """An answer."""
        if not isinstance(message, Told) or message.call != self._attempt or self._call is None:
            return
        if message.outcome == "done":
            self._believed[self._call.partition] = sender
            self._call.ended, self._call.value = self.world.now, message.value
            self._next()
        else:
            self._again()
