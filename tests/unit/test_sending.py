"""What members are told, in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest

from actors import sending
from actors.sending import PIECE_GROUPS_MAX, Sending
from grid.replication.messages import Ack, Append, Entry


class Lane:
    """Takes what is asked."""

    failed = None

    def __init__(self) -> None:
        self.told: list[Any] = []

    def ask(self, _: int, payload: bytes) -> asyncio.Future[bytes]:
        self.told.append(msgpack.unpackb(payload, strict_map_key=False))
        return asyncio.get_running_loop().create_future()


class Group:
    """One block of one partition, as far as sending looks at it."""

    def __init__(self, partition: int, position: int) -> None:
        self.partition, self.position, self.nbytes = partition, position, 100

    def places(self) -> dict[int, list[int]]:
        return {self.partition: [self.position]}

    def encode(self) -> tuple[dict[str, Any], list[bytes]]:
        return {"at": [self.partition, self.position]}, [b""]


def append(partition: int, previous: int, count: int) -> tuple[int, Append]:
    entries = tuple(Entry(4, position, Group(partition, position)) for position in range(previous + 1, previous + 1 + count))
    return partition, Append(4, previous, 3, entries, previous, 17.0)


def test_who_has_much_to_catch_up_with_is_told_in_pieces_each_behind_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane()
    monkeypatch.setattr(sending, "Lane", lambda *_: lane)

    async def tell() -> None:
        tasks: list[asyncio.Task[Any]] = []

        def in_background(work: Coroutine[Any, Any, Any]) -> None:
            tasks.append(asyncio.create_task(work))

        replication = SimpleNamespace(me="a", lanes={"b": "host:1"}, in_background=in_background)
        mine = Sending(cast(Any, replication))
        mine.send("b", [append(0, 10, 20), append(1, 5, 20), (2, Ack(4, 9, 1.0))])
        mine.send("b", [append(0, 30, 1), append(3, 0, 0)])
        await asyncio.gather(*tasks)
        mine.send("b", [append(0, 31, 1)])

    asyncio.run(tell())
    assert [len(units) for _, _, units in lane.told] == [PIECE_GROUPS_MAX] * 3 + [41 - 3 * PIECE_GROUPS_MAX, 1]
    positions: dict[int, int] = {0: 10, 1: 5, 3: 0}
    for _, items, units in lane.told:
        for partition, kind, *fields in items:
            if kind == "Append":
                _, previous, previous_epoch, _, _, entries = fields
                assert previous == positions[partition]
                assert previous_epoch == (3 if previous in (10, 5, 0, 30, 31) else 4)
                for _, position, unit in entries:
                    assert msgpack.unpackb(units[unit][0])["at"] == [partition, position]
                positions[partition] += len(entries)
    assert positions == {0: 32, 1: 25, 3: 0}
    assert [kind for _, items, _ in lane.told for _, kind, *_ in items].count("Ack") == 1
    assert {sender for sender, _, _ in lane.told} == {"a"}
