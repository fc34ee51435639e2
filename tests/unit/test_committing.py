"""The thread that writes the log, and the pipeline that it is a part of."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest
from profilegrid.columns import events_batch

from actors import committing
from actors.committing import Committer, Writer
from actors.metrics import Meter
from grid.errors import WriteFailed
from grid.frame import Frame
from grid.group import Group, touched_positions
from grid.storage.log import read_segment
from tests.catalogs import EVERY_KIND
from tests.harness import NOW_MS, Shard


def test_behind_a_group_that_could_not_be_written_no_other_is(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    batch = events_batch([("ann", "e", NOW_MS, {}, None)])
    groups = [shard.engine.prepare([shard.frame(batch, b"p" * 16, number)], NOW_MS) for number in (1, 2, 3, 4)]

    class Unwritable(Group):
        def encode(self) -> tuple[dict[str, Any], list[bytes | memoryview]]:
            raise MemoryError

    groups[1] = Unwritable(groups[1].received_ms, groups[1].catalog_version, groups[1].judged, groups[1].reserved)

    async def write() -> list[Any]:
        writer, called = Writer(shard.store), list[str]()
        asked = [writer.append(group, is_durable=True) for group in groups[:3]]
        first = await asyncio.gather(*asked, return_exceptions=True)
        asked = [writer.append(groups[3], is_durable=True), writer.call(lambda: called.append("a catalog's record"))]
        later = await asyncio.gather(*asked, return_exceptions=True)
        writer.stop()
        assert called == []
        return [*first, *later]

    outcomes = asyncio.run(write())
    assert all(isinstance(outcome, MemoryError) for outcome in outcomes[1:])  # the first may have been written with the second
    logged = [record for segment in shard.store.log.segments() for record in read_segment(segment) if record.header["kind"] == "group"]
    partition = int(groups[0].judged[0].frame.partitions[0])
    assert [position for record in logged for place, position in touched_positions(record.header) if place == partition] == [
        int(groups[0].judged[0].positions[0])
    ]
    shard.close()


def test_the_number_of_the_next_record_counts_those_that_wait_to_be_written(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    batch = events_batch([("ann", "e", NOW_MS, {}, None)])
    groups = [shard.engine.prepare([shard.frame(batch, b"p" * 16, number)], NOW_MS) for number in (1, 2)]

    async def write() -> tuple[list[int], int]:
        writer = Writer(shard.store)
        expected = [writer.next_sequence]
        asked = [writer.append(groups[0], is_durable=True)]
        asked.append(writer.call(lambda: None))
        asked.append(writer.call(lambda: shard.store.log.append({"kind": "other", "items": []}, []), writes=True))
        expected.append(writer.next_sequence)
        asked.append(writer.append(groups[1], is_durable=True))
        await asyncio.gather(*asked)
        writer.stop()
        return expected, writer.next_sequence

    expected, following = asyncio.run(write())
    assert [group.sequence for group in groups] == expected
    assert following == shard.store.log.next_sequence
    shard.close()


def small(shard: Shard, number: int) -> Frame:
    return shard.frame(events_batch([("ann", "e", NOW_MS, {}, None)]), b"p" * 16, number)


async def committed(shard: Shard, numbers: list[int]) -> Committer:
    """Frames committed one after another: each finds the pipeline empty."""
    committer = Committer(shard.engine, shard.store, lambda touched: None, Meter())
    committer.start()
    for number in numbers:
        reply = await committer.commit(small(shard, number), 100)
        assert (reply.accepted, reply.duplicates) == (1, 0)  # a retry gets its first reply again
    return committer


def records(shard: Shard) -> list[int]:
    return [record.sequence for segment in shard.store.log.segments() for record in read_segment(segment) if record.header["kind"] == "group"]


def test_a_small_group_that_nothing_is_before_is_written_by_the_loop_and_synced_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    wrote, seen = list[str](), list[int]()
    append, sync = shard.store.append, shard.store.log.sync

    def appended(group: Group, *, is_durable: bool) -> None:
        wrote.append(threading.current_thread().name)
        append(group, is_durable=is_durable)

    def synced() -> None:
        seen.append(int(shard.engine.positions.sum()))
        sync()

    monkeypatch.setattr(shard.store, "append", appended)
    monkeypatch.setattr(shard.store.log, "sync", synced)

    async def write() -> None:
        committer = await committed(shard, [1, 2, 3])
        assert committer.is_idle
        await committer.stop()

    asyncio.run(write())
    assert wrote == ["MainThread"] * 3
    before = seen[0]
    assert seen == [before, before + 1, before + 2]  # when each was synced it was not applied
    assert len(records(shard)) == 3
    shard.close()


def test_a_retry_of_a_small_group_is_answered_and_not_logged(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND)

    async def write() -> None:
        await (await committed(shard, [1, 2, 2, 1])).stop()

    asyncio.run(write())
    assert len(records(shard)) == 2
    shard.close()


def test_a_small_group_whose_sync_fails_is_not_acknowledged_and_the_shard_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(tmp_path, EVERY_KIND)
    stopped = list[WriteFailed]()

    def stop(error: WriteFailed) -> NoReturn:
        stopped.append(error)
        raise asyncio.CancelledError  # the process ends here

    monkeypatch.setattr(committing, "stop_at_once", stop)

    async def write() -> None:
        committer = await committed(shard, [1])

        def broken(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("grid.storage.log.os.fdatasync", broken)
        reply = committer.offer(small(shard, 2), 100)
        await asyncio.wait([reply], timeout=0.5)
        assert not reply.done()
        assert not committer.is_idle

    asyncio.run(write())
    assert "Input/output error" in str(stopped[0])
    monkeypatch.undo()
    shard.close()
