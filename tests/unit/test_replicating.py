"""What a shard's copies take of other members' messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from actors.replicating import Replication, nobody
from grid.replication.messages import Append


def replication(catalog_version: int) -> Replication:
    engine = SimpleNamespace(partitions=4, catalog=SimpleNamespace(version=catalog_version))
    return Replication(cast(Any, SimpleNamespace(engine=engine)), cast(Any, SimpleNamespace(member="b")), nobody)


def of_catalog(version: int) -> Any:
    return SimpleNamespace(catalog_version=version)


# Of entries 6, 7, ...: the number of the group that each brings, -1: it begins an epoch.
@pytest.mark.parametrize(
    ("brings", "versions", "is_still", "taken"),
    [
        ([0, 1], [2, 2], False, [6, 7]),
        ([-1, 0, 1], [2, 3], False, [6, 7]),
        ([-1, 0], [3], False, [6]),
        ([-1, 0, 1], [2, 2], True, [6]),
        ([0, -1], [2], True, []),
    ],
)
def test_entries_are_taken_up_to_the_first_of_a_catalog_to_come_or_while_one_comes(
    brings: list[int], versions: list[int], is_still: bool, taken: list[int]
) -> None:
    copies = replication(catalog_version=2)
    copies._is_still = is_still
    plain = [[4, 6 + number, unit] for number, unit in enumerate(brings)]
    message = copies._append_of([4, 5, 3, 5, 17.0, plain], [of_catalog(version) for version in versions])
    assert isinstance(message, Append)
    assert ([entry.position for entry in message.entries], message.committed) == (taken, 5)


def test_nothing_is_said_to_entries_of_a_catalog_that_is_gone() -> None:
    assert replication(catalog_version=3)._append_of([4, 5, 3, 5, 17.0, [[4, 6, 0]]], [of_catalog(2)]) is None


def test_a_damaged_copy_that_leaves_is_no_damage_any_more() -> None:
    mine = replication(1)
    held, committer = SimpleNamespace(forget=lambda partition, sequence: None), SimpleNamespace(let_go=lambda: None, next_sequence=7)
    engine = SimpleNamespace(copied=np.ones(4, dtype=bool), sealed=np.zeros(4, dtype=bool), epochs=np.ones(4), stopped={1: "damaged", 2: "no checkpoint"})
    store = SimpleNamespace(held=held)
    mine.shard = cast(Any, SimpleNamespace(engine=engine, store=store, committer=committer, wake_watchers=lambda: None))
    mine.replicas[2] = cast(Any, None)
    mine._dropping = cast(Any, SimpleNamespace(done=lambda: False))
    mine._leave(2)
    assert (engine.stopped, engine.copied.tolist()) == ({1: "damaged"}, [True, True, False, True])


def test_a_damaged_copy_does_not_answer_its_primary_so_that_it_may_be_made_anew() -> None:
    mine = replication(1)
    heard: list[int] = []
    engine = SimpleNamespace(partitions=4, catalog=SimpleNamespace(version=1), kept=np.ones(4, dtype=bool), stopped={2: "damaged"})
    mine.shard = cast(Any, SimpleNamespace(engine=engine))
    mine._is_flushing = True
    for partition in (1, 2):
        mine.replicas[partition] = cast(Any, SimpleNamespace(on_message=lambda *_, p=partition: heard.append(p) or [], role=None, epoch=1, config=None))
        mine._shown[partition] = cast(Any, (None, 1, None))
    mine.take(msgpack.packb(["a", [[partition, "Append", 4, 5, 3, 5, 17.0, []] for partition in (1, 2)], []]))
    assert heard == [1]
