"""One copy of one partition: a follower that takes the primary's entries, or the primary that everyone in sync must acknowledge.

    NONE --config, or entries of a new epoch--> promise kept --> FOLLOWER or PRIMARY --a higher epoch--> NONE

Owns roles, epochs, what is matched and committed, and leases. Leaves to its process: the disk, the network, the clock, what entries mean.
Always: it acts in no epoch before the promise of it is on disk; it never takes part in an epoch below its promise.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from grid.errors import holds
from grid.replication.journal import Journal
from grid.replication.messages import (
    CONTROLLER,
    Ack,
    Announce,
    Answer,
    Append,
    Apply,
    Config,
    Drop,
    Effect,
    Entry,
    Expand,
    Halt,
    Hello,
    Install,
    Keep,
    Member,
    Mismatch,
    Release,
    Sealed,
    Send,
    SendSnapshot,
    Shrink,
    Snapshot,
    Stale,
    Suspect,
    Write,
)  # fmt: skip

BATCH_ENTRIES_MAX = 64
# A follower may be let in when it is so near that waiting for it does not hold writes up.
LAG_ENTRIES_MAX = 64


@dataclass(frozen=True, slots=True)
class Timing:
    """ms. Clocks of two members may differ in pace by `drift`, no more.

    beat     between two ticks: heartbeats, repeats
    lease    how long after a heartbeat was sent its acknowledgement lets the primary read
    suspect  silence after which another is given up; not below lease * drift, or a promoted follower waits for its own grants
    """

    beat: float = 100.0
    lease: float = 600.0
    drift: float = 1.1
    suspect: float = 700.0


@dataclass(slots=True)
class Stable:
    """What a replica finds on its disk. `is_damaged`: entries that it acknowledged are gone or unreadable, the log ends before them."""

    promised: int = 0
    journal: Journal = field(default_factory=Journal)
    is_damaged: bool = False


class Role(enum.Enum):
    """NONE: it takes part in nothing; it waits for a config, or to be told that its old one holds no more."""

    NONE = "none"
    FOLLOWER = "follower"
    PRIMARY = "primary"


@dataclass(slots=True)
class Peer:
    """What the primary knows of another replica in this epoch. `matched` None: where the logs part is not found yet."""

    next: int
    heard_ms: float
    matched: int | None = None
    matched_before: int | None = None  # at the last beat
    lease_from_ms: float = -math.inf
    snapshot_ms: float = -math.inf


class Replica:
    """Every `on_…` and every request returns the effects to be carried out, in their order."""

    def __init__(self, me: Member, stable: Stable, now: float, timing: Timing) -> None:
        self.me, self.timing = me, timing
        self.role = Role.NONE
        self.epoch = 0
        self.config: Config | None = None
        self.journal = stable.journal
        self.promised = stable.promised
        self.is_damaged = stable.is_damaged
        self.is_fresh = True
        self.durable = self.journal.last
        self.committed = self.journal.base
        self._effects: list[Effect] = []
        self._tickets = 0
        self._writes: dict[int, tuple[int, float]] = {}  # ticket: (position, when the primary sent it)
        # Invariant: promised <= _fence; between them a Keep is under way, and nothing below _fence is listened to.
        self._fence = stable.promised
        self._entering: tuple[int, Config | None, Member] | None = None  # (ticket, config, primary)
        # as follower
        self._primary: Member = ""
        self._matched = 0
        self._heard_ms = now
        # A grant is kept in memory only: whoever starts must assume that it granted just before.
        self._granted_until_ms = now + timing.lease * timing.drift
        self._granted_epoch = stable.promised
        self._released_epoch = -1
        # as primary
        self._peers: dict[Member, Peer] = {}
        self._asked: set[Member] = set()
        self._waiting: dict[int, list[Any]] = {}
        self._epoch_start = 0
        self._serve_from_ms = math.inf
        self._is_released = False
        # Told by the process: what it let in before the handover is still to be written; until then nothing is handed over.
        self.is_draining = False

    # --- what the process tells -----------------------------------------------------------------------------------------------

    def on_message(self, sender: Member, message: Any, now: float) -> list[Effect]:
        """A message of another member or the controller."""
        match message:
            case Announce():
                self._on_config(message.config, now)
            case Append():
                self._on_append(sender, message, now)
            case Ack():
                self._on_ack(sender, message, now)
            case Mismatch():
                self._on_mismatch(sender, message, now)
            case Stale():
                if message.promised > self.epoch and self.role is Role.PRIMARY:
                    self.role = Role.NONE  # who waits keeps waiting: we may be primary of the next epoch too
            case Snapshot():
                self._on_snapshot(sender, message, now)
            case Release():
                self._released_epoch = max(self._released_epoch, message.epoch)
            case _:
                raise AssertionError(f"a replica takes no {type(message).__name__}")
        return self._taken()

    def on_tick(self, now: float) -> list[Effect]:
        """Every `timing.beat` ms: repeat what may have been lost, give up whom is silent."""
        knows = self.config is not None and self.config.epoch == self.promised
        self._send(CONTROLLER, Hello(self.promised, self.is_fresh, self.is_damaged, knows))
        if self.role is Role.FOLLOWER and knows and now - self._heard_ms > self.timing.suspect:
            assert self.config is not None
            if self.me in self.config.insync:
                self._send(CONTROLLER, Suspect(self.epoch))
        if self.role is Role.PRIMARY:
            self._tick_primary(now)
        return self._taken()

    def on_io(self, ticket: int, now: float, *, is_ok: bool) -> list[Effect]:
        """A Keep, Write or Install has ended. A failed one may or may not be on the disk: the process ends and looks."""
        if not is_ok:
            self._effects.append(Halt("a write failed: what is on the disk is unknown"))
        elif self._entering is not None and ticket == self._entering[0]:
            (_, config, primary), self._entering = self._entering, None
            self._enter(config, primary, now)
        elif ticket in self._writes:
            position, sent_ms = self._writes.pop(ticket)
            self.durable = max(self.durable, position)
            if self.role is Role.PRIMARY:
                self._advance(now)
            elif self.role is Role.FOLLOWER:
                self._acknowledge(sent_ms, now)
        return self._taken()

    def write(self, payload: Any, token: Any, now: float) -> list[Effect]:
        """Take a change. Answered when it is committed, or at once when this is no primary that may take it."""
        if not self.may_write(now):
            self._effects.append(Answer(token, "refused"))
        else:
            self._waiting.setdefault(self._append_own(payload), []).append(token)
            self._replicate(now)
        return self._taken()

    def wait(self, position: int, token: Any, now: float) -> list[Effect]:
        """Answer when an entry that is in the journal already is committed: what a retry waits for."""
        if not self.may_write(now):
            self._effects.append(Answer(token, "refused"))
        elif position <= self.committed:
            self._effects.append(Answer(token, "done", position))
        else:
            self._waiting.setdefault(position, []).append(token)
        return self._taken()

    def forget(self, through: int) -> None:
        """A durable, committed state stands for the entries up to `through` now."""
        holds(through <= min(self.committed, self.durable), "what is not committed is forgotten", through=through, committed=self.committed)
        self.journal.forget(through)

    def may_write(self, now: float) -> bool:
        """Whether changes are taken: primary, not about to hand over, all entries of former epochs committed, no one else may still read."""
        if self.role is not Role.PRIMARY or self.config is None or self._is_released or (self.config.is_handing_over and not self.is_draining):
            return False
        return self.committed >= self._epoch_start and now >= self._serve_from_ms

    def may_read(self, now: float) -> bool:
        """Whether the committed state may be read: as `may_write`, and no one else can have been made primary. Read first, ask then."""
        return now < self.readable_until(now)

    def readable_until(self, now: float) -> float:
        """Until when the committed state may be read, by what is known now; -inf: not now."""
        if self.role is not Role.PRIMARY or self._is_released or self.committed < self._epoch_start or now < self._serve_from_ms:
            return -math.inf
        return min((self._peers[member].lease_from_ms + self.timing.lease for member in self._required()), default=math.inf)

    @property
    def epoch_start(self) -> int:
        """As primary: the position of the entry that began our epoch; all before it is of former ones."""
        return self._epoch_start

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting)

    def matched_by_all(self) -> int | None:
        """As primary: the position up to which every other replica is known to be equal; None: of one it is not known."""
        matched = [peer.matched for peer in self._peers.values()]
        return None if None in matched else min((position for position in matched if position is not None), default=self.journal.last)

    def matched(self, member: Member) -> int | None:
        """As primary: how far a member is known to be equal, in this epoch; None: not yet."""
        peer = self._peers.get(member)
        return None if peer is None else peer.matched

    @property
    def may_start_over(self) -> bool:
        """Whether nobody counts on what is here: a learner, in an epoch in which it has acknowledged nothing. Once it has, it may be in sync any moment."""
        config = self.config
        is_learner = self.role is Role.FOLLOWER and config is not None and config.epoch == self.epoch == self._fence and self.me not in config.insync
        return is_learner and self._matched == 0

    def tell_committed(self, now: float) -> list[Effect]:
        """As primary: tell the others now how far it is committed, not with the next tick."""
        if self.role is Role.PRIMARY:
            self._replicate(now)
        return self._taken()

    def start_over(self) -> None:
        """A learner's data goes, to be replaced by a snapshot: nothing here is equal to anybody's any more. Only where `may_start_over`."""
        holds(self.may_start_over, "what others count on goes", epoch=self.epoch, matched=self._matched)
        self.journal, self.durable, self.committed, self._matched = Journal(), 0, 0, 0
        self._writes.clear()

    # --- epochs ---------------------------------------------------------------------------------------------------------------

    def _on_config(self, config: Config, now: float) -> None:
        if config.epoch < self._fence:
            return
        if config.epoch > self._fence:
            self._promise(config.epoch, config, config.primary)
        elif self._entering is not None:
            self._entering = (self._entering[0], config, config.primary)
        elif self.role is not Role.NONE:
            self.config = config
        # Started anew: what the life before sent in this epoch, but did not keep, must not be sent again as something else.
        elif config.primary != self.me:
            self._enter(config, config.primary, now)

    def _promise(self, epoch: int, config: Config | None, primary: Member) -> None:
        """Step down, keep the promise; what follows from it waits for the disk."""
        self.role, self._fence = Role.NONE, epoch
        self._entering = (self._ticket(), config, primary)
        self._effects.append(Keep(epoch, config, self._entering[0]))

    def _enter(self, config: Config | None, primary: Member, now: float) -> None:
        """Take the part that the epoch gives us. Its promise is kept."""
        self.promised, self.config = self._fence, config
        if config is not None and self.me not in config.replicas:
            self._leave()
            return
        if self.is_damaged:
            if config is None or self.me in config.insync:
                return  # to count as in sync would lose what is gone here; the controller is told
            self.is_damaged = False
        self.epoch, self.is_fresh = self.promised, False
        if primary == self.me:
            assert config is not None
            self._lead(config, now)
        else:
            self._follow(primary, now)

    def _leave(self) -> None:
        self.is_fresh, self.is_damaged = False, False
        self._give_up_waiting()
        self.journal, self.durable, self.committed = Journal(), 0, 0
        self._writes.clear()
        self._effects.append(Drop())

    def _give_up_waiting(self) -> None:
        for tokens in self._waiting.values():
            self._effects.extend(Answer(token, "unknown") for token in tokens)
        self._waiting.clear()

    def _follow(self, primary: Member, now: float) -> None:
        self._give_up_waiting()
        self.role, self._primary, self._matched, self._heard_ms = Role.FOLLOWER, primary, 0, now
        # What is under way was sent by another, by another clock: its end grants no lease.
        self._writes = {ticket: (position, -math.inf) for ticket, (position, _) in self._writes.items()}

    def _lead(self, config: Config, now: float) -> None:
        """All of the journal stays: what was not committed will be, its senders were told "unknown"."""
        self.role = Role.PRIMARY
        self._serve_from_ms = now if self._released_epoch >= self._granted_epoch else max(now, self._granted_until_ms)
        self._is_released = False
        self._asked = set()
        self._peers = {member: Peer(self.journal.last + 1, now) for member in config.replicas if member != self.me}
        self._epoch_start = self._append_own(None)
        self._replicate(now)

    # --- the primary ----------------------------------------------------------------------------------------------------------

    def _append_own(self, payload: Any) -> int:
        entry = Entry(self.epoch, self.journal.last + 1, payload)
        self.journal.extend((entry,))
        self._write(entry.position - 1, (entry,), entry.position, -math.inf)
        return entry.position

    def _required(self) -> set[Member]:
        """Who must acknowledge: all in sync, and whoever we have asked to be let in, as it may be in, or primary, without our knowing."""
        assert self.config is not None
        return (set(self.config.insync) | self._asked) - {self.me}

    def _replicate(self, now: float) -> None:
        for member, peer in self._peers.items():
            self._send_entries(member, peer, now)

    def _send_entries(self, member: Member, peer: Peer, now: float) -> None:
        previous = peer.next - 1
        if previous < self.journal.base:
            if now - peer.snapshot_ms > self.timing.suspect:
                peer.snapshot_ms = now
                self._effects.append(SendSnapshot(member, self.epoch))
            return
        entries = self.journal.between(peer.next, previous + BATCH_ENTRIES_MAX)
        self._send(member, Append(self.epoch, previous, self.journal.epoch_at(previous), entries, self.committed, now))
        if peer.matched is not None:
            peer.next += len(entries)

    def _tick_primary(self, now: float) -> None:
        assert self.config is not None
        for member, peer in self._peers.items():
            if peer.matched is not None and peer.matched == peer.matched_before:  # nothing came of what is under way for a beat: it was lost, perhaps
                peer.next = peer.matched + 1
            peer.matched_before = peer.matched
            self._send_entries(member, peer, now)
        for member in sorted(self._required()):
            # Never alone on our own account: until the controller has said so it may have made the silent one primary.
            if now - self._peers[member].heard_ms > self.timing.suspect:
                self._send(CONTROLLER, Shrink(self.epoch, member))
        for member in sorted(self._asked):
            self._send(CONTROLLER, Expand(self.epoch, member))
        # Not before it may serve itself: until then one who led before it may still be read from, by our leave, of which the successor knows nothing.
        is_ready = self.committed == self.journal.last and now >= self._serve_from_ms
        if self.config.is_handing_over and not self.is_draining and is_ready:
            self._is_released = True
            self._send(self.config.successor, Release(self.epoch))
            self._send(CONTROLLER, Sealed(self.epoch))

    def _on_ack(self, sender: Member, ack: Ack, now: float) -> None:
        peer = self._peers.get(sender)
        if self.role is not Role.PRIMARY or ack.epoch != self.epoch or peer is None:
            return
        holds(ack.position <= self.journal.last, "more is acknowledged than was sent", ack=ack, last=self.journal.last)
        peer.matched = max(peer.matched or 0, ack.position)
        peer.next = max(peer.next, peer.matched + 1)
        peer.lease_from_ms = max(peer.lease_from_ms, ack.sent_ms)
        peer.heard_ms = now
        assert self.config is not None
        is_outside = sender not in self.config.insync and sender not in self._asked
        # All that was ever acknowledged, also in a life before, of which we only know that it lies below our first entry.
        held = max(self.committed, self._epoch_start, self.journal.last - LAG_ENTRIES_MAX)
        if is_outside and peer.matched >= held:
            self._asked.add(sender)
            self._send(CONTROLLER, Expand(self.epoch, sender))
        self._advance(now)
        if peer.next <= self.journal.last and peer.matched == peer.next - 1:
            self._send_entries(sender, peer, now)

    def _on_mismatch(self, sender: Member, mismatch: Mismatch, now: float) -> None:
        peer = self._peers.get(sender)
        if self.role is not Role.PRIMARY or mismatch.epoch != self.epoch or peer is None or peer.matched is not None:
            return
        peer.heard_ms = now
        peer.next = max(1, min(peer.next, mismatch.position + 1))
        self._send_entries(sender, peer, now)

    def _advance(self, now: float) -> None:
        """Commit what is durable here and at everyone required."""
        through = min([self.durable, *(self._peers[member].matched or 0 for member in self._required())])
        if through <= self.committed:
            return
        self.committed = through
        self._effects.append(Apply(through))
        for position in [position for position in self._waiting if position <= through]:
            self._effects.extend(Answer(token, "done", position) for token in self._waiting.pop(position))

    # --- the follower ---------------------------------------------------------------------------------------------------------

    def _listens(self, sender: Member, epoch: int) -> bool:
        """Whether a primary's message is for us as we are; a higher epoch makes us follow first, and the message comes again."""
        if epoch < self._fence:
            self._send(sender, Stale(self._fence))
            return False
        if epoch > self._fence:
            self._promise(epoch, None, sender)
            return False
        if self._entering is None and self.role is Role.NONE and not self.is_damaged and sender != self.me:
            self.epoch, self.is_fresh = epoch, False
            self._follow(sender, self._heard_ms)
        return self.role is Role.FOLLOWER and self._entering is None

    def _on_append(self, sender: Member, append: Append, now: float) -> None:
        if not self._listens(sender, append.epoch):
            return
        self._heard_ms = now
        if not self.journal.has(append.previous, append.previous_epoch):
            self._send(sender, Mismatch(self.epoch, self.journal.last_of_epoch_below(append.previous_epoch, append.previous - 1)))
            return
        fresh = [entry for entry in append.entries if not self.journal.has(entry.position, entry.epoch)]
        is_news = not append.entries and self.committed < append.committed  # what is told between beats needs no answer
        if fresh:
            self._take(fresh[0].position - 1, tuple(fresh), append.sent_ms)
        # What our base stands for is committed, so every later primary has it.
        self._matched = max(self._matched, self.journal.base, append.previous + len(append.entries))
        self._commit(min(append.committed, self._matched))
        if not fresh and not is_news:  # what is fresh is acknowledged when it is on the disk
            self._acknowledge(append.sent_ms, now)

    def _take(self, after: int, entries: tuple[Entry, ...], sent_ms: float) -> None:
        """Put entries behind position `after`; others that are there were never committed."""
        if after < self.journal.last:
            holds(after >= max(self._matched, self.committed), "what was acknowledged would be cut", after=after, matched=self._matched)
            self.journal.cut(after)
            self.durable = min(self.durable, after)
            self._writes = {ticket: (min(position, after), sent) for ticket, (position, sent) in self._writes.items()}
        self.journal.extend(entries)
        self._write(after, entries, entries[-1].position, sent_ms)

    def _commit(self, through: int) -> None:
        if through > self.committed:
            self.committed = through
            self._effects.append(Apply(through))

    def _acknowledge(self, sent_ms: float, now: float) -> None:
        """Also a grant: until it ends we let no one read but the primary."""
        self._granted_until_ms = max(self._granted_until_ms, now + self.timing.lease * self.timing.drift)
        self._granted_epoch = self.epoch
        self._send(self._primary, Ack(self.epoch, min(self.durable, self._matched), sent_ms))

    def _on_snapshot(self, sender: Member, snapshot: Snapshot, now: float) -> None:
        if not self._listens(sender, snapshot.epoch):
            return
        self._heard_ms = now
        if self.journal.has(snapshot.position, snapshot.position_epoch):
            return
        self.journal = Journal(snapshot.position, snapshot.position_epoch)
        self.durable, self.committed, self._matched = 0, snapshot.position, snapshot.position
        ticket = self._ticket()
        self._writes = {ticket: (snapshot.position, -math.inf)}
        self._effects.append(Install(snapshot, ticket))

    # --- small things ---------------------------------------------------------------------------------------------------------

    def _write(self, after: int, entries: tuple[Entry, ...], position: int, sent_ms: float) -> None:
        ticket = self._ticket()
        self._writes[ticket] = (position, sent_ms)
        self._effects.append(Write(after, entries, ticket))

    def _send(self, to: Member, message: Any) -> None:
        self._effects.append(Send(to, message))

    def _ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def _taken(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def check(self) -> None:
        """Raise InvariantBroken unless every structural rule holds."""
        holds(self.promised <= self._fence, "a promise is ahead of the fence", promised=self.promised, fence=self._fence)
        holds(self.journal.base <= self.committed <= self.journal.last, "committed lies outside the journal", committed=self.committed, last=self.journal.last)
        holds(self.durable <= self.journal.last, "durable lies beyond the journal", durable=self.durable, last=self.journal.last)
        holds(self.role is Role.NONE or self.epoch == self.promised, "acts in an epoch that it has not promised", epoch=self.epoch)
