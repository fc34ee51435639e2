"""Copies that lack too much, here or at another member: whole partitions take their place.

a member lacks entries that we no longer have --its partitions together--> a copy of each, as a move makes it, without the tail: the journal has that
what is damaged here, or behind: void, dropped, filled anew
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from actors.clock import now_monotonic_ms
from actors.moving import Outgoing
from grid.errors import MoveFailed
from grid.replication.messages import Member, Snapshot
from grid.replication.replica import Role

if TYPE_CHECKING:
    from actors.replicating import Replication

log = logging.getLogger("profilegrid")
COPY_BYTES_PER_S = 64e6
# The entries since are kept until the member has had the time to ask for them.
PINNED_S, AGAIN_S = 3.0, 1.0


class Refilling:
    """What `Replication` does of whole partitions."""

    def __init__(self, replication: Replication) -> None:
        self._replication = replication
        self._wanted: dict[Member, set[int]] = {}
        self._copying: dict[Member, asyncio.Task[None]] = {}
        self._sent: dict[Member, list[int]] = {}  # what is being copied
        self.bytes_per_s = COPY_BYTES_PER_S
        # Partitions whose journals are kept long, as a copy of them is on its way.
        self.pinned: set[int] = set()
        self._renewing: set[int] = set()

    def wanted(self, member: Member, partition: int) -> None:
        """A member needs a copy of a partition."""
        if partition not in self._sent.get(member, ()):
            self._wanted.setdefault(member, set()).add(partition)

    def go_on(self) -> None:
        """Begin what is wanted, one copy at a time a member."""
        for member, partitions in self._wanted.items():
            if partitions and member not in self._copying:
                self._copying[member] = self._replication.in_background(self._copy_to(member, sorted(partitions)))
                partitions.clear()

    def renew_soon(self, partition: int) -> None:
        """A partition that is damaged here: if another has all, it is filled anew."""
        if partition not in self._renewing and self.is_behind([partition]):
            self._renewing.add(partition)
            self._replication.in_background(self._renew(partition))

    async def _copy_to(self, member: Member, partitions: list[int]) -> None:
        """Send whole partitions to a member that lacks entries which we no longer have."""
        replication, shard = self._replication, self._replication.shard
        self._sent[member] = partitions = [p for p in partitions if p in replication.replicas and shard.engine.epochs[p]]
        lane = replication.lanes.get(member, "")
        try:
            shard.moves.check_quiet()
            if not partitions or not lane:
                return
            self.pinned.update(partitions)
            await shard.replaying.acquire()
            copy = Outgoing(shard, secrets.token_hex(8), partitions, lane, self.bytes_per_s, copy_of=replication.me)
            try:
                await copy.run()
            finally:
                await copy.end()
        except MoveFailed as error:
            log.warning("a copy for another member: %s; it is tried again", error)
            await asyncio.sleep(AGAIN_S)
        finally:
            del self._copying[member], self._sent[member]
            asyncio.get_running_loop().call_later(PINNED_S, self.pinned.difference_update, partitions)

    def is_behind(self, partitions: list[int]) -> bool:
        """Whether partitions are copies here that may be replaced by another's."""
        return all(p in self._replication.replicas and self._replication.replicas[p].may_start_over for p in partitions)

    def forget_state(self, partitions: list[int]) -> None:
        """What is here of copies goes, to be replaced by another's."""
        engine = self._replication.shard.engine
        for partition in partitions:
            self._replication.shard.store.held.forget(partition, self._replication.shard.committer.next_sequence)
            engine.copied[partition] = False
            engine.epochs[partition] = 0
            engine.stopped.pop(partition, None)
            self._replication.replicas[partition].start_over()
            self._replication.committed[partition] = 0

    def came(self, sender: Member, partitions: list[int]) -> None:
        """Whole partitions came, are durable, and in the columns: the journals go on from there."""
        engine = self._replication.shard.engine
        for partition in partitions:
            replica = self._replication.replicas.get(partition)
            engine.arriving[partition], engine.copied[partition] = False, True
            if replica is not None and replica.role is Role.FOLLOWER:
                position, epoch = int(engine.positions[partition]), int(engine.entry_epochs[partition])
                self._replication.committed[partition] = position
                self._replication.do(partition, replica.on_message(sender, Snapshot(replica.epoch, position, epoch, None), now_monotonic_ms()))
        self._replication.flush_soon()

    async def _renew(self, partition: int) -> None:
        """A damaged copy, while another has all: what is here goes, all of it comes again."""
        if not self.is_behind([partition]):  # things have changed since this was asked for
            self._renewing.discard(partition)
            return
        log.warning("partition %d is damaged here (%s) and is copied anew", partition, self._replication.shard.engine.stopped[partition])
        self.forget_state([partition])
        await self._replication.shard.moves.drop_foreign()
        if partition in self._replication.replicas and not self._replication.shard.moves.is_expected(partition):
            self._replication.shard.engine.copied[partition] = True
        self._renewing.discard(partition)
