"""The copies that one shard keeps of partitions which have several: what `grid.replication` decides is carried out here, in the shard's loop.

    a group --journals of its partitions--> our log, and by lane to who else has a copy --all acknowledged--> columns --> its senders
    a group of another's primary --our log--> held --committed, so it says--> columns

Owns the replicas, the file of their promises, what is sent between members. Leaves to `grid.replication` who may do what; to the
committer the order of groups. A group's blocks get their positions when they enter the journals: epochs begin between groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from actors.clock import now_monotonic_ms
from actors.committing import stop_at_once
from actors.promises import Promises, between_of, config_of, is_all, packed_message, part_of
from actors.refilling import COPY_BYTES_PER_S, Refilling
from actors.sending import Sending
from grid.errors import InvariantBroken, MoveFailed, ShardRecovering, WriteFailed
from grid.failpoints import failpoint
from grid.group import Group
from grid.replication.journal import Journal
from grid.replication.messages import (
    CONTROLLER,
    Announce,
    Answer,
    Append,
    Apply,
    Config,
    Drop,
    Effect,
    Entry,
    Halt,
    Install,
    Keep,
    Member,
    Release,
    Send,
    SendSnapshot,
    Shrink,
    Write,
)  # fmt: skip
from grid.replication.replica import Replica, Role, Stable, Timing

if TYPE_CHECKING:
    from actors.serving import ShardServer

log = logging.getLogger("profilegrid")
# Served again within 2 s of a primary's death; a loop that stands still for a second is not taken for dead.
TIMING = Timing(beat=150.0, lease=1000.0, suspect=1200.0)
REPORT_TIMEOUT_S, STILL_S = 2.0, 3.0
HURRIED_BEAT_S, HURRY_S = 0.015, 0.5
# What is kept in memory for a member that is behind: beyond it the member gets a copy of the whole partition.
JOURNAL_ENTRIES_MAX, JOURNAL_BYTES_MAX = 4096, 64 << 20
DEPOSED = 73
Ticket = tuple[int, Replica, int]
Report = Callable[[Member, list[list[Any]]], Awaitable[dict[str, Any]]]


async def nobody(member: Member, reports: list[list[Any]]) -> dict[str, Any]:
    """The report of a shard that has no controller: embedded, in tests."""
    return {"announced": [], "lanes": {}, "bytes_per_s": 0.0}


class Replication:
    """All copies of one shard. Everything here happens in the shard's loop."""

    def __init__(self, shard: ShardServer, promises: Promises, report: Report) -> None:
        self.shard, self._promises, self._report = shard, promises, report
        self.me = promises.member
        self.replicas: dict[int, Replica] = {}
        self.committed = np.zeros(shard.engine.partitions, dtype=np.uint64)
        # Reads are answered until then (monotonic ms): what leases of the other copies allow.
        self.readable_until = np.full(shard.engine.partitions, np.inf)
        self.lanes: dict[Member, str] = {}
        self._out: dict[Member, list[tuple[int, Any]]] = {}
        self._reports: list[list[Any]] = []
        self._keeps: list[tuple[int, Keep]] = []
        self._writes: list[tuple[int, Write]] = []
        self._waiting: dict[int, Countdown] = {}
        self._tokens = 0
        self._shown: dict[int, tuple[Role, int, Config | None]] = {}
        # Partitions that cannot be written just now, and until when (monotonic s) they are looked after more often.
        self._hurried, self._hurries = dict[int, float](), asyncio.Event()
        self._to_show: set[int] = set()
        self._changed = asyncio.Event()
        self._is_flushing = self._is_still = False
        self._has_committed = asyncio.Event()
        self.refilling = Refilling(self)
        self._sending = Sending(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dropping: asyncio.Task[None] | None = None
        self._group_bytes = 0.0  # of a group of ours, on average

    # --- life -----------------------------------------------------------------------------------------------------------------

    def start(self, partitions: Iterable[int]) -> None:
        """Take the recovered copies up; who serves them is told by the controller."""
        for partition in partitions:
            self._make(partition)
        for work in (self._tick_forever, self._fold_forever, self._hurry_forever):
            self.in_background(work())

    def stop(self) -> None:
        """Take part in nothing any more."""
        for task in self._tasks:
            task.cancel()
        self._sending.close()

    def _make(self, partition: int) -> Replica:
        engine = self.shard.engine
        is_damaged, position = partition in engine.stopped, int(engine.positions[partition])
        # Of a damaged one nothing is of use, and there may be gaps; what is in the columns may still be held, as folding lags behind.
        held = [entry for entry in self.shard.store.held.of(partition) if entry[1] > position and not is_damaged]
        entries = [Entry(epoch, here, None if partition in group.starts else group) for epoch, here, group in held]
        journal = Journal(position, int(engine.entry_epochs[partition]), entries)
        stable = Stable(self._promises.promised.get(partition, 0), journal, is_damaged)
        replica = self.replicas[partition] = Replica(self.me, stable, now_monotonic_ms(), TIMING)
        self.committed[partition] = replica.committed
        self.readable_until[partition] = 0
        engine.copied[partition] = True
        return replica

    def status(self) -> list[list[Any]]:
        """Of each copy: [partition, role, epoch, last position, committed position]. Safe from another thread."""
        return [[p, r.role.value, r.epoch, r.journal.last, r.committed] for p, r in sorted(self.replicas.copy().items())]

    # --- what others tell -----------------------------------------------------------------------------------------------------

    async def hear(self, announced: list[list[Any]], lanes: dict[Member, str], bytes_per_s: float) -> None:
        """Configs in force, from the controller; where members listen; how fast copies may go (0: as nobody said)."""
        self.lanes |= lanes
        self.refilling.bytes_per_s = bytes_per_s or COPY_BYTES_PER_S
        configs = [(partition, config_of(plain)) for partition, plain in announced]
        new = [(partition, config) for partition, config in configs if partition not in self.replicas and self._is_news(partition, config)]
        self._announced(configs)  # first: a group that is under way may wait for one of these
        if any(partition in self.shard.store.held.undropped for partition, _ in new):
            await self.shard.moves.drop_foreign()
        if new:
            # Until now they were served alone, or are new here; what is left of a former copy goes first, or stays whole.
            async with self.shard.moves.dropping, self.shard.committer.quiet():
                for partition, _ in new:
                    if partition not in self.replicas:
                        self._begin(partition)
            self._announced(new)

    def _is_news(self, partition: int, config: Config) -> bool:
        """Whether a config makes a copy of a partition that has none: not what we serve alone already, as an answer that was late may say."""
        return self.me in config.replicas and (len(config.replicas) > 1 or config.epoch > int(self.shard.engine.epochs[partition]))

    def _announced(self, configs: list[tuple[int, Config]]) -> None:
        for partition, config in configs:
            if (replica := self.replicas.get(partition)) is not None:
                self.do(partition, replica.on_message(CONTROLLER, Announce(config), now_monotonic_ms()))
        self.flush_soon()

    def _begin(self, partition: int) -> None:
        """The first of a partition's copies, which served it alone; or one that is to be filled."""
        was_alone = bool(self.shard.engine.epochs[partition])
        replica = self._make(partition)
        if was_alone:  # nobody else can have been read from: there are no leases to wait for
            replica.on_message(self.me, Release(replica.promised), now_monotonic_ms())

    def take(self, payload: bytes) -> None:
        """What another member sends."""
        sender, items, units = msgpack.unpackb(payload, strict_map_key=False)
        now, groups = now_monotonic_ms(), [self._unit(header, body) for header, body in units]
        for partition, kind, *fields in items:
            replica = self.replicas.get(partition)
            if replica is None:
                continue
            if kind == "Append":
                if partition in self.shard.engine.stopped:
                    continue  # to be thrown away: an answer would let the primary count on what is sound of it
                if not self.shard.engine.kept[partition]:
                    fields[5] = []  # it is being replaced: nothing to put entries behind
                message = self._append_of(fields, groups)
                if message is None:
                    continue
            else:
                message = between_of(kind, fields)
            try:
                self.do(partition, replica.on_message(sender, message, now))
            except InvariantBroken:
                log.critical("partition %d: what cannot be; starting over", partition, exc_info=True)
                os._exit(DEPOSED)
        self.flush_soon()

    @staticmethod
    def _unit(header: bytes, body: bytes) -> Group:
        group = Group.decode(msgpack.unpackb(header, strict_map_key=False), memoryview(body), 0)
        group.is_adopted, group.reserved = True, []
        return group

    def _append_of(self, fields: list[Any], groups: list[Group]) -> Append | None:
        epoch, previous, previous_epoch, committed, sent_ms, plain = fields
        entries = tuple(Entry(entry_epoch, position, None if unit < 0 else groups[unit]) for entry_epoch, position, unit in plain)
        catalog = self.shard.engine.catalog.version
        versions = {entry.payload.catalog_version for entry in entries if entry.payload is not None}
        if any(version < catalog for version in versions):
            return None  # features that came since would lack it: we say nothing, are left out, and are copied anew
        # Others come again. Beginnings of epochs hold nothing that a catalog matters to, and cut what else would be held for ever.
        takes = (lambda entry: entry.payload is None) if self._is_still else lambda entry: entry.payload is None or entry.payload.catalog_version == catalog
        entries = tuple(itertools.takewhile(takes, entries))
        return Append(epoch, previous, previous_epoch, entries, committed, sent_ms)

    # --- effects --------------------------------------------------------------------------------------------------------------

    def do(self, partition: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() if effect.to == CONTROLLER:
                    self._reports.append([partition, *packed_message(effect.message)])
                case Send():
                    self._out.setdefault(effect.to, []).append((partition, effect.message))
                case Keep():
                    self._keeps.append((partition, effect))
                case Write():
                    # At once: what it cuts must not be taken for what is committed in its place.
                    self.shard.store.held.cut(partition, effect.after, self.shard.committer.next_sequence)
                    self._writes.append((partition, effect))
                case Apply():
                    self.committed[partition] = effect.position
                    self._has_committed.set()
                case Answer():
                    self._answer(effect)
                case SendSnapshot():
                    self._lacks_much(effect.to, partition)
                case Install():  # it is durable and in the columns already
                    self.do(partition, self.replicas[partition].on_io(effect.ticket, now_monotonic_ms(), is_ok=True))
                case Drop():
                    self._leave(partition)
                case Halt():
                    stop_at_once(RuntimeError(effect.why))
        replica = self.replicas.get(partition)
        if replica is not None and self._shown.get(partition) == (replica.role, replica.epoch, replica.config):
            self._to_show.add(partition)  # leases only: once before anything is sent
        else:
            self._show(partition)

    def _lacks_much(self, member: Member, partition: int) -> None:
        """A member needs a copy of a partition. If it has acknowledged something in this epoch it may be let in any moment: the epoch ends first."""
        replica = self.replicas[partition]
        if replica.matched(member) is not None:
            self._reports.append([partition, *packed_message(Shrink(replica.epoch, member))])
        else:
            self.refilling.wanted(member, partition)

    def _answer(self, answer: Answer) -> None:
        waiting = self._waiting.get(answer.token)
        if waiting is None:
            return
        if answer.outcome != "done":
            self._deposed(f"a group may or may not be committed: {answer.outcome}")
        waiting.left -= 1
        if waiting.left == 0:
            self._waiting.pop(answer.token)
            if not waiting.done.done():
                waiting.done.set_result(None)

    @staticmethod
    def _deposed(why: str) -> None:
        """What was prepared, or written and not committed, is taken back: by starting over, as what producers were told is marked in many places."""
        log.warning("starting over: %s", why)
        os._exit(DEPOSED)

    def _show(self, partition: int) -> None:
        """Serve a partition, or do not, as its replica may."""
        engine, replica = self.shard.engine, self.replicas.get(partition)
        if replica is None:
            self._shown.pop(partition, None)
            return
        self._shown[partition] = (replica.role, replica.epoch, replica.config)
        now = now_monotonic_ms()
        is_primary = replica.role is Role.PRIMARY and replica.config is not None
        was_served = engine.epochs[partition] != 0
        if is_primary:
            is_whole = int(engine.positions[partition]) >= replica.epoch_start
            until = replica.readable_until(now) if is_whole else 0
            is_leaving = replica.config is not None and replica.config.is_handing_over
            if is_leaving or not is_whole:
                self._hurried.setdefault(partition, time.monotonic() + HURRY_S)
                self._hurries.set()
            if until > now or (is_leaving and was_served):
                engine.epochs[partition] = replica.epoch
                if not was_served:
                    engine.reserved[partition] = max(int(engine.reserved[partition]), replica.journal.last)
            # What comes between two epochs waits outside: let in, it would keep from a moment of quiet whoever makes the copies.
            is_shut = is_leaving or not replica.may_write(now)
            is_opened = bool(engine.sealed[partition]) and not is_shut
            engine.sealed[partition] = is_shut and was_served
            self.readable_until[partition] = until
            if is_opened or (engine.epochs[partition] and not was_served):
                self.shard.committer.let_go()
        elif replica.role is Role.FOLLOWER or not was_served:
            if was_served or engine.sealed[partition]:
                if self.shard.committer.has_under_way(partition):
                    self._deposed(f"partition {partition} has another primary while a group of it is under way")
                engine.epochs[partition], engine.sealed[partition] = 0, False
                self.shard.committer.let_go()
                self.shard.wake_watchers()
            self.readable_until[partition] = 0
        else:  # between two epochs, perhaps primary in both
            engine.sealed[partition] = True
            self.readable_until[partition] = 0
        self._changed.set()

    def journal_end(self, partition: int) -> int:
        """The last position that we, the primary, have given. Raises MoveFailed when we are not."""
        replica = self.replicas.get(partition)
        if replica is None or replica.role is not Role.PRIMARY:
            raise MoveFailed(f"partition {partition} is not served here as one of several copies")
        return replica.journal.last

    def check_readable(self, partitions: Any) -> None:
        """Raise ShardRecovering unless nobody else can serve the partitions now."""
        if self.replicas and (self.readable_until[partitions] <= now_monotonic_ms()).any():
            raise ShardRecovering()

    # --- disk and network -----------------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        to_show, self._to_show = self._to_show, set()
        for partition in to_show:
            self._show(partition)
        if self._keeps:
            keeps, self._keeps = self._keeps, []
            self.in_background(self._keep(keeps))
        if self._writes:
            writes, self._writes = self._writes, []
            self._log(writes)
        out, self._out = self._out, {}
        for member, messages in out.items():
            self._sending.send(member, messages)

    async def _keep(self, keeps: list[tuple[int, Keep]]) -> None:
        tickets = [(partition, self.replicas[partition], keep.ticket) for partition, keep in keeps if partition in self.replicas]
        for partition, keep in keeps:
            self._promises.promised[partition] = max(keep.promised, self._promises.promised.get(partition, 0))
        try:
            await self.shard.committer.call(self._promises.write)
        except OSError as error:
            stop_at_once(error)
        failpoint("replica.promised")
        self._io_ended(tickets)

    def _io_ended(self, tickets: list[Ticket]) -> None:
        now = now_monotonic_ms()
        for partition, replica, ticket in tickets:
            if self.replicas.get(partition) is replica:  # not one that came after it, whose tickets have the same numbers
                self.do(partition, replica.on_io(ticket, now, is_ok=True))
        self.flush_soon()

    def _log(self, writes: list[tuple[int, Write]]) -> None:
        """Entries of others' groups, and beginnings of epochs, into our log: as few records as keep each partition's order."""
        records: list[tuple[Group | None, dict[int, list[Entry]]]] = []
        latest: dict[int, int] = {}  # of each partition: its newest record
        at: dict[int, int] = {}  # of each group: its newest record
        store = self.shard.store
        tickets: list[Ticket] = []
        for partition, write in writes:
            if partition not in self.replicas:
                continue  # it has left meanwhile
            if partition in latest and any(entry.position > write.after for _, entries in records for entry in entries.get(partition, ())):
                self._log_records(records, tickets)  # what was to be written is cut again: one after the other
                records, latest, at, tickets = [], {}, {}, []
            tickets.append((partition, self.replicas[partition], write.ticket))
            store.held.cut(partition, write.after, self.shard.committer.next_sequence)  # what an earlier one of these brought
            for entry in write.entries:
                number = at.get(id(entry.payload), -1)
                if number < latest.get(partition, 0) or number < 0 or (entry.payload is None and partition in records[number][1]):
                    number = at[id(entry.payload)] = len(records)
                    records.append((entry.payload, {}))
                records[number][1].setdefault(partition, []).append(entry)
                latest[partition] = number
        self._log_records(records, tickets)

    def _log_records(self, records: list[tuple[Group | None, dict[int, list[Entry]]]], tickets: list[Ticket]) -> None:
        store, engine = self.shard.store, self.shard.engine
        groups = []
        for number, (payload, entries) in enumerate(records):
            group = self._record(payload, entries)
            group.sequence = self.shard.committer.next_sequence + number
            store.held.hold(group)
            groups.append(group)
        self._has_committed.set()  # some of it may be committed already
        for group in groups:
            # Codes come in the order of the log: words of ours that are not in it yet go first; where they come again they are known.
            unlogged = self.shard.committer.unlogged_words()
            engine.enter(group)
            group.reserved = [*unlogged, *group.reserved]
        written = [self.shard.committer.append(group, is_durable=group is groups[-1]) for group in groups]
        self.in_background(self._written(written, tickets))

    def _record(self, payload: Group | None, entries: dict[int, list[Entry]]) -> Group:
        engine = self.shard.engine
        if payload is None:
            group = Group(engine.received_ms, engine.catalog.version, [], [], starts={p: mine[0].position for p, mine in entries.items()})
        else:
            wanted = {partition: {entry.position for entry in mine} for partition, mine in entries.items()}
            group = payload if payload.sequence == 0 and is_all(payload, wanted) else part_of(payload, wanted)
            group.is_part = False  # of its record it will be all
        group.entries = {partition: (mine[0].epoch, self.replicas[partition].committed) for partition, mine in entries.items()}
        return group

    async def _written(self, written: list[asyncio.Future[None]], tickets: list[Ticket]) -> None:
        try:
            await asyncio.gather(*written)
        except WriteFailed as error:
            stop_at_once(error)
        failpoint("replica.logged")
        self._io_ended(tickets)

    # --- groups of ours -------------------------------------------------------------------------------------------------------

    def has_copies_of(self, group: Group) -> bool:
        """Whether some of a group's partitions have several copies."""
        return bool(self.replicas) and any(self.shard.engine.copied[judged.frame.partitions].any() for judged in group.judged)

    async def begin(self, group: Group) -> asyncio.Future[None]:
        """Send a group to the log and to wherever copies of its partitions must acknowledge. Done when it is committed; fails with WriteFailed."""
        engine = self.shard.engine
        mine = {p for judged in group.judged for p in judged.frame.partitions[judged.fresh].tolist() if p in self.replicas}
        while not all(self.replicas[p].may_write(now_monotonic_ms()) for p in mine if p in self.replicas):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), TIMING.beat / 1000)
        self._tokens += 1
        token, waiting = self._tokens, Countdown()
        self._waiting[token] = waiting
        now, tickets = now_monotonic_ms(), list[Ticket]()
        group.entries = {p: (self.replicas[p].epoch, self.replicas[p].committed) for p in mine if p in self.replicas}
        # Events that come together are one entry of a partition's journal. A deletion counts by its position: what is before it needs another.
        is_joined = all(judged.frame.kind == "events" for judged in group.judged)
        given: dict[int, int] = {}
        for judged in group.judged:
            for block in np.flatnonzero(judged.fresh).tolist():
                partition = int(judged.frame.partitions[block])
                if partition not in self.replicas:
                    continue
                if is_joined and partition in given:
                    judged.positions[block] = given[partition]
                    continue
                replica = self.replicas[partition]
                judged.positions[block] = given[partition] = replica.journal.last + 1
                engine.reserved[partition] = max(int(engine.reserved[partition]), replica.journal.last + 1)
                waiting.left += 1
                for effect in replica.write(group, token, now):
                    if isinstance(effect, Write):
                        tickets.append((partition, replica, effect.ticket))
                    else:
                        self.do(partition, [effect])
        if waiting.left == 0:  # nothing of it is new where there are copies
            self._waiting.pop(token)
            waiting.done.set_result(None)
        self._flush()
        failpoint("replica.sent")
        logged = self.shard.committer.append(group, is_durable=True)
        return asyncio.ensure_future(self._committed_by(group, logged, tickets, waiting))

    async def _committed_by(self, group: Group, logged: asyncio.Future[None], tickets: list[Ticket], waiting: Countdown) -> None:
        await logged
        self._io_ended(tickets)
        await waiting.done
        self._group_bytes += (group.nbytes - self._group_bytes) / 16
        if self.shard.committer.is_last:  # else the next group tells the followers that what they hold is committed
            for partition in group.entries:
                if partition in self.replicas:
                    self.do(partition, self.replicas[partition].tell_committed(now_monotonic_ms()))
            self.flush_soon()

    # --- time -----------------------------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TIMING.beat / 1000)
            for partition in list(self.replicas):
                replica = self.replicas[partition]
                self._tick(partition, replica)
                self._trim(partition, replica)
                self._retire(partition, replica)
                if partition in self.shard.engine.stopped:
                    self.refilling.renew_soon(partition)
            self._flush()
            self._report_soon()
            self.refilling.go_on()

    async def _hurry_forever(self) -> None:
        """A partition that is handed over, or begins an epoch, cannot be written: what it waits for is sent again sooner than with the next beat, as
        who begins an epoch too does not listen until its promise is kept."""
        while True:
            await self._hurries.wait()
            await asyncio.sleep(HURRIED_BEAT_S)
            for partition, until in list(self._hurried.items()):
                replica = self.replicas.get(partition)
                if replica is None or not self._is_in_between(partition, replica):
                    del self._hurried[partition]
                elif time.monotonic() < until:
                    self._tick(partition, replica)
            self._flush()
            self._report_soon()
            if not self._hurried:
                self._hurries.clear()

    def _is_in_between(self, partition: int, replica: Replica) -> bool:
        config, position = replica.config, int(self.shard.engine.positions[partition])
        return replica.role is Role.PRIMARY and config is not None and (config.is_handing_over or position < replica.epoch_start)

    def _tick(self, partition: int, replica: Replica) -> None:
        replica.is_draining = replica.config is not None and replica.config.is_handing_over and self.shard.committer.has_under_way(partition)
        self.do(partition, replica.on_tick(now_monotonic_ms()))

    def _report_soon(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self.in_background(self._tell(reports))

    async def _tell(self, reports: list[list[Any]]) -> None:
        try:
            answer = await asyncio.wait_for(self._report(self.me, reports), REPORT_TIMEOUT_S)
        except Exception as error:  # it comes again with the next beat
            log.debug("the controller does not answer: %r", error)
            return
        await self.hear(answer["announced"], answer["lanes"], answer["bytes_per_s"])

    def _settled(self, partition: int, replica: Replica) -> int:
        """The position up to which columns and log stand for the journal's entries."""
        return min(replica.committed, replica.durable, int(self.shard.engine.positions[partition]))

    def _trim(self, partition: int, replica: Replica) -> None:
        """Let the columns stand for what everybody has."""
        through = self._settled(partition, replica)
        if replica.role is Role.PRIMARY:
            entries_max = min(JOURNAL_ENTRIES_MAX, JOURNAL_BYTES_MAX / max(self._group_bytes, 1))
            if partition in self.refilling.pinned:
                entries_max *= 8
            if through - replica.journal.base <= entries_max:
                through = min(through, replica.matched_by_all() or 0)
        if through > replica.journal.base:
            replica.forget(through)

    def _retire(self, partition: int, replica: Replica) -> None:
        """A copy that is the only one again, with nothing under way, needs no protocol."""
        engine, config = self.shard.engine, replica.config
        is_alone = replica.role is Role.PRIMARY and config is not None and config.replicas == (self.me,)
        position = int(engine.positions[partition])
        if is_alone and not replica.is_waited_for and position == replica.committed == replica.journal.last and self.shard.committer.is_idle:
            del self.replicas[partition]
            engine.copied[partition] = engine.sealed[partition] = False
            engine.reserved[partition] = position
            engine.epochs[partition] = replica.epoch
            self.readable_until[partition] = np.inf
            self.shard.committer.let_go()

    # --- what is committed elsewhere ------------------------------------------------------------------------------------------

    async def _fold_forever(self) -> None:
        while True:
            await self._has_committed.wait()
            self._has_committed.clear()
            taken: list[Group] = []

            def take(taken: list[Group] = taken) -> list[Group]:
                taken += self.shard.store.held.take(self.committed)
                return taken

            await self.shard.committer.fold(take)
            for partition in {partition for group in taken for partition in group.entries}:
                self._show(partition)

    def is_elsewhere(self, partition: int) -> bool:
        """Whether another member has all of a partition that counts, as far as is known here."""
        replica = self.replicas.get(partition)
        return replica is not None and replica.config is not None and any(member != self.me for member in replica.config.insync)

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nothing is held or comes in meanwhile: catalogs change here. Raises ShardRecovering when what is held is not settled in time."""
        self._is_still = True
        try:
            deadline = time.monotonic() + STILL_S
            while len(self.shard.store.held):
                if time.monotonic() > deadline:
                    raise ShardRecovering()
                await asyncio.sleep(0.01)
            yield
        finally:
            self._is_still = False

    def catalog_installed(self) -> None:
        """Nobody gets entries of the former catalog any more: who lacks some gets a copy."""
        for partition, replica in self.replicas.items():
            if replica.role is Role.PRIMARY:
                replica.forget(self._settled(partition, replica))

    # --- who leaves ---------------------------------------------------------------------------------------------------------

    def _leave(self, partition: int) -> None:
        """The partition lives elsewhere."""
        engine = self.shard.engine
        del self.replicas[partition]
        engine.copied[partition] = engine.sealed[partition] = False
        engine.epochs[partition] = 0
        engine.stopped.pop(partition, None)  # damage, or want of a checkpoint, is nobody's matter any more
        self.shard.store.held.forget(partition, self.shard.committer.next_sequence)
        self.readable_until[partition] = np.inf
        self.shard.committer.let_go()
        self.shard.wake_watchers()
        if self._dropping is None or self._dropping.done():
            self._dropping = self.in_background(self._drop_soon())

    async def _drop_soon(self) -> None:
        """What has left, together."""
        await asyncio.sleep(TIMING.beat / 1000)
        await self.shard.moves.drop_foreign()

    def in_background(self, work: Any) -> asyncio.Task[Any]:
        """A task that must not fail."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("replication failed", exc_info=task.exception())
            os._exit(71)


class Countdown:
    """How many answers a group waits for."""

    def __init__(self) -> None:
        self.left = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
