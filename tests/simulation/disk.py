"""Disks: what was fsynced stays; of what was not, a part may be there after a crash. A folder belongs to the process that locked it.

Operations of one process end in their order. A crash in the midst of one leaves a prefix of its entries, or one of two versions of a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grid.replication.journal import Journal
from grid.replication.messages import Config, Drop, Entry, Install, Keep, Save, Write
from grid.replication.replica import Stable
from tests.simulation.world import Process, World


@dataclass(slots=True)
class File:
    """A file that is replaced whole: by rename, which only a fsynced folder keeps."""

    visible: Any
    synced: Any

    def replace(self, value: Any) -> None:
        """As `grid.storage.files.replace_file`."""
        self.visible = value
        self.synced = value

    def lose_power(self, is_kept: bool) -> None:
        """The last rename may or may not have reached the disk."""
        self.visible = self.visible if is_kept else self.synced
        self.synced = self.visible


@dataclass(slots=True)
class Copy:
    """One partition on a disk: promise and config, checkpoint (position, epoch, state), entries behind it, which of them are damaged."""

    promise: File
    base: tuple[int, int, Any]
    entries: list[Entry] = field(default_factory=list)
    synced: int = 0
    rotten: set[int] = field(default_factory=set)

    def write(self, after: int, entries: tuple[Entry, ...]) -> None:
        """Cut and add; not yet fsynced."""
        kept = after - self.base[0]
        self.synced = min(self.synced, kept)
        del self.entries[kept:]
        self.rotten = {position for position in self.rotten if position <= after}
        self.entries.extend(entries)

    def sync(self) -> None:
        """fdatasync."""
        self.synced = len(self.entries)

    def has(self, entry: Entry) -> bool:
        """Whether an entry is fsynced here, or part of the checkpoint."""
        number = entry.position - self.base[0] - 1
        return number < 0 or (number < self.synced and self.entries[number].epoch == entry.epoch)

    def checkpoint(self, position: int, epoch: int, state: Any) -> None:
        """A state in the place of the entries that made it."""
        gone = position - self.base[0]
        self.base, self.entries, self.synced = (position, epoch, state), self.entries[gone:], max(self.synced - gone, 0)
        self.rotten = {damaged for damaged in self.rotten if damaged > position}

    def read(self) -> Stable:
        """What a start finds: the entries up to the first damaged one."""
        position, epoch, _ = self.base
        sound = self.entries[: min(self.rotten) - position - 1] if self.rotten else self.entries
        promised, _ = self.promise.visible
        return Stable(promised, Journal(position, epoch, sound), bool(self.rotten))


Operation = Keep | Write | Install | Save | Drop


class Disk:
    """The folder of one member: a copy a partition. Also says who may use it."""

    def __init__(self, world: World, copies: dict[int, Copy]) -> None:
        self._world = world
        self.copies = copies
        self.owner: Process | None = None
        self.failing_until = 0.0
        self.slow_until = 0.0
        self._busy_until = 0.0
        self._pending: list[Callable[[float], None]] = []  # of operations under way: what of them a crash leaves
        self._has_failed = False

    def own(self, process: Process) -> bool:
        """Take the lock, which lives as long as its process, paused or not."""
        if self.owner is not None and self.owner.is_alive:
            return False
        self.owner = process
        self._busy_until, self._pending, self._has_failed = self._world.now, [], False
        return True

    def do(self, process: Process, operation: Operation, partition: int, done: Callable[[bool], None]) -> None:
        """Carry an operation out; `done` with whether it succeeded, in the order of the calls."""
        chance = self._world.disk_random
        cost = 0.5 + chance.expovariate(1 / 2.0) + (chance.random() * 400 if self._world.now < self.slow_until else 0)
        self._busy_until = max(self._busy_until, self._world.now) + cost

        def in_part(share: float) -> None:
            self._carry_out(operation, partition, share)

        def end() -> None:
            if not process.is_alive:
                return
            self._pending.remove(in_part)
            if self._has_failed:  # nothing is written behind a write whose outcome is unknown
                process.do(lambda: done(False))
            elif self._world.now < self.failing_until and chance.random() < 0.5:
                self._has_failed = True
                self._carry_out(operation, partition, chance.choice((0.0, chance.random(), 1.0)))
                process.do(lambda: done(False))
            else:
                self._carry_out(operation, partition, 1.0)
                process.do(lambda: done(True))

        self._pending.append(in_part)
        self._world.after(self._busy_until - self._world.now, end)

    def _carry_out(self, operation: Operation, partition: int, share: float) -> None:
        """All of it, durably, for a share of 1; else what a crash or a failure leaves of it."""
        copy = self.copies[partition]
        match operation:
            case Write():
                copy.write(operation.after, operation.entries[: round(len(operation.entries) * share)])
                copy.sync()
            case Keep() if share > 0.5:
                copy.promise.replace((operation.promised, operation.config))
            case Save() if share > 0.5:
                copy.promise.replace((operation.config, operation.target))
            case Install() if share > 0.5:
                snapshot = operation.snapshot
                copy.base, copy.entries, copy.synced, copy.rotten = (snapshot.position, snapshot.position_epoch, snapshot.state), [], 0, set()
            case Drop() if share > 0.5:
                self.copies[partition] = Copy(copy.promise, EMPTY)

    def crash(self, *, loses_power: bool) -> None:
        """The first operation under way may be there in part, those behind it are not begun."""
        chance = self._world.disk_random
        if self._pending and not self._has_failed:
            self._pending[0](chance.choice((0.0, chance.random(), 1.0)))
        self._pending = []
        for copy in self.copies.values():
            if loses_power:
                copy.promise.lose_power(chance.random() < 0.5)
                del copy.entries[chance.randint(copy.synced, len(copy.entries)) :]
            copy.sync()


EMPTY: tuple[int, int, Any] = (0, 0, ())


def empty(promise: tuple[Any, Config | None] | tuple[Any, Any]) -> Copy:
    """A copy of nothing."""
    return Copy(File(promise, promise), EMPTY)
