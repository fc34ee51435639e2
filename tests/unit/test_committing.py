"""The thread that writes the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from profilegrid.columns import events_batch

from actors.committing import Writer
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
