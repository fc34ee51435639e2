"""Virtual time, one random source a concern, processes that crash, pause and drift, a network that loses, doubles, delays and cuts.

Everything follows from the seed and the list of faults: the same two give the same run, whatever Python's hash seed is.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Any


class World:
    """The scheduler and the network. `now` is true time, ms; processes see their own clocks."""

    def __init__(self, seed: int, options: dict[str, float]) -> None:
        self.options = options
        self.now = 0.0
        self.network_random = random.Random(seed * 7 + 1)
        self.disk_random = random.Random(seed * 7 + 2)
        self.work_random = random.Random(seed * 7 + 3)
        self.digest = 0
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._processes: dict[str, list[Process]] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.violations: list[str] = []

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do something in true time."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay, self._number, action))

    def run(self, until: float) -> None:
        """Everything that is due; ends early at a violation."""
        while self._queue and self._queue[0][0] <= until and not self.violations:
            self.now, number, action = heapq.heappop(self._queue)
            self.steps += 1
            self.digest = zlib.crc32(b"%d %d" % (int(self.now * 1000), number), self.digest)
            action()
        self.now = until

    def violated(self, what: str) -> None:
        """Something happened that never may."""
        self.violations.append(f"at {self.now:.1f} ms: {what}")

    def crash(self, name: str, *, loses_power: bool) -> None:
        """Kill a process; it is started again after a while."""
        raise NotImplementedError

    def configured(self, partition: int, before: Any, after: Any) -> None:
        """The controller has persisted a config, and is about to announce it."""
        raise NotImplementedError

    def serving(self) -> Iterable[Any]:
        """The shards that run now."""
        raise NotImplementedError

    # --- the network ------------------------------------------------------------------------------------------------------------

    def register(self, process: Process) -> None:
        """Messages to its name reach it. Two of one name, which a lock should prevent, each get some."""
        self._processes.setdefault(process.name, []).append(process)

    def unregister(self, process: Process) -> None:
        """It is gone."""
        self._processes[process.name].remove(process)

    def send(self, sender: str, to: str, message: Any) -> None:
        """Perhaps deliver it, perhaps twice, some time from now."""
        chance = self.network_random.random
        if (sender, to) in self.cuts or chance() < self.options["loss"]:
            return
        for _ in range(2 if chance() < self.options["double"] else 1):
            delay = 0.3 + self.network_random.expovariate(1 / self.options["delay"])
            if chance() < self.options["spike"]:
                delay += chance() * 1500
            self.after(delay, lambda: self._deliver(sender, to, message))

    def _deliver(self, sender: str, to: str, message: Any) -> None:
        processes = self._processes.get(to)
        if processes:
            process = processes[0] if len(processes) == 1 else self.network_random.choice(processes)
            process.do(lambda: process.on_message(sender, message))


class Process:
    """Something that runs, may be paused and killed. Its clock has its own pace and origin."""

    def __init__(self, world: World, name: str, pace: float = 1.0, origin: float = 0.0) -> None:
        self.world, self.name, self.pace, self.origin = world, name, pace, origin
        self.is_alive, self.is_paused = True, False
        self._held: list[Callable[[], None]] = []
        world.register(self)

    @property
    def now(self) -> float:
        """Its own monotonic clock, ms. It goes on while the process is paused."""
        return self.world.now * self.pace + self.origin

    def do(self, action: Callable[[], None]) -> None:
        """Now, or when it wakes, or never if it dies before."""
        if self.is_alive:
            if self.is_paused:
                self._held.append(action)
            else:
                action()

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """A timer or finished I/O of this life."""
        self.world.after(delay, lambda: self.do(action))

    def pause(self) -> None:
        """SIGSTOP."""
        self.is_paused = True

    def wake(self, *, is_shuffled: bool) -> None:
        """SIGCONT: what happened meanwhile is seen now, not always in its order."""
        self.is_paused = False
        held, self._held = self._held, []
        if is_shuffled:
            self.world.network_random.shuffle(held)
        for action in held:
            self.do(action)

    def die(self) -> None:
        """kill -9."""
        if self.is_alive:
            self.is_alive = False
            self.world.unregister(self)

    def on_message(self, sender: str, message: Any) -> None:
        """A message has arrived."""
        raise NotImplementedError
