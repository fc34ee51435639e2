"""The processes of the simulated grid: shards and the controller carry out the effects of the protocol's own code, clients use them.

What a shard adds is what the real one adds: retries are recognised, entries folded, checkpoints written, a process that failed ends.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grid.errors import InvariantBroken
from grid.replication.controller import Controller
from grid.replication.messages import (
    CONTROLLER,
    Answer,
    Append,
    Apply,
    Config,
    Drop,
    Effect,
    Halt,
    Install,
    Keep,
    Save,
    Send,
    SendSnapshot,
    Snapshot,
    Write,
)  # fmt: skip
from grid.replication.replica import Replica, Role, Timing
from tests.simulation.disk import Disk
from tests.simulation.world import Process, World

BEAT_MS = 100.0
Operation = tuple[str, int]  # (client, its number)


@dataclass(frozen=True, slots=True)
class Ask:
    """A client's call: to count an operation, or (None) to read how many are counted."""

    partition: int
    call: int
    operation: Operation | None


@dataclass(frozen=True, slots=True)
class Told:
    """Its answer. A read's value is the number of operations and a hash of all of them in order."""

    call: int
    outcome: str
    value: tuple[int, int] = (0, 0)


class Ledger:
    """The state that entries make: operations in their order, each with the hash of all up to it."""

    def __init__(self, operations: tuple[Operation, ...] = ()) -> None:
        self.operations: list[Operation] = []
        self.hashes = [0]
        for operation in operations:
            self.add(operation)

    def add(self, operation: Operation) -> None:
        """Count one."""
        self.operations.append(operation)
        self.hashes.append(zlib.crc32(repr(operation).encode(), self.hashes[-1]))

    @property
    def value(self) -> tuple[int, int]:
        """What a read is told."""
        return len(self.operations), self.hashes[-1]


@dataclass(slots=True)
class Serving:
    """A shard's partition: the protocol's replica, the state it has folded, and which operations its journal and state have, where.

    queued      calls that were let in and have no place in the journal yet
    is_stopped  damaged, and to be thrown away: nothing is put behind what is left
    """

    replica: Replica
    ledger: Ledger
    applied: int
    known: dict[Operation, int] = field(default_factory=dict)
    queued: int = 0
    is_stopped: bool = False


class Shard(Process):
    """A member: one replica a partition, one disk."""

    def __init__(self, world: World, name: str, disk: Disk, pace: float, origin: float, on_done: Callable[[Shard, int, int], None]) -> None:
        super().__init__(world, name, pace, origin)
        self.disk, self._on_done = disk, on_done
        self._timing = Timing(lease=world.options["lease"], suspect=world.options["suspect"])
        self.partitions: dict[int, Serving] = {}

    def start(self) -> bool:
        """Take the folder, read it, begin. False: another holds it."""
        if not self.disk.own(self):
            self.die()
            return False
        for partition, copy in self.disk.copies.items():
            replica = Replica(self.name, copy.read(), self.now, self._timing)
            is_stopped = replica.is_damaged and bool(self.world.options.get("renews"))
            self.partitions[partition] = Serving(replica, Ledger(copy.base[2]), copy.base[0], is_stopped=is_stopped)
            self._index(self.partitions[partition])
        self._tick()
        return True

    def _tick(self) -> None:
        for partition, serving in self.partitions.items():
            if serving.is_stopped and serving.replica.may_start_over:
                self._renew(partition, serving)
            config = serving.replica.config
            serving.replica.is_draining = config is not None and config.is_handing_over and serving.queued > 0
            self._carry_out(partition, lambda s=serving: s.replica.on_tick(self.now))  # type: ignore[misc]
        if self.is_alive:
            self.later(self._timing.beat * (0.9 + 0.2 * self.world.network_random.random()), self._tick)

    def on_message(self, sender: str, message: Any) -> None:
        """(partition, message), or a client's call."""
        if isinstance(message, Ask):
            self._asked(sender, message)
            return
        partition, inner = message
        serving = self.partitions[partition]
        if serving.is_stopped and isinstance(inner, Append | Snapshot):
            return
        self._carry_out(partition, lambda: serving.replica.on_message(sender, inner, self.now))

    def _renew(self, partition: int, serving: Serving) -> None:
        """What is damaged goes, from the disk too; all of it comes again."""
        serving.replica.start_over()
        serving.ledger, serving.applied, serving.known, serving.is_stopped = Ledger(), 0, {}, False
        self.disk.do(self, Drop(), partition, lambda is_ok: None if is_ok else self.world.crash(self.name, loses_power=False))

    def _asked(self, client: str, ask: Ask) -> None:
        serving = self.partitions[ask.partition]
        replica, token = serving.replica, (client, ask)
        if ask.operation is None:
            value = serving.ledger.value
            may = replica.may_read(self.now)
            if may:
                self._check_alone(ask.partition)
            self.world.send(self.name, client, Told(ask.call, "done" if may else "refused", value))
            return
        is_leaving = replica.config is not None and replica.config.is_handing_over
        if self.world.options.get("queues") and replica.may_write(self.now) and not is_leaving:
            serving.queued += 1
            self.later(self.world.work_random.expovariate(1 / 15), lambda: self._write_queued(client, ask))
        else:
            self._write(serving, token)

    def _write(self, serving: Serving, token: tuple[str, Ask]) -> None:
        ask, replica = token[1], serving.replica
        assert ask.operation is not None
        position = serving.known.get(ask.operation)
        if position is not None:
            self._carry_out(ask.partition, lambda: replica.wait(position, token, self.now))
        else:
            self._carry_out(ask.partition, lambda: replica.write(ask.operation, token, self.now))

    def _write_queued(self, client: str, ask: Ask) -> None:
        """A call that was let in gets its place, or waits on; where another has become primary the process starts over."""
        serving = self.partitions[ask.partition]
        if serving.replica.may_write(self.now):
            serving.queued -= 1
            self._write(serving, (client, ask))
        elif serving.replica.role is Role.FOLLOWER:
            self.world.crash(self.name, loses_power=False)
        else:
            self.later(15.0, lambda: self._write_queued(client, ask))

    def _check_alone(self, partition: int) -> None:
        """No other may serve at this moment: two owners would both be believed. Leases promise that to clocks that do not jump."""
        if self.world.options["jumps"]:
            return
        for other in self.world.serving():
            if other is not self and other.partitions[partition].replica.may_read(other.now):
                self.world.violated(f"{self.name} and {other.name} both serve reads of partition {partition}")

    # --- effects ------------------------------------------------------------------------------------------------------------

    def _carry_out(self, partition: int, made: Callable[[], list[Effect]]) -> None:
        if not self.is_alive:
            return
        try:
            effects = made()
            for effect in effects:
                if self.is_alive:
                    self._do(partition, self.partitions[partition], effect)
            self.partitions[partition].replica.check()
        except InvariantBroken as error:
            self.world.violated(f"{self.name}, partition {partition}: {error}")

    def _do(self, partition: int, serving: Serving, effect: Effect) -> None:
        replica = serving.replica
        match effect:
            case Send():
                self.world.send(self.name, effect.to, (partition, effect.message))
            case Keep() | Write() | Install():
                if isinstance(effect, Install):
                    serving.ledger, serving.applied = Ledger(effect.snapshot.state), effect.snapshot.position
                    self._index(serving)
                elif isinstance(effect, Write):
                    self._note(serving, effect)
                self.disk.do(self, effect, partition, lambda is_ok: self._ended(partition, effect.ticket, is_ok))
            case Apply():
                self._apply(serving, effect.position)
            case Answer():
                client, ask = effect.token
                if effect.outcome == "done":
                    self._on_done(self, partition, effect.position)
                self.world.send(self.name, client, Told(ask.call, effect.outcome))
            case SendSnapshot():
                position = serving.applied
                snapshot = Snapshot(effect.epoch, position, replica.journal.epoch_at(position), tuple(serving.ledger.operations))
                self.world.send(self.name, effect.to, (partition, snapshot))
            case Drop():
                self.disk.do(self, effect, partition, lambda is_ok: None)
                serving.ledger, serving.applied, serving.known = Ledger(), 0, {}
            case Halt():
                self.world.crash(self.name, loses_power=False)
            case _:
                raise AssertionError(effect)

    def _ended(self, partition: int, ticket: int, is_ok: bool) -> None:
        self._carry_out(partition, lambda: self.partitions[partition].replica.on_io(ticket, self.now, is_ok=is_ok))

    def _index(self, serving: Serving) -> None:
        """Which operations were taken, so that a retry is no second one."""
        journal = serving.replica.journal
        serving.known = dict.fromkeys(serving.ledger.operations, serving.applied)
        for entry in journal.between(max(serving.applied, journal.base) + 1, journal.last):
            if entry.payload is not None:
                serving.known[entry.payload] = entry.position

    def _note(self, serving: Serving, write: Write) -> None:
        """As `_index`, of entries that are added. Those that are cut for them count as taken no longer."""
        if next(reversed(serving.known.values()), 0) > write.after:
            self._index(serving)
        for entry in write.entries:
            if entry.payload is not None:
                serving.known[entry.payload] = entry.position

    def _apply(self, serving: Serving, through: int) -> None:
        for position in range(serving.applied + 1, through + 1):
            payload = serving.replica.journal.entry(position).payload
            if payload is not None:
                serving.ledger.add(payload)
        serving.applied = through

    def checkpoint(self, partition: int) -> None:
        """Let a committed and durable state stand for its entries."""
        serving = self.partitions[partition]
        replica, position = serving.replica, serving.applied
        if position > replica.journal.base and position <= replica.durable:
            epoch = replica.journal.epoch_at(position)
            copy = self.disk.copies[partition]
            if position <= copy.base[0] + copy.synced:
                copy.checkpoint(position, epoch, tuple(serving.ledger.operations))
                replica.forget(position)


class Arbiter(Process):
    """The controller's process."""

    def __init__(self, world: World, disk: Disk) -> None:
        super().__init__(world, CONTROLLER)
        self.disk = disk
        self.core: Controller

    def start(self) -> bool:
        """Take the folder, read it, begin. False: another holds it."""
        if not self.disk.own(self):
            self.die()
            return False
        self.core = Controller({partition: copy.promise.visible for partition, copy in self.disk.copies.items()})
        self._tick()
        return True

    def _tick(self) -> None:
        self._carry_out(self.core.on_tick())
        if self.is_alive:
            self.later(BEAT_MS, self._tick)

    def on_message(self, sender: str, message: Any) -> None:
        """(partition, message) of a replica."""
        partition, inner = message
        self._guarded(lambda: self.core.on_message(partition, sender, inner), partition)

    def place(self, partition: int, target: tuple[str, ...]) -> None:
        """An operator's wish."""
        self._guarded(lambda: self.core.place(partition, target), partition)

    def _guarded(self, made: Callable[[], list[Effect]], partition: int) -> None:
        try:
            self._carry_out(made(), partition)
        except InvariantBroken as error:
            self.world.violated(f"controller: {error}")

    def _carry_out(self, effects: list[Effect], partition: int = -1) -> None:
        for effect in effects:
            match effect:
                case Save():
                    self.disk.do(self, effect, effect.partition, lambda is_ok, e=effect: self._ended(e.partition, e.ticket, is_ok))  # type: ignore[misc]
                case Send():
                    self.world.send(self.name, effect.to, (partition, effect.message))
                case Halt():
                    self.world.crash(self.name, loses_power=False)
                case _:
                    raise AssertionError(effect)

    def _ended(self, partition: int, ticket: int, is_ok: bool) -> None:
        before = self.core.config(partition)
        self._guarded(lambda: self.core.on_io(partition, ticket, is_ok=is_ok), partition)
        self.world.configured(partition, before, self.core.config(partition))


def first_config(members: tuple[str, ...]) -> Config:
    """Epoch 1, all in sync, the first primary."""
    return Config(1, members[0], members, members)
