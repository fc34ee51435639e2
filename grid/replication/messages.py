"""What replicas and the controller tell each other about one partition, and what they ask of the process they run in.

Times are ms of the own monotonic clock; only its pace matters, and that to 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A member is a data folder of a shard: another folder under the same shard's name is another member.
Member = str
CONTROLLER: Member = "controller"


@dataclass(frozen=True, slots=True)
class Config:
    """Who holds a partition in one epoch. `replicas` has the in-sync set and those that catch up; `successor` shall become primary."""

    epoch: int
    primary: Member
    insync: tuple[Member, ...]
    replicas: tuple[Member, ...]
    successor: Member = ""

    @property
    def is_handing_over(self) -> bool:
        """Whether the primary shall take no more writes, and give way to its successor."""
        return self.successor not in ("", self.primary)


@dataclass(frozen=True, slots=True)
class Entry:
    """One change at a log position. `payload` None begins an epoch: the first entry of every primary."""

    epoch: int
    position: int
    payload: Any


# --- replicas and controller ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """From a replica, again and again: which epoch it has promised.

    is_fresh    it has started and was told no config since
    is_damaged  entries that it had acknowledged are lost: it cannot count as in sync
    knows_config  it has the config of that epoch
    """

    promised: int
    is_fresh: bool
    is_damaged: bool
    knows_config: bool


@dataclass(frozen=True, slots=True)
class Announce:
    """From the controller: the config in force, persisted."""

    config: Config


@dataclass(frozen=True, slots=True)
class Shrink:
    """From a primary: `member` does not acknowledge; take it out of the in-sync set."""

    epoch: int
    member: Member


@dataclass(frozen=True, slots=True)
class Expand:
    """From a primary: `member` has all that was ever acknowledged, and nothing more will be without it; let it in."""

    epoch: int
    member: Member


@dataclass(frozen=True, slots=True)
class Suspect:
    """From an in-sync follower: the primary is silent."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """From a primary with a successor: all it took is committed, it takes and reads no more in this epoch."""

    epoch: int


# --- between replicas ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """From the primary: entries that follow `previous`; none is a heartbeat. `sent_ms` is its clock, given back by Ack."""

    epoch: int
    previous: int
    previous_epoch: int
    entries: tuple[Entry, ...]
    committed: int
    sent_ms: float


@dataclass(frozen=True, slots=True)
class Ack:
    """To the primary: durable, and equal to its log, up to `position`. Grants a lease counted from `sent_ms`."""

    epoch: int
    position: int
    sent_ms: float


@dataclass(frozen=True, slots=True)
class Mismatch:
    """To the primary: the entry before those it sent is another here; try after `position`."""

    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class Stale:
    """To a sender of an old epoch."""

    promised: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """From the primary: the state at a committed position, for one that lacks entries which the primary no longer has."""

    epoch: int
    position: int
    position_epoch: int
    state: Any


@dataclass(frozen=True, slots=True)
class Release:
    """From a sealed primary to its successor: the leases granted in this epoch, and before, are used no more."""

    epoch: int


# --- effects: what the process does, in this order -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message; it may be lost, late, doubled or overtaken."""

    to: Member
    message: Any


@dataclass(frozen=True, slots=True)
class Keep:
    """Persist the promise (and the config it came with), file and folder fsynced; then `on_io(ticket)`."""

    promised: int
    config: Config | None
    ticket: int


@dataclass(frozen=True, slots=True)
class Write:
    """Cut the log after position `after`, add the entries, fsync; then `on_io(ticket)`. Writes end in the order they were asked for."""

    after: int
    entries: tuple[Entry, ...]
    ticket: int


@dataclass(frozen=True, slots=True)
class Install:
    """Put a snapshot in the place of all that is there, durably; then `on_io(ticket)`. In one order with Write."""

    snapshot: Snapshot
    ticket: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Entries up to `position` are committed: fold them."""

    position: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell who asked: "done" at `position`; "refused", nothing of it happened; "unknown", it may have."""

    token: Any
    outcome: str
    position: int = 0


@dataclass(frozen=True, slots=True)
class SendSnapshot:
    """Send the member a Snapshot of the committed state, in this epoch."""

    to: Member
    epoch: int


@dataclass(frozen=True, slots=True)
class Drop:
    """The partition lives elsewhere: its data here may go, the promise stays."""


@dataclass(frozen=True, slots=True)
class Halt:
    """End the process at once: after a failed write nothing is known of the disk. A restart reads what is there."""

    why: str


@dataclass(frozen=True, slots=True)
class Save:
    """The controller's: persist a partition's config and target, file and folder fsynced; then `on_io(ticket)`."""

    partition: int
    config: Config
    target: tuple[Member, ...]
    ticket: int


Effect = Send | Keep | Write | Install | Apply | Answer | SendSnapshot | Drop | Halt | Save
