"""Single steps of the protocol of replicas; what comes of many is the simulation's (tests/simulation)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from grid.errors import InvariantBroken
from grid.replication.controller import Controller
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
    Keep,
    Mismatch,
    Release,
    Save,
    Sealed,
    Send,
    SendSnapshot,
    Snapshot,
    Stale,
    Suspect,
    Write,
)  # fmt: skip
from grid.replication.replica import Replica, Role, Stable, Timing

TIMING = Timing()
BOTH = Config(1, "a", ("a", "b"), ("a", "b"))


def entry(position: int, epoch: int = 1, payload: Any = "x") -> Entry:
    return Entry(epoch, position, payload)


class Member:
    """A replica whose writes end when the test says so, and the messages it sent since it was last asked."""

    def __init__(self, name: str, stable: Stable | None = None) -> None:
        self.replica = Replica(name, stable or Stable(), 0.0, TIMING)
        self.pending: list[int] = []
        self.effects: list[Effect] = []

    def do(self, effects: list[Effect]) -> None:
        self.effects += effects
        self.pending += [effect.ticket for effect in effects if isinstance(effect, Keep | Write)]

    def hears(self, sender: str, message: Any, now: float = 1.0) -> None:
        self.do(self.replica.on_message(sender, message, now))

    def disk_ends(self, now: float = 1.0) -> None:
        while self.pending:
            self.do(self.replica.on_io(self.pending.pop(0), now, is_ok=True))

    def sent(self, kind: type) -> list[Any]:
        found = [effect.message for effect in self.effects if isinstance(effect, Send) and isinstance(effect.message, kind)]
        self.effects = []
        return found

    def has(self, kind: type) -> bool:
        return any(isinstance(effect, kind) for effect in self.effects)


def leading(config: Config = BOTH, stable: Stable | None = None) -> Member:
    """A primary whose first entry is on its own disk; no one has acknowledged it."""
    primary = Member("a", stable)
    primary.hears(CONTROLLER, Announce(config))
    primary.disk_ends()
    primary.effects = []
    return primary


def following(stable: Stable | None = None) -> Member:
    follower = Member("b", stable)
    follower.hears(CONTROLLER, Announce(BOTH))
    follower.disk_ends()
    follower.effects = []
    return follower


def test_a_primary_takes_no_part_in_an_epoch_before_its_promise_is_on_disk() -> None:
    primary = Member("a")
    primary.hears(CONTROLLER, Announce(BOTH))
    assert primary.replica.role is Role.NONE
    primary.disk_ends()
    assert primary.replica.role is Role.PRIMARY


def test_a_write_is_acknowledged_when_it_is_on_every_disk_in_sync_and_not_before() -> None:
    primary = leading()
    primary.hears("b", Ack(1, 1, 1.0))
    late = TIMING.lease * TIMING.drift + 1  # until then a start assumes that it has just granted a lease
    primary.do(primary.replica.write("x", "token", late))
    primary.hears("b", Ack(1, 2, 1.0), late)
    assert not primary.has(Answer), "it is not on the primary's own disk yet"
    primary.disk_ends(late)
    assert Answer("token", "done", 2) in primary.effects
    assert Apply(2) in primary.effects


def test_a_primary_alone_waits_for_its_own_disk_only() -> None:
    primary = leading(Config(1, "a", ("a",), ("a",)))
    assert primary.replica.committed == 1


def test_an_acknowledgement_of_another_epoch_counts_nothing() -> None:
    primary = leading(Config(3, "a", ("a", "b"), ("a", "b")))
    primary.hears("b", Ack(2, 1, 1.0))
    assert primary.replica.committed == 0


def test_a_follower_acknowledges_what_its_disk_has() -> None:
    follower = following()
    follower.hears("a", Append(1, 0, 0, (entry(1), entry(2)), 0, 5.0))
    assert follower.sent(Ack) == []
    follower.disk_ends()
    assert [ack.position for ack in follower.sent(Ack)] == [2]
    follower.hears("a", Append(1, 2, 1, (), 2, 6.0))  # what is told between beats
    assert follower.sent(Ack) == []
    follower.hears("a", Append(1, 2, 1, (), 2, 7.0))  # a beat
    assert [ack.sent_ms for ack in follower.sent(Ack)] == [7.0]


def test_a_follower_cuts_entries_that_the_primary_does_not_have() -> None:
    follower = following(Stable(0, Journal(0, 0, [entry(1), entry(2), entry(3)])))
    follower.hears("a", Append(1, 1, 1, (Entry(2, 2, "y"),), 0, 5.0))
    assert follower.replica.journal.last == 2
    assert follower.replica.journal.entry(2).payload == "y"


def test_a_follower_never_cuts_what_it_acknowledged_in_the_epoch() -> None:
    follower = following()
    follower.hears("a", Append(1, 0, 0, (entry(1), entry(2)), 0, 5.0))
    with pytest.raises(InvariantBroken, match="would be cut"):
        follower.hears("a", Append(1, 1, 1, (Entry(0, 2, "y"),), 0, 5.0))


def test_a_shorter_append_that_comes_late_changes_nothing() -> None:
    follower = following()
    follower.hears("a", Append(1, 0, 0, (entry(1), entry(2)), 0, 5.0))
    follower.hears("a", Append(1, 0, 0, (entry(1),), 0, 5.0))
    assert follower.replica.journal.last == 2


def test_a_follower_says_where_the_logs_part() -> None:
    follower = following(Stable(0, Journal(0, 0, [entry(1), entry(2)])))
    follower.hears("a", Append(1, 7, 3, (), 0, 5.0))
    assert follower.sent(Mismatch) == [Mismatch(1, 2)]


def test_a_sender_of_an_older_epoch_is_told_so() -> None:
    follower = following(Stable(promised=4))
    follower.hears("a", Append(3, 0, 0, (), 0, 5.0))
    assert follower.sent(Stale) == [Stale(4)]


def test_a_primary_that_hears_of_a_newer_promise_steps_down() -> None:
    primary = leading()
    primary.hears("b", Stale(2))
    assert primary.replica.role is Role.NONE


def test_a_restarted_primary_does_not_resume_its_epoch() -> None:
    primary = Member("a", Stable(promised=1))
    primary.hears(CONTROLLER, Announce(BOTH))
    primary.disk_ends()
    assert primary.replica.role is Role.NONE
    primary.hears(CONTROLLER, Announce(Config(2, "a", ("a", "b"), ("a", "b"))))
    primary.disk_ends()
    assert primary.replica.role is Role.PRIMARY


def test_reads_need_a_lease_of_everyone_in_sync_counted_from_when_it_was_asked_for() -> None:
    primary = leading()
    now = 10_000.0
    primary.hears("b", Ack(1, 1, now), now + 50)
    assert primary.replica.may_read(now + TIMING.lease - 1)
    assert not primary.replica.may_read(now + TIMING.lease)


def test_the_end_of_a_write_that_another_primary_asked_for_grants_the_next_no_lease() -> None:
    follower = Member("b")
    follower.hears(CONTROLLER, Announce(Config(1, "c", ("b", "c"), ("a", "b", "c"))))
    follower.disk_ends()
    follower.hears("c", Append(1, 0, 0, (entry(1),), 0, 9e9))  # c's clock is far ahead of a's
    write = follower.pending.pop()
    follower.hears(CONTROLLER, Announce(Config(2, "a", ("a", "b"), ("a", "b", "c"))))
    follower.disk_ends()
    follower.effects = []
    follower.do(follower.replica.on_io(write, 2.0, is_ok=True))
    assert [ack.sent_ms for ack in follower.sent(Ack)] == [-math.inf]


def test_a_promoted_follower_waits_for_the_leases_it_granted_unless_they_were_released() -> None:
    for is_released in (False, True):
        follower = following()
        now = 5_000.0
        follower.hears("a", Append(1, 0, 0, (entry(1),), 1, 0.0), now)
        follower.disk_ends(now)
        if is_released:
            follower.hears("a", Release(1), now)
        follower.hears(CONTROLLER, Announce(Config(2, "b", ("b",), ("a", "b"))), now)
        follower.disk_ends(now)
        assert follower.replica.may_write(now + 1) is is_released
        assert follower.replica.may_write(now + TIMING.lease * TIMING.drift + 1)


def test_a_promoted_follower_hands_over_no_sooner_than_it_may_serve() -> None:
    follower = following()
    now = 5_000.0
    follower.hears("a", Append(1, 0, 0, (entry(1),), 1, 0.0), now)
    follower.disk_ends(now)
    both = Config(2, "b", ("b", "c"), ("a", "b", "c"), "c")
    follower.hears(CONTROLLER, Announce(both), now)
    follower.disk_ends(now)
    begun = follower.replica.journal.last
    follower.hears("c", Ack(2, begun, now), now)
    follower.sent(Sealed)
    follower.do(follower.replica.on_tick(now + 1))
    assert not follower.sent(Sealed), "the one before it may still be read from, by its leave"
    later = now + TIMING.lease * TIMING.drift + 1
    follower.hears("c", Ack(2, begun, later), later)
    follower.do(follower.replica.on_tick(later))
    assert follower.sent(Sealed)


def test_a_damaged_copy_acknowledges_nothing_while_it_counts_as_in_sync() -> None:
    follower = Member("b", Stable(is_damaged=True))
    follower.hears(CONTROLLER, Announce(BOTH))
    follower.disk_ends()
    follower.hears("a", Append(1, 0, 0, (entry(1),), 0, 5.0))
    assert follower.sent(Ack) == []
    follower.hears(CONTROLLER, Announce(Config(2, "a", ("a",), ("a", "b"))))
    follower.disk_ends()
    follower.hears("a", Append(2, 0, 0, (entry(1),), 0, 5.0))
    follower.disk_ends()
    assert len(follower.sent(Ack)) == 1


def test_a_failed_write_ends_the_process() -> None:
    primary = Member("a")
    primary.hears(CONTROLLER, Announce(BOTH))
    primary.do(primary.replica.on_io(primary.pending.pop(), 1.0, is_ok=False))
    assert primary.has(Halt)


def test_one_that_lacks_what_the_primary_forgot_gets_a_snapshot() -> None:
    primary = leading(Config(1, "a", ("a",), ("a", "b")), Stable(0, Journal(5, 1)))
    primary.hears("b", Mismatch(1, 0), 2_000.0)
    assert primary.has(SendSnapshot)
    follower = following()
    follower.hears("a", Snapshot(1, 5, 1, "state"))
    assert (follower.replica.journal.base, follower.replica.committed) == (5, 5)


def test_a_primary_asks_for_a_follower_that_has_all_that_was_ever_acknowledged() -> None:
    # Restarted: only entry 1 is known to be committed, but 2 and 3 may have been acknowledged in the life before.
    journal = Journal(1, 1, [entry(2), entry(3)])
    primary = leading(Config(2, "a", ("a",), ("a", "b")), Stable(1, journal))
    primary.hears("b", Ack(2, 3, 1.0))
    assert primary.sent(Expand) == []
    primary.hears("b", Ack(2, 4, 1.0))
    assert primary.sent(Expand) == [Expand(2, "b")]


def test_a_partition_that_lives_elsewhere_is_dropped() -> None:
    follower = following()
    follower.hears(CONTROLLER, Announce(Config(2, "a", ("a",), ("a",))))
    follower.disk_ends()
    assert follower.has(Drop)


# --- the controller ------------------------------------------------------------------------------------------------------


def controller(config: Config = BOTH, target: tuple[str, ...] = ("a", "b")) -> Controller:
    return Controller({0: (config, target)})


def saved(effects: list[Effect]) -> Config | None:
    return next((effect.config for effect in effects if isinstance(effect, Save)), None)


def test_a_config_is_announced_when_it_is_on_disk_and_not_before() -> None:
    arbiter = controller()
    effects = arbiter.on_message(0, "b", Suspect(1))
    assert saved(effects) == Config(2, "b", ("b",), ("a", "b"))
    assert arbiter.config(0) == BOTH
    announced = arbiter.on_io(0, 1, is_ok=True)
    assert [effect.to for effect in announced if isinstance(effect, Send)] == ["a", "b"]
    assert arbiter.config(0).epoch == 2


@pytest.mark.parametrize(("sender", "message"), [("c", Suspect(1)), ("b", Suspect(0)), ("b", Expand(1, "b")), ("b", Sealed(1))])
def test_what_is_stale_or_of_one_who_may_not_is_answered_with_the_config_in_force(sender: str, message: Any) -> None:
    assert controller().on_message(0, sender, message) == [Send(sender, Announce(BOTH))]


def test_a_primary_that_started_anew_gets_an_epoch_of_its_own() -> None:
    assert saved(controller().on_message(0, "a", Hello(1, is_fresh=True, is_damaged=False, knows_config=False))) == Config(2, "a", ("a", "b"), ("a", "b"))


def test_a_damaged_copy_leaves_the_in_sync_set_but_never_as_the_last() -> None:
    damaged = Hello(1, is_fresh=True, is_damaged=True, knows_config=False)
    assert saved(controller().on_message(0, "a", damaged)) == Config(2, "b", ("b",), ("a", "b"))
    alone = Config(1, "a", ("a",), ("a", "b"))
    assert saved(controller(alone).on_message(0, "a", damaged)) is None


def test_a_move_lets_the_new_one_catch_up_hands_over_and_drops_the_old_one() -> None:
    arbiter = controller(Config(1, "a", ("a",), ("a",)), ("a",))

    def step(effects: list[Effect]) -> Config:
        ticket = next(effect.ticket for effect in effects if isinstance(effect, Save))
        arbiter.on_io(0, ticket, is_ok=True)
        return arbiter.config(0)

    step(arbiter.place(0, ("c",)))
    assert step(arbiter.on_tick()) == Config(2, "a", ("a",), ("a", "c"))
    assert arbiter.on_tick() == [], "it waits for the copy"
    assert step(arbiter.on_message(0, "a", Expand(2, "c"))) == Config(3, "a", ("a", "c"), ("a", "c"))
    assert step(arbiter.on_tick()) == Config(4, "a", ("a", "c"), ("a", "c"), "c")
    assert step(arbiter.on_message(0, "a", Sealed(4))) == Config(5, "c", ("c",), ("a", "c"))
    assert step(arbiter.on_tick()) == Config(6, "c", ("c",), ("c",))
    assert arbiter.is_settled(0)


def test_a_member_whose_disk_is_gone_leaves_as_soon_as_another_is_meant_to_take_its_place() -> None:
    arbiter = controller(Config(3, "a", ("a",), ("a", "b")), ("a", "b"))  # b is silent, and out of the set
    (save,) = (effect for effect in arbiter.place(0, ("a", "new")) if isinstance(effect, Save))
    arbiter.on_io(0, save.ticket, is_ok=True)
    assert saved(arbiter.on_tick()) == Config(4, "a", ("a",), ("a", "new"))


def test_a_member_in_sync_stays_until_another_has_all() -> None:
    arbiter = controller(Config(3, "a", ("a", "b"), ("a", "b")), ("a", "b"))
    (save,) = (effect for effect in arbiter.place(0, ("a", "new")) if isinstance(effect, Save))
    arbiter.on_io(0, save.ticket, is_ok=True)
    assert saved(arbiter.on_tick()) == Config(4, "a", ("a", "b"), ("a", "b", "new"))
