"""What is logged and not known to be committed is held back from the columns, through crashes, and what another entry replaced is dead."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from profilegrid.columns import events_batch

from grid.group import Group
from grid.storage.log import read_segment
from tests.harness import COUNTS, NOW_MS, PARTITIONS, Copies, past_rows


def damage_body(shard: Copies, sequence: int) -> None:
    """One bit of a record's rows."""
    shard.store.log.sync()
    (record,) = [record for segment in shard.store.log.segments() for record in read_segment(segment) if record.sequence == sequence]
    assert record.body is not None
    file = Path(record.file)
    raw = bytearray(file.read_bytes())
    raw[raw.index(bytes(record.body)) + 1] ^= 1
    file.write_bytes(raw)


@pytest.fixture
def shard(tmp_path: Path) -> Copies:
    return Copies(tmp_path / "s")


def test_a_crash_applies_what_the_log_knows_to_be_committed_and_holds_the_rest(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=1, events=7)
    shard.log(1, 1, epoch=1, committed=0, events=3)
    shard.crash()
    assert [shard.count(p) for p in range(PARTITIONS)] == [5, 0, 0, 0]
    assert [(epoch, position) for epoch, position, _ in shard.store.held.of(0)] == [(1, 2)]
    assert [(epoch, position) for epoch, position, _ in shard.store.held.of(1)] == [(1, 1)]
    shard.commit_held(0, 2)
    assert shard.count(0) == 12
    assert (int(shard.engine.positions[0]), int(shard.engine.entry_epochs[0])) == (2, 1)
    shard.commit_held(1, 1)
    assert (shard.count(1), len(shard.store.held)) == (3, 0)


def test_an_entry_of_a_later_epoch_takes_the_place_of_what_was_never_committed(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=1, events=100)
    shard.log(0, 3, epoch=1, committed=1, events=100)
    shard.log(0, 2, epoch=2, committed=1, events=2)
    shard.crash()
    assert [(epoch, position) for epoch, position, _ in shard.store.held.of(0)] == [(2, 2)]
    shard.commit_held(0, 2)
    assert shard.count(0) == 7
    assert shard.past() == 7


def test_a_checkpoint_does_not_cover_what_is_held_nor_does_history_take_it(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=1, events=7)
    shard.crash()
    shard.store.checkpoint_all()
    shard.store.log.roll()
    assert shard.store.write_history() == 0
    shard.crash()
    assert shard.count(0) == 5
    shard.commit_held(0, 2)
    assert shard.count(0) == 12
    assert shard.store.write_history() == 1
    assert len(past_rows(shard)) == 12


def test_the_beginning_of_an_epoch_takes_a_position_and_nothing_else(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    start = Group(NOW_MS, shard.engine.catalog.version, [], [], entries={0: (2, 1), 3: (2, 0)}, starts={0: 2, 3: 1})
    shard.store.append(start, is_durable=True)
    shard.log(0, 3, epoch=2, committed=2, events=1)
    shard.crash()
    assert (shard.count(0), int(shard.engine.positions[0]), int(shard.engine.positions[3])) == (5, 2, 0)
    assert [position for _, position, _ in shard.store.held.of(3)] == [1]
    shard.commit_held(3, 1)
    assert (int(shard.engine.positions[3]), int(shard.engine.entry_epochs[3])) == (1, 2)


def test_a_group_of_which_some_partitions_are_committed_is_taken_in_parts(shard: Copies) -> None:
    engine = shard.engine
    engine.epochs[:] = 1
    frame = shard.frame(events_batch([(user, "e", NOW_MS, {"n": 1}, None) for user in shard.users]), b"p" * 16, 1)
    engine.epochs[:] = 0
    group = engine.prepare([frame], NOW_MS)
    group.entries = dict.fromkeys(range(PARTITIONS), (1, 0))
    shard.store.append(group, is_durable=True)
    shard.crash()
    for done, partition in enumerate((2, 0, 3, 1)):
        assert sum(shard.count(p) for p in range(PARTITIONS)) == done
        shard.commit_held(partition, 1)
        assert shard.count(partition) == 1
    header, body = group.encode()
    again = Group.decode(msgpack.unpackb(msgpack.packb(header), strict_map_key=False), memoryview(b"".join(body)), 1)
    assert (again.entries, again.places()) == (group.entries, group.places())


def test_a_copy_that_has_no_checkpoint_stops_alone_where_the_log_no_longer_begins_at_its_first_record(shard: Copies) -> None:
    for position in (1, 2):
        shard.log(0, position, epoch=1, committed=position - 1, events=5)
        shard.commit_held(0, position)
        shard.store.checkpoint_all()
        shard.store.log.roll()
    shard.store.write_history()
    shard.store.keep_log = False
    assert shard.store.drop_old_segments() > 0
    shard.log(0, 3, epoch=1, committed=2, events=5)
    shard.store.discard([2])  # as when a copy of it was about to come
    shard.crash()
    assert list(shard.engine.stopped) == [2]
    shard.commit_held(0, 3)
    assert shard.count(0) == 15
    shard.log(1, 1, epoch=1, committed=0)
    assert shard.store.log.next_sequence > 3


def test_behind_a_gap_whose_loss_was_accepted_all_that_is_there_counts(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=0, events=7)
    shard.log(0, 5, epoch=2, committed=2, events=100)
    shard.crash()
    assert list(shard.engine.stopped) == [0]
    shard.crash(accept_loss=True)
    assert not shard.engine.stopped
    assert len(shard.recovery.lost) == 1
    assert shard.count(0) == 12
    assert int(shard.engine.positions[0]) == 4
    assert [(epoch, position) for epoch, position, _ in shard.store.held.of(0)] == [(2, 5)]


def test_what_was_held_before_a_damaged_record_counts_when_its_loss_was_accepted(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=0, events=7)
    damaged = shard.log(0, 3, epoch=1, committed=0, events=100)
    shard.log(0, 4, epoch=1, committed=0, events=9)
    damage_body(shard, damaged.sequence)
    shard.crash()
    assert list(shard.engine.stopped) == [0]
    shard.crash(accept_loss=True)
    assert not shard.engine.stopped
    assert shard.count(0) == 12
    assert [(epoch, position) for epoch, position, _ in shard.store.held.of(0)] == [(1, 4)]
    shard.commit_held(0, 4)
    assert shard.count(0) == 21


def test_a_catalog_behind_what_is_held_does_not_make_it_pass_for_applied(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.apply_catalog({**COUNTS, "features": {**COUNTS["features"], "again": {"count": "e"}}})
    shard.crash()
    assert (shard.count(0), shard.store.held.last(0)) == (0, 1)
    shard.commit_held(0, 1)
    assert shard.count(0) == 5


def given_up(shard: Copies, partition: int) -> None:
    """A partition's state is void from now on: a copy of another's is to come in its place."""
    shard.store.held.forget(partition, shard.store.log.next_sequence)
    shard.engine.copied[partition] = False


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_partition_that_was_given_up_is_not_taken_up_again_after_a_crash_without_what_history_left_out(shard: Copies, has_checkpoint: bool) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(1, 1, epoch=1, committed=0, events=3)
    for partition in (0, 1):
        shard.commit_held(partition, 1)
    if has_checkpoint:
        shard.store.checkpoint_all()
    given_up(shard, 0)
    shard.store.log.roll()
    assert shard.store.write_history() == 1
    shard.crash()
    assert not shard.engine.stopped
    for partition in (0, 1):
        shard.commit_held(partition, 1)
    assert [shard.count(0), shard.count(1)] == [0, 3]
    assert [int(shard.engine.positions[p]) for p in (0, 1)] == [0, 1]
    assert len(past_rows(shard)) == 3


def test_a_partition_that_was_given_up_in_vain_is_as_before_when_nothing_went_on_without_it(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.commit_held(0, 1)
    given_up(shard, 0)
    shard.crash()
    shard.commit_held(0, 1)
    assert (shard.count(0), shard.past()) == (5, 5)


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_what_comes_after_a_partition_was_given_up_and_dropped_stays(shard: Copies, has_checkpoint: bool) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.commit_held(0, 1)
    shard.store.checkpoint_all()
    given_up(shard, 0)
    for _ in shard.engine.drop_in_steps(0):
        pass
    shard.store.discard([0], anew=[0])
    shard.engine.copied[0] = True
    shard.log(0, 1, epoch=2, committed=0, events=2)
    shard.commit_held(0, 1)
    shard.past()
    if has_checkpoint:
        shard.store.checkpoint_all()
    shard.log(0, 2, epoch=2, committed=1, events=1)
    shard.crash()
    shard.commit_held(0, 2)
    assert (shard.count(0), shard.past()) == (3, 3)


def test_a_cut_whose_own_record_the_crash_took_spares_what_is_logged_in_its_place(shard: Copies) -> None:
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=0, events=100)
    shard.store.held.cut(0, 1, shard.store.log.next_sequence + 5)
    shard.store.write_shard(shard.store.dump_shard())
    shard.crash()
    shard.log(0, 2, epoch=2, committed=1, events=7)
    shard.crash()
    shard.commit_held(0, 2)
    assert (shard.count(0), shard.past()) == (12, 12)


def test_what_is_cut_after_a_moment_was_not_known_at_it(shard: Copies) -> None:
    held = shard.store.held
    for position in (1, 2, 3):
        shard.log(0, position, epoch=1, committed=0)
    closed = shard.store.log.next_sequence - 1
    assert held.known_through(0, closed, 3) == 3
    held.cut(0, 1, shard.store.log.next_sequence)
    assert (held.known_through(0, closed, 3), held.known_through(1, closed, 3), held.known_through(0, closed + 1, 3)) == (1, 3, 3)


def test_an_epoch_that_began_before_the_catalog_came_makes_no_feature_younger_than_its_events(tmp_path: Path) -> None:
    shard = Copies(tmp_path, catalog=None)
    shard.store.append(Group(NOW_MS, 0, [], [], entries={0: (1, 0)}, starts={0: 1}), is_durable=True)
    shard.apply_catalog(COUNTS)
    shard.log(0, 2, epoch=1, committed=1, events=5)
    shard.log(0, 3, epoch=1, committed=2)
    shard.crash()
    assert (shard.recovery.incomplete, shard.count(0)) == ([], 5)


def test_a_cut_in_the_midst_of_a_checkpoint_keeps_what_is_dead_out_of_history_after_a_crash(shard: Copies) -> None:
    shard.log(1, 1, epoch=1, committed=0, events=100)
    with shard.midst_of_a_checkpoint():
        shard.store.held.cut(1, 0, shard.store.log.next_sequence)
        shard.log(1, 1, epoch=2, committed=0, events=2)
        shard.commit_held(1, 1)
    shard.crash()
    assert (shard.count(1), shard.past()) == (2, 2)
