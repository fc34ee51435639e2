"""One run: a grid of three shards and a controller, callers, a list of faults; then the faults stop and everything must be well again.

faults (12 s) --heal--> everything serves, every copy is in sync --> the history is checked
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from grid.replication.messages import Config
from tests.simulation.checking import faults_of
from tests.simulation.clients import Call, Caller
from tests.simulation.disk import Copy, Disk, empty
from tests.simulation.hosts import Arbiter, Shard, first_config
from tests.simulation.world import Process, World

MEMBERS = ("a", "b", "c")
PARTITIONS = 2
FAULTS_MS, HEAL_MS, LAST_MS = 12_000.0, 6_000.0, 2_000.0
CALLERS = 4


@dataclass(slots=True)
class Outcome:
    """What came of a run. `wrong` is empty when all is well."""

    wrong: list[str]
    acknowledged: int
    reads: int
    steps: int
    digest: int
    options: dict[str, float]
    faults: list[list[Any]] = field(default_factory=list)


def options_of(seed: int) -> dict[str, float]:
    """How bad a network, which clocks; what shards begin with and do between calls and entries: by the seed.

    restored  the grid comes from a snapshot: one copy of each partition has its state, the others are to be made
    queues    a write that was let in waits a while for its place in the journal, also where its primary is to hand over meanwhile
    renews    a damaged copy is not mended behind its sound entries, but thrown away and made anew as soon as nobody counts on it
    """
    chance, shards = random.Random(seed * 7 + 4), random.Random(seed * 7 + 7)
    return {
        "loss": chance.choice((0.0, 0.01, 0.05)), "double": chance.choice((0.0, 0.02)), "delay": chance.choice((1.0, 3.0, 12.0)),
        "spike": chance.choice((0.0, 0.0, 0.01, 0.05)), "drift": chance.choice((0.0, 0.04)), "jumps": float(chance.random() < 0.1),
        "pause": chance.choice((60.0, 130.0, 400.0)), "suspect": chance.choice((700.0, 350.0)), "lease": chance.choice((600.0, 1500.0)),
        "restored": float(shards.random() < 0.2), "queues": float(shards.random() < 0.4), "renews": float(shards.random() < 0.5),
    }  # fmt: skip


KINDS = {
    "crash": 6, "power": 4, "stop": 6, "cut": 6, "isolate": 2, "swizzle": 1, "heal": 6, "place": 6, "checkpoint": 8,
    "failing disk": 1, "slow disk": 2, "rot": 2, "twin": 1, "arbiter": 4, "arbiter stop": 2, "jump": 1, "ambush": 5,
}  # fmt: skip

# Faults that wait for the moment at which they hurt most.
AMBUSHES = ("primary dies when one is let in", "old primary is cut off at a handover", "primary is cut off, follower starts anew")


def faults_by(seed: int, options: dict[str, float]) -> list[list[Any]]:
    """[at ms, kind, arguments…] of a seed, in order. Plain data: a shortened list is a case of its own."""
    chance = random.Random(seed * 7 + 5)
    # Swarm testing (Groce et al., ISSTA 2012): a run that leaves some kinds out goes deeper into the others.
    kinds = [kind for kind in KINDS if chance.random() < 0.6] or ["crash"]
    ends = (*MEMBERS, "controller")
    faults: list[list[Any]] = []
    at = 300.0
    while at < FAULTS_MS:
        kind, member = chance.choices(kinds, [KINDS[kind] for kind in kinds])[0], chance.choice(MEMBERS)
        length = chance.choice((30.0, 200.0, 800.0, 1600.0)) * (0.5 + chance.random())
        partition = chance.randrange(PARTITIONS)
        match kind:
            case "cut":
                faults.append([at, kind, *chance.sample(ends, 2)])
            case "place":
                faults.append([at, kind, partition, chance.sample(MEMBERS, chance.choice((1, 2, 2, 2, 3)))])
            case "checkpoint" | "rot":
                faults.append([at, kind, member, partition])
            case "heal" | "swizzle":
                faults.append([at, kind, chance.randrange(1 << 30)])
            case "ambush":
                faults.append([at, kind, partition, chance.choice(AMBUSHES), length])
            case "jump":
                if options["jumps"]:
                    faults.append([at, kind, member, chance.uniform(-500, 3000)])
            case _:
                faults.append([at, kind, member, length])
        at += chance.expovariate(1 / options["pause"])
    return faults


class Simulation(World):
    """A run in the making."""

    def __init__(self, seed: int, faults: list[list[Any]] | None = None, options: dict[str, float] | None = None) -> None:
        self._asked_for = options or options_of(seed)
        super().__init__(seed, self._asked_for)
        self.faults = faults_by(seed, self.options) if faults is None else faults
        placed = {0: ("a", "b"), 1: ("b", "c")}
        self._disks = {member: Disk(self, {partition: empty((0, None)) for partition in range(PARTITIONS)}) for member in MEMBERS}
        self.history: list[Call] = []
        first = {partition: members[:1] if self._begins_restored else members for partition, members in placed.items()}
        self._disks["controller"] = Disk(self, {partition: empty((first_config(first[partition]), placed[partition])) for partition in placed})
        for partition, (member, *_) in placed.items() if self._begins_restored else ():
            self._restore(partition, self._disks[member].copies[partition])
        chance = random.Random(seed * 7 + 6)
        drift = self.options["drift"]
        self._clocks = {member: (1 + drift * chance.choice((-1, 0, 1)), chance.uniform(1e6, 9e6)) for member in MEMBERS}
        self._processes_by_name: dict[str, Process] = {}
        self._is_healing = False
        self._damaged: set[tuple[str, int]] = set()
        self._ambushes: list[tuple[int, str, float]] = []
        self._epochs_seen: dict[tuple[str, int], int] = {}
        for name in ("controller", *MEMBERS):
            self._start(name)
        self._callers = [Caller(self, f"caller-{number}", PARTITIONS, MEMBERS, self.history) for number in range(CALLERS)]
        for fault in self.faults:
            self.after(fault[0], lambda f=fault: self._strike(f))  # type: ignore[misc]

    @property
    def _begins_restored(self) -> bool:
        return bool(self.options.get("restored"))

    def _restore(self, partition: int, copy: Copy) -> None:
        """The state of a snapshot, at its position; epochs begin anew. All of it was acknowledged, to callers of the grid that it was made of."""
        operations = tuple(("before", number) for number in range(1, 4))
        copy.base = (len(operations) + 2, 0, operations)
        self.history += [Call(partition, operation, -1.0, 0.0) for operation in operations]

    # --- processes ------------------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        """A new life, unless the old one holds the folder: then later."""
        disk = self._disks[name]
        process = Arbiter(self, disk) if name == "controller" else Shard(self, name, disk, *self._clocks[name], self._check_durable)
        if not process.start():
            self.after(200, lambda: self._start_if_down(name))
            return
        self._processes_by_name[name] = process
        if isinstance(process, Shard):
            self._check_promises(name)

    def _start_if_down(self, name: str) -> None:
        if not self._processes_by_name[name].is_alive:
            self._start(name)

    def _check_promises(self, name: str) -> None:
        """A promise that was on the disk is there for ever."""
        for partition, copy in self._disks[name].copies.items():
            promised = copy.promise.visible[0]
            if promised < self._epochs_seen.get((name, partition), 0):
                self.violated(f"{name} has forgotten its promise of epoch {self._epochs_seen[name, partition]} of partition {partition}")

    def crash(self, name: str, *, loses_power: bool, for_ms: float = 200.0) -> None:
        """Kill a process, or its machine; it is back after a while."""
        process = self._processes_by_name[name]
        if process.is_alive:
            self._note_promises(name)
            process.die()
            self._disks[name].crash(loses_power=loses_power)
            self.after(for_ms, lambda: self._start_if_down(name))

    def _note_promises(self, name: str) -> None:
        process = self._processes_by_name[name]
        if isinstance(process, Shard):
            for partition, serving in process.partitions.items():
                self._epochs_seen[name, partition] = max(self._epochs_seen.get((name, partition), 0), serving.replica.promised)

    def serving(self) -> Iterable[Shard]:
        """The shards that run now."""
        for name in MEMBERS:
            process = self._processes_by_name[name]
            if isinstance(process, Shard) and process.is_alive and not process.is_paused:
                yield process

    # --- what must hold at each step -----------------------------------------------------------------------------------------

    def _check_durable(self, shard: Shard, partition: int, position: int) -> None:
        """What is acknowledged is on the disks of all that are in sync, by the controller's word: any of them may be primary next."""
        replica = shard.partitions[partition].replica
        if position <= replica.journal.base:
            return
        entry = replica.journal.entry(position)
        for member in self._disks["controller"].copies[partition].promise.visible[0].insync:
            copy = self._disks[member].copies[partition]
            if (member, partition) not in self._damaged and not copy.has(entry):
                self.violated(f"{shard.name} acknowledged position {position} of partition {partition}, which is not on the disk of {member}")

    # --- faults ---------------------------------------------------------------------------------------------------------------

    def _strike(self, fault: list[Any]) -> None:
        if self._is_healing:
            return
        _, kind, *arguments = fault
        match kind:
            case "crash":
                self.crash(arguments[0], loses_power=False, for_ms=arguments[1])
            case "power":
                self.crash(arguments[0], loses_power=True, for_ms=arguments[1])
            case "stop" | "twin":
                self._stop(arguments[0], arguments[1])
                if kind == "twin":
                    self.after(arguments[1] / 3, lambda: self._start(arguments[0]))
            case "arbiter":
                self.crash("controller", loses_power=arguments[1] > 500, for_ms=arguments[1])
            case "arbiter stop":
                self._stop("controller", arguments[1])
            case "cut":
                self.cuts.add((arguments[0], arguments[1]))
            case "isolate":
                self._isolate(arguments[0])
            case "swizzle":
                self._swizzle(arguments[0])
            case "heal":
                self.cuts.clear()
            case "place":
                arbiter = self._processes_by_name["controller"]
                if isinstance(arbiter, Arbiter) and arbiter.is_alive:
                    arbiter.do(lambda: arbiter.place(arguments[0], tuple(arguments[1])))
            case "checkpoint":
                shard = self._processes_by_name[arguments[0]]
                if isinstance(shard, Shard):
                    shard.do(lambda: shard.checkpoint(arguments[1]))
            case "failing disk":
                self._disks[arguments[0]].failing_until = self.now + arguments[1] / 4
            case "slow disk":
                self._disks[arguments[0]].slow_until = self.now + arguments[1]
            case "rot":
                self._rot(arguments[0], arguments[1])
            case "ambush":
                self._ambush(*arguments)
            case "jump":
                pace, origin = self._clocks[arguments[0]]
                self._clocks[arguments[0]] = (pace, origin + max(arguments[1], 0))
                process = self._processes_by_name[arguments[0]]
                process.origin = self._clocks[arguments[0]][1]
            case _:
                raise AssertionError(kind)

    def _ambush(self, partition: int, kind: str, length: float) -> None:
        config = self._disks["controller"].copies[partition].promise.visible[0]
        if kind == AMBUSHES[2]:
            self._isolate(config.primary)
            for member in config.insync:
                if member != config.primary:
                    self.crash(member, loses_power=False, for_ms=10)
        else:
            self._ambushes.append((partition, kind, length))

    def configured(self, partition: int, before: Config, after: Config) -> None:
        """Those who lay in wait for it strike."""
        grew = len(after.insync) > len(before.insync) and after.primary == before.primary
        handed_over = before.successor == after.primary != before.primary
        due = [ambush for ambush in self._ambushes if ambush[0] == partition and (grew if ambush[1] == AMBUSHES[0] else handed_over)]
        for ambush in due if not self._is_healing else ():
            self._ambushes.remove(ambush)
            if grew:
                self.crash(before.primary, loses_power=False, for_ms=ambush[2])
            else:
                self._isolate(before.primary)

    def _stop(self, name: str, length: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        process = self._processes_by_name[name]
        if process.is_alive and not process.is_paused:
            process.pause()
            self.after(length, lambda: process.wake(is_shuffled=self.network_random.random() < 0.3))

    def _isolate(self, name: str) -> None:
        """A member hears and reaches nobody but its callers."""
        for other in (*MEMBERS, "controller"):
            self.cuts |= {(name, other), (other, name)}

    def _swizzle(self, number: int) -> None:
        """Cut some connections one by one, restore them in another order."""
        chance = random.Random(number)
        pairs = [(a, b) for a in (*MEMBERS, "controller") for b in (*MEMBERS, "controller") if a != b]
        chosen = chance.sample(pairs, 5)
        for pair in chosen:
            self.after(chance.uniform(0, 400), lambda p=pair: self.cuts.add(p))  # type: ignore[misc]
            self.after(chance.uniform(600, 2000), lambda p=pair: self.cuts.discard(p))  # type: ignore[misc]

    def _rot(self, name: str, partition: int) -> None:
        """The machine loses power, and an entry on its disk is damaged; only where another copy in sync is sound."""
        arbiter = self._disks["controller"].copies[partition].promise.visible[0]
        copy = self._disks[name].copies[partition]
        others = [member for member in arbiter.insync if member != name and not self._disks[member].copies[partition].rotten]
        if name in arbiter.insync and others and copy.synced and not self._damaged:
            self._damaged.add((name, partition))
            self.crash(name, loses_power=True)
            if copy.entries:
                copy.rotten.add(copy.base[0] + 1 + self.disk_random.randrange(len(copy.entries)))

    # --- the end --------------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """No more faults, everything that was stopped goes on."""
        self._is_healing = True
        self.cuts.clear()
        self.options = {**self.options, "loss": 0.0, "double": 0.0, "spike": 0.0}
        for name, process in self._processes_by_name.items():
            self._disks[name].failing_until = self._disks[name].slow_until = 0.0
            if process.is_paused and process.is_alive:
                process.wake(is_shuffled=False)

    def outcome(self) -> Outcome:
        """Run it all."""
        self.run(FAULTS_MS)
        self._heal()
        self.run(FAULTS_MS + HEAL_MS + LAST_MS)
        for caller in self._callers:
            caller.is_stopped = True
        wrong = list(self.violations)
        if not wrong:
            self.run(self.now + 1_500)
            wrong = list(self.violations)
            for partition in range(PARTITIONS):
                if not wrong and not self._is_beyond_repair(partition):
                    wrong += self._wrong_at_the_end(partition)
        done = [call for call in self.history if call.ended is not None]
        reads = sum(call.operation is None for call in done)
        return Outcome(wrong, len(done) - reads, reads, self.steps, self.digest, self._asked_for, self.faults)

    def _is_beyond_repair(self, partition: int) -> bool:
        """The only copy in sync was damaged: it is refused, not served wrongly; an operator must decide."""
        config = self._disks["controller"].copies[partition].promise.visible[0]
        return len(config.insync) == 1 and bool(self._disks[config.primary].copies[partition].rotten)

    def _wrong_at_the_end(self, partition: int) -> list[str]:
        arbiter = self._processes_by_name["controller"]
        assert isinstance(arbiter, Arbiter)
        config = arbiter.core.config(partition)
        # Callers are at a partition that nobody can repair most of the time: there are few at the others, but there must be some.
        is_crowded = any(self._is_beyond_repair(other) for other in range(PARTITIONS) if other != partition)
        last = FAULTS_MS + HEAL_MS / (2 if is_crowded else 1)
        if not any(call.partition == partition and call.operation and (call.ended or 0) > last for call in self.history):
            return [f"partition {partition} takes no writes {HEAL_MS:.0f} ms after the faults ended: {config}"]
        if not arbiter.core.is_settled(partition):
            return [f"partition {partition} does not lie where it shall: {config}, target {arbiter.core.target(partition)}"]
        shards = {name: process for name, process in self._processes_by_name.items() if isinstance(process, Shard)}
        primary = shards[config.primary].partitions[partition]
        for member in config.insync:
            copy = shards[member].partitions[partition]
            if copy.ledger.value != primary.ledger.value or copy.applied != primary.applied:
                return [f"partition {partition}: the copies of {member} and {config.primary} differ: {copy.ledger.value}, {primary.ledger.value}"]
        return [f"partition {partition}: {found}" for found in faults_of(self.history, primary.ledger, partition, with_reads=not self.options["jumps"])]


def simulate(seed: int, faults: list[list[Any]] | None = None, options: dict[str, float] | None = None) -> Outcome:
    """One run, from nothing but its arguments."""
    return Simulation(seed, faults, options).outcome()
