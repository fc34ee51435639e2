"""A shard's server without Ray: what its calls do when they come together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from profilegrid.columns import Batch, deletes_batch, events_batch

from actors.clock import now_monotonic_ms
from actors.configs import ShardConfig
from actors.metrics import Meter
from actors.remembering import SEGMENTS_BEHIND_MAX, Rememberer
from actors.serving import ShardServer, Watcher
from grid.catalog import load_catalog
from grid.engine import Engine
from grid.errors import CheckpointCorrupt, WriteFailed
from grid.state.dictionary import Strings
from grid.state.users import Slots
from tests.catalogs import EVERY_KIND
from tests.harness import COUNTS, NOW_MS, PARTITIONS, Copies, Shard, frame_for


def test_a_catalog_installed_twice_at_once_is_logged_once_and_backfills_once(tmp_path: Path) -> None:
    shard = Shard(tmp_path, EVERY_KIND, keep_log=False)
    users = [f"user-{number}" for number in range(50)]
    for number in range(1, 6):
        shard.commit([shard.frame(events_batch([(user, "e", NOW_MS, {"k": "x"}, None) for user in users]), b"p" * 16, number)])
    shard.close()
    source = load_catalog({**EVERY_KIND, "features": {**EVERY_KIND["features"], "count_2": {"count": "e"}}}, 2).source

    async def serve() -> list[int]:
        server = ShardServer(ShardConfig(0, str(tmp_path), 4))
        await server.recover(dict.fromkeys(range(4), 1), 0)
        await asyncio.gather(*(server.install_catalog(2, source) for _ in range(3)))
        while not server.engine.features["count_2"].is_complete:
            await asyncio.sleep(0.01)
        slots = server.find(shard.frame(events_batch([(user, "e", NOW_MS, {}, None) for user in users]), b"q" * 16, 1).ids)
        counts = [server.engine.features[name].columns.read(slots, NOW_MS).values.tolist() for name in ("count", "count_2")]
        await server.stop()
        assert counts[0] == counts[1]
        return counts[1]

    assert asyncio.run(serve()) == [5] * 50


def test_what_a_recovery_holds_of_a_former_catalog_is_in_the_past_of_a_new_feature_when_it_is_committed(tmp_path: Path) -> None:
    shard = Copies(tmp_path)
    shard.log(0, 1, epoch=1, committed=0, events=5)
    shard.log(0, 2, epoch=1, committed=1, events=7)
    # The catalog is on the disk, and the crash came before the log had it.
    shard.store.checkpoints.put_catalog(2, load_catalog({**COUNTS, "features": {**COUNTS["features"], "again": {"count": "e"}}}, 2).source)
    shard.close()

    async def serve() -> list[float]:
        server = ShardServer(ShardConfig(0, str(tmp_path), PARTITIONS))
        await server.recover({}, 0, copied=range(PARTITIONS))
        await asyncio.sleep(0.2)
        assert not server.engine.features["again"].is_complete
        server.replication.committed[0] = 2
        server.replication._has_committed.set()
        while not server.engine.features["again"].is_complete:
            await asyncio.sleep(0.01)
        slots = server.engine.users.slots_of_ordinals(0, np.arange(1))
        counts = [float(server.engine.features[name].columns.read(slots, NOW_MS).values[0]) for name in ("count", "again")]
        server.replication.stop()
        await server.stop()
        return counts

    assert asyncio.run(serve()) == [12, 12]


def damaged_folder(folder: Path) -> None:
    """A shard's data whose RocksDB does not open any more."""
    shard = Shard(folder, EVERY_KIND)
    shard.track([("u", "e", NOW_MS, {}, None)], 1)
    shard.store.checkpoint_all()
    shard.close()
    for manifest in (folder / "rocks").glob("MANIFEST-*"):
        manifest.write_bytes(bytes(byte ^ 0x55 for byte in manifest.read_bytes()))


@contextlib.asynccontextmanager
async def recovered(folder: Path, *, is_dispensable: bool = False) -> AsyncIterator[ShardServer]:
    """A shard that has copies of all partitions."""
    server = ShardServer(ShardConfig(0, str(folder), PARTITIONS))
    await server.recover({}, 0, copied=range(PARTITIONS), is_dispensable=is_dispensable)
    yield server
    server.replication.stop()
    await server.stop()


async def users_after_recovery(folder: Path, *, is_dispensable: bool) -> int:
    async with recovered(folder, is_dispensable=is_dispensable) as server:
        return int(server.engine.users.total)


def test_a_damaged_folder_on_which_nobody_counts_is_set_aside_for_an_empty_one(tmp_path: Path) -> None:
    damaged_folder(tmp_path / "shard-0")
    with pytest.raises(CheckpointCorrupt, match="Corruption"):
        asyncio.run(users_after_recovery(tmp_path / "shard-0", is_dispensable=False))
    assert (tmp_path / "shard-0" / "log").exists(), "what may be all that there is stays where it is"
    assert asyncio.run(users_after_recovery(tmp_path / "shard-0", is_dispensable=True)) == 0
    assert (tmp_path / "shard-0.damaged" / "rocks").is_dir()


@pytest.mark.parametrize("is_dispensable", [False, True])
def test_damage_that_is_met_while_it_runs_is_noted_and_the_database_made_anew_at_the_next_start(tmp_path: Path, is_dispensable: bool) -> None:
    shard = Shard(tmp_path / "shard-0", EVERY_KIND)
    shard.track([("u", "e", NOW_MS, {}, None)], 1)
    shard.store.checkpoint_all()

    class Broken:
        def write(self, batch: object) -> None:
            raise Exception("Corruption: block checksum mismatch")  # as rocksdict does

    whole, shard.store.checkpoints._db = shard.store.checkpoints._db, Broken()
    with pytest.raises(WriteFailed, match="block checksum mismatch"):
        shard.store.checkpoints.put_catalog(9, "{}")
    shard.store.checkpoints._db = whole
    shard.close()
    assert "block checksum mismatch" in (tmp_path / "shard-0" / "DAMAGED").read_text()
    found = asyncio.run(users_after_recovery(tmp_path / "shard-0", is_dispensable=is_dispensable))
    assert found == 1, "a copy that can be read is not given up, though others have all: they may be lost while it is made again"
    assert not (tmp_path / "shard-0" / "DAMAGED").exists()


def test_a_damaged_copy_starts_without_what_lies_behind_a_gap_in_its_log(tmp_path: Path) -> None:
    shard = Copies(tmp_path / "shard-0")
    shard.log(0, 1, epoch=1, committed=0)
    shard.log(1, 1, epoch=1, committed=0)
    shard.log(0, 3, epoch=1, committed=1)
    shard.close()

    async def journals() -> dict[int, tuple[int, bool]]:
        async with recovered(tmp_path / "shard-0") as server:
            return {p: (replica.journal.last - replica.journal.base, replica.is_damaged) for p, replica in server.replication.replicas.items()}

    assert asyncio.run(journals()) == {0: (0, True), 1: (1, False), 2: (0, False), 3: (0, False)}


def test_what_is_held_and_in_the_columns_is_no_entry_of_a_copy_that_begins(tmp_path: Path) -> None:
    shard = Copies(tmp_path / "shard-0")
    shard.log(0, 1, epoch=1, committed=0)
    shard.log(0, 2, epoch=1, committed=1)
    shard.log(0, 3, epoch=1, committed=1)
    shard.close()

    async def journal() -> tuple[int, int]:
        async with recovered(tmp_path / "shard-0") as server:
            assert [position for _, position, _ in server.store.held.of(0)] == [2, 3]
            server.engine.positions[0] = 2
            made = server.replication._make(0).journal
            return made.base, made.last

    assert asyncio.run(journal()) == (2, 3)


async def leading(server: ShardServer) -> None:
    """It becomes primary of all partitions; the other copies have yet to be made."""
    me = server.replication.me
    await server.replication.hear([[partition, [2, me, [me], [me, "other"], ""]] for partition in range(PARTITIONS)], {}, 0.0)
    while not (server.engine.epochs.all() and all(replica.may_write(now_monotonic_ms()) for replica in server.replication.replicas.values())):
        await asyncio.sleep(0.01)


async def committed_together(server: ShardServer, batches: list[Batch], number: int) -> list[int]:
    """Commit batches as one group. Returns by how many entries the journals of the partitions grew."""
    before = [server.replication.replicas[partition].journal.last for partition in range(PARTITIONS)]
    frames = [frame_for(server.engine, batch, b"p" * 16, number + at) for at, batch in enumerate(batches)]
    groups = server.committer.groups
    await asyncio.gather(*[server.committer.offer(frame, 1) for frame in frames])
    assert server.committer.groups == groups + 1
    return [server.replication.replicas[partition].journal.last - before[partition] for partition in range(PARTITIONS)]


def test_events_of_a_group_are_one_entry_of_a_journal_and_deletions_keep_their_place_between_them(tmp_path: Path) -> None:
    shard = Shard(tmp_path, COUNTS)
    users = [shard.user_of(partition) for partition in range(PARTITIONS)]
    shard.close()
    hits, gone = events_batch([(user, "e", NOW_MS, {}, None) for user in users]), deletes_batch(users)
    catalog = load_catalog({**COUNTS, "features": {**COUNTS["features"], "again": {"count": "e"}}}, 2)

    def counts(engine: Engine, slots: Slots) -> list[list[float]]:
        return [feature.columns.read(slots, NOW_MS).values.tolist() for feature in engine.features.values()]

    async def serve() -> None:
        async with recovered(tmp_path) as server:
            await leading(server)
            assert await committed_together(server, [hits, hits, hits], 1) == [1] * PARTITIONS
            assert await committed_together(server, [hits, gone, hits, hits], 4) == [4] * PARTITIONS
            assert await committed_together(server, [hits, hits], 8) == [1] * PARTITIONS
            assert counts(server.engine, server.find(Strings.of(users))) == [[4] * PARTITIONS]
            await server.install_catalog(2, catalog.source)
            while not server.engine.features["again"].is_complete:
                await asyncio.sleep(0.01)
            assert counts(server.engine, server.find(Strings.of(users))) == [[4] * PARTITIONS] * 2

    asyncio.run(serve())
    again = Shard(tmp_path)
    assert counts(again.engine, again.find(users)) == [[4] * PARTITIONS] * 2
    again.close()


def test_a_change_that_a_watcher_may_not_read_just_now_wakes_it_and_is_no_fault_of_who_commits(tmp_path: Path) -> None:
    Shard(tmp_path, COUNTS).close()

    async def serve() -> None:
        async with recovered(tmp_path) as server:
            await leading(server)
            watcher = Watcher(Strings.of(["ann"]), -1)
            server._watchers.add(watcher)
            server.replication.readable_until[:] = 0  # its leases have run out
            server._notify(np.zeros(1, dtype=np.int64))
            assert watcher.changed.is_set()

    asyncio.run(serve())


def test_damage_on_the_disk_is_found_by_looking_and_pages_are_written_anew_from_memory(tmp_path: Path) -> None:
    folder, users = tmp_path / "shard-0", [f"user-{number}" for number in range(200)]
    shard = Shard(folder, EVERY_KIND, keep_log=False)
    shard.track([(user, "e", NOW_MS, {"n": 1.0, "k": "key"}, None) for user in users], 1)
    shard.store.log.roll()
    shard.store.write_history()
    shard.store.checkpoint_all()
    shard.store.checkpoints.compact()
    shard.close()

    async def verified() -> tuple[list[str], list[str], list[str]]:
        server = ShardServer(ShardConfig(0, str(folder), PARTITIONS))
        await server.recover(dict.fromkeys(range(PARTITIONS), 1), 0)
        sound = await server.rememberer.verify()
        flip_where(folder, "*.sst", lambda: any(server.store.checkpoints.damaged_pages(p) for p in range(PARTITIONS)))
        flip_where(folder, "*.arrow", server.store.history.damaged_files)
        found = await server.rememberer.verify()
        again = await server.rememberer.verify()
        assert set(again) <= set(server.status()["problems"])
        await server.stop()
        return sound, found, again

    sound, found, again = asyncio.run(verified())
    assert sound == []
    assert [("written anew" in text, "rocks" in text or ".arrow" in text) for text in found] == [(True, True)] * (len(found) - 1) + [(False, True)]
    assert again == found[-1:], "no shard has another copy of history"
    shard = Shard(folder, keep_log=False)
    assert {(profile["count"], profile["sum"]) for profile in shard.get(users)} == {(1, 1.0)}
    shard.close()


def test_segments_that_wait_for_history_are_never_counted_below_none() -> None:
    waiting = [(Path("a"), 1), (Path("b"), 2)]
    store = SimpleNamespace(unwritten_history=lambda: list(waiting), drop_old_segments=lambda: 0)
    rememberer = Rememberer(cast(Any, None), cast(Any, store), cast(Any, None), cast(Any, None), Meter())

    async def convert(segment: Path, last: int) -> None:
        waiting.clear()  # another has converted them too
        rememberer.segments_behind = 0  # as the look of every second counts them, when the files have just been written

    rememberer._convert_segment = convert  # type: ignore[method-assign]
    asyncio.run(rememberer.convert_closed())
    assert rememberer.segments_behind == 0


def test_history_is_made_between_merges_while_much_is_written(tmp_path: Path) -> None:
    waiting: list[tuple[Path, int]] = []
    behind: list[int] = []

    def merge() -> int:
        number = len(behind)
        behind.append(len(waiting))
        waiting.extend((Path(f"segment-{number}-{one}"), number) for one in range(2))  # what is ingested meanwhile
        return int(number < 20)

    history = SimpleNamespace(merge=merge, drop_old=lambda before_ms, nbytes_max: 0)
    store = SimpleNamespace(history=history, folder=tmp_path, unwritten_history=lambda: list(waiting), drop_old_segments=lambda: 0)
    engine = SimpleNamespace(received_ms=NOW_MS, catalog=SimpleNamespace(history_retention=0))
    committer = SimpleNamespace(committed_at=math.inf)  # no second is quiet
    rememberer = Rememberer(cast(Any, engine), cast(Any, store), cast(Any, committer), cast(Any, None), Meter())

    async def convert(segment: Path, last: int) -> None:
        waiting.remove((segment, last))

    rememberer._convert_segment = convert  # type: ignore[method-assign]
    asyncio.run(rememberer._tidy_up())
    assert len(behind) == 21
    assert max(behind) < SEGMENTS_BEHIND_MAX


def test_a_segment_is_in_history_once_though_who_asked_for_it_goes_away_while_its_files_are_written(tmp_path: Path) -> None:
    segment, is_written = (tmp_path / "segment", 7), threading.Event()
    waiting, written = [segment], list[int]()

    def write_past(past: object, last: int) -> None:
        is_writing.set()
        assert is_written.wait(10)
        written.append(last)
        waiting.clear()

    store = SimpleNamespace(
        history=SimpleNamespace(lost=[]), unwritten_history=lambda: list(waiting), drop_old_segments=lambda: 0,
        drafts=lambda segment: iter(()), touched_by_lost=lambda last: set(), write_past=write_past,
    )  # fmt: skip
    is_writing = threading.Event()
    rememberer = Rememberer(cast(Any, None), cast(Any, store), cast(Any, None), cast(Any, None), Meter())

    async def run() -> None:
        given_up = asyncio.create_task(rememberer._convert())
        assert await asyncio.to_thread(is_writing.wait, 10)
        given_up.cancel()
        another = asyncio.create_task(rememberer._convert())
        await asyncio.sleep(0.05)
        is_written.set()
        await asyncio.wait([given_up, another])
        assert given_up.cancelled()
        another.result()

    asyncio.run(run())
    assert written == [7]


def flip_where(folder: Path, pattern: str, is_found: Callable[[], object]) -> None:
    """Flip a bit of the largest file of a sort, where it is noticed."""
    path = max(folder.rglob(pattern), key=lambda path: path.stat().st_size)
    raw = path.read_bytes()
    for at in range(len(raw) // 2, len(raw), 499):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([raw[at] ^ 1]))
        if is_found():
            return
        path.write_bytes(raw)
    raise AssertionError("no bit is ever noticed")
