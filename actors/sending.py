"""What the copies of one shard tell those of another: messages of all partitions together, each group once, over one lane a member.

Owns the lanes and what waits for its turn. Leaves to `grid.replication` what is said, and that it comes again when it is lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgpack
from profilegrid.lanes import REPLICATE, Lane

from actors.promises import is_all, packed_message, part_of
from grid.group import Group
from grid.replication.messages import Append, Member

if TYPE_CHECKING:
    from actors.replicating import Replication

LANE_TIMEOUT_S = 5.0
# Of one message: about 5 ms of either loop.
MESSAGE_BYTES_MAX, PIECE_GROUPS_MAX, PIECE_EVERY_S = 8 << 20, 12, 0.002


class Sending:
    """From one shard to all members that have copies with it."""

    def __init__(self, replication: Replication) -> None:
        self._replication = replication
        self._lane_of: dict[Member, tuple[str, Lane]] = {}
        self._behind: dict[Member, list[tuple[int, Any]]] = {}

    def close(self) -> None:
        """Say nothing any more."""
        for _, lane in self._lane_of.values():
            lane.close()

    def send(self, member: Member, messages: list[tuple[int, Any]]) -> None:
        """Behind what still waits for its turn."""
        if member in self._behind:
            self._behind[member] += messages
        elif later := self._send_some(member, messages):
            self._behind[member] = later
            self._replication.in_background(self._send_rest(member))

    async def _send_rest(self, member: Member) -> None:
        """A member that has much to catch up with takes it in pieces: all of it in one turn would hold up either loop for a third of a second."""
        while self._behind[member]:
            await asyncio.sleep(PIECE_EVERY_S)
            messages, self._behind[member] = self._behind[member], []
            self._behind[member] = self._send_some(member, messages) + self._behind[member]
        del self._behind[member]

    def _send_some(self, member: Member, messages: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        """Send as much as makes one piece. Returns the rest."""
        endpoint, (at_endpoint, lane) = self._replication.lanes.get(member, ""), self._lane_of.get(member, ("", None))
        if not endpoint:
            return []
        if lane is None or lane.failed is not None or at_endpoint != endpoint:
            if lane is not None:
                lane.close()
            lane = Lane(endpoint, LANE_TIMEOUT_S)
            self._lane_of[member] = endpoint, lane
        units: list[Group] = []
        wanted: list[dict[int, set[int]]] = []
        at: dict[int, int] = {}
        items, later = [], list[tuple[int, Any]]()
        nbytes = 0
        for partition, message in messages:
            if not isinstance(message, Append):
                items.append([partition, *packed_message(message)])
                continue
            entries: list[list[int]] = []
            for entry in message.entries:
                if entry.payload is not None and id(entry.payload) not in at:
                    if nbytes > MESSAGE_BYTES_MAX or len(units) == PIECE_GROUPS_MAX:
                        later.append((partition, _rest_of(message, len(entries))))
                        break
                    at[id(entry.payload)] = len(units)
                    units.append(entry.payload)
                    wanted.append({})
                    nbytes += entry.payload.nbytes
                number = -1 if entry.payload is None else at[id(entry.payload)]
                if number >= 0:
                    wanted[number].setdefault(partition, set()).add(entry.position)
                entries.append([entry.epoch, entry.position, number])
            if entries or not message.entries:
                items.append([partition, "Append", message.epoch, message.previous, message.previous_epoch, message.committed, message.sent_ms, entries])
        encoded = []
        for group, places in zip(units, wanted, strict=True):
            header, body = (group if is_all(group, places) else part_of(group, places)).encode()
            header |= {"reserved": [], "entries": {}, "starts": {}}
            encoded.append([msgpack.packb(header), b"".join(body)])
        lane.ask(REPLICATE, msgpack.packb([self._replication.me, items, encoded])).add_done_callback(_looked_at)
        return later


def _rest_of(append: Append, sent: int) -> Append:
    """What follows the first entries of a message, as a message of its own."""
    if not sent:
        return append
    last = append.entries[sent - 1]
    return Append(append.epoch, last.position, last.epoch, append.entries[sent:], append.committed, append.sent_ms)


def _looked_at(answer: asyncio.Future[bytes]) -> None:
    """What fails on the way comes again by itself."""
    if not answer.cancelled():
        answer.exception()
