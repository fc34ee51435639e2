"""A checkpoint is of one moment, though it is copied while groups go on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from profilegrid.columns import events_batch

from grid.group import Group
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, PARTITIONS, Shard, pages_of

USERS = [f"user-{number}" for number in range(60)]


def busy(shard: Shard, number: int, seed: int) -> None:
    """Events of old and new users, attributes, an erasure."""
    chance = random.Random(seed)
    users = [*chance.sample(USERS, 20), f"new-{number}"]
    shard.track([(user, "e", NOW_MS + chance.randrange(10**6), {"n": 1.0, "c": "x", "k": f"k{chance.randrange(9)}"}, None) for user in users], number)
    shard.set(chance.sample(USERS, 3), [{"city": "Rome", "note": "n" * number, "hobbies": {"a"}}] * 3, number)
    if number % 3 == 0:
        shard.delete([chance.choice(USERS)], number)


@pytest.mark.parametrize("copied_before", [0, 1, 3, 1000])
def test_a_copy_is_of_its_moment_whatever_is_applied_while_it_is_made(tmp_path: Path, copied_before: int) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    for number in range(1, 8):
        busy(shard, number, number)
    shard.store.write_shard(shard.store.dump_shard())
    for partition in range(PARTITIONS):
        copy = shard.store.begin_copy(partition)
        moment = {key: blob for key, blob in pages_of(shard.engine, shard.store).items() if key[1] == partition}
        rows = int(shard.engine.users.next_ordinal[partition])
        for _ in range(copied_before):
            copy.copy_next()
        busy(shard, 100 + partition, 50 + partition)
        while copy.copy_next():
            pass
        shard.engine.copying = None
        for (key, number), blob in copy.dump.pages.items():
            if key != "ids":  # ids of later users may be in the page; the manifest's next ordinal leaves them out
                assert blob == moment[key, partition, number], key
        assert copy.dump.facts["next_ordinal"] == rows
        shard.store.write_partition(copy.dump)
    now = pages_of(shard.engine, shard.store)
    shard.crash()
    assert not shard.recovery.stopped
    assert pages_of(shard.engine, shard.store) == now
    shard.close()


def test_an_abandoned_copy_leaves_its_pages_to_the_next_checkpoint(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND, keep_log=False)
    busy(shard, 1, 1)
    copy = shard.store.begin_copy(0)
    copy.copy_next()
    copy.abandon()
    shard.engine.copying = None
    shard.store.checkpoint_all()
    now = pages_of(shard.engine, shard.store)
    shard.store.log.roll()
    shard.store.write_history()
    assert shard.store.drop_old_segments() == 1
    shard.crash()
    assert pages_of(shard.engine, shard.store) == now
    shard.close()


def test_a_group_applied_in_steps_gives_the_same_pages_as_in_one_and_whole_partitions_between(tmp_path: Path) -> None:
    shards = [Shard(tmp_path / name, EVERY_KIND) for name in ("whole", "steps")]
    rows = [(f"user-{i % 37}", "e", NOW_MS + i, {"n": float(i), "c": "xyz"[i % 3], "k": f"k{i % 11}"}, None) for i in range(400)]
    for shard in shards:
        frames = [shard.frame(events_batch(rows[:250]), b"p" * 16, 1), shard.frame(events_batch(rows[250:]), b"q" * 16, 1)]
        judged = [item for frame in frames for item in shard.engine.prepare([frame], NOW_MS).judged]
        group = Group(NOW_MS, shard.engine.catalog.version, judged, [])
        shard.store.append(group, is_durable=False)
        if shard is shards[0]:
            shard.engine.apply(group)
            continue
        before = shard.engine.positions.copy()
        reached = [int((shard.engine.positions > before).sum()) for _ in shard.engine.apply_in_steps(group, 10)]
        assert reached == list(range(1, PARTITIONS + 1))
    whole, steps = shards
    assert pages_of(whole.engine, whole.store) == pages_of(steps.engine, steps.store)
    assert [item.slots.size for item in judged if item.slots is not None] == [250, 150]
    assert steps.engine.positions.tolist() == whole.engine.positions.tolist()
    for shard in shards:
        shard.close()
