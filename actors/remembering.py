"""What a shard does with its past, beside serving: log segments into history, merges, retention, and erasures taken to the disk.

closed segment --decode (thread)--> drafts --users (loop, in turns)--> files (thread) --> segment dropped once a checkpoint covers it
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from actors.calls import in_thread
from actors.clock import now_ms
from actors.committing import Committer, stop_at_once
from actors.metrics import Meter
from grid.engine import Engine
from grid.errors import GridError, HistoryCorrupt, WriteFailed
from grid.state.erasures import Erasure
from grid.storage.history import release_memory
from grid.storage.past import PastEvents
from grid.storage.renewing import ROCKS_FOLDER, folder_aside
from grid.storage.store import Store

log = logging.getLogger("profilegrid")
# Closed segments that may wait for history before ingest is slowed.
SEGMENTS_BEHIND_MAX = 8
# A busy loop commits a group between two turns of history: with a draft a turn, 330 a segment, it waited for so many.
TURN_S = 0.002
UPKEEP_EVERY_S, ERASE_AGAIN_S, HELD_AGAIN_S, VERIFY_EVERY_S = 60.0, 600.0, 0.05, 86_400.0


class Rememberer:
    """History and erasures of one shard. Lives in the shard's loop; the work is done in threads."""

    def __init__(self, engine: Engine, store: Store, committer: Committer, checkpoint: Callable[[], Awaitable[Any]], meter: Meter) -> None:
        self._engine, self._store, self._committer, self._checkpoint, self._meter = engine, store, committer, checkpoint, meter
        self._converting = asyncio.Lock()
        # Whoever holds it may rely on files to stay: merges, retention and erasures wait.
        self.upkeep = asyncio.Lock()
        self._kept_s = 0.0
        self._erase_from = 0.0
        self._erasing = asyncio.Lock()
        self.segments_behind = 0
        self.is_erasing = False
        self.problem = ""
        # What the last look at all that lies on the disk found.
        self.damage: list[str] = []

    # --- history ------------------------------------------------------------------------------------------------------

    async def keep_forever(self) -> None:
        """History, upkeep and erasures when they are due."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.keep()
                self.problem = ""
            except WriteFailed as error:  # of RocksDB: what it holds is unknown until it is opened again
                stop_at_once(error)
            except Exception as error:
                if isinstance(error, HistoryCorrupt):
                    self.mend({error.partition}, str(error))
                log.exception("history waits; it is tried again")
                self.problem = f"history waits: {error}"

    async def keep(self) -> None:
        """What is due now."""
        await self._convert_if_due()
        if self.is_erasure_due() and time.monotonic() > self._erase_from:
            self._erase_from = time.monotonic() + ERASE_AGAIN_S  # what does not succeed, by a damaged file say, is not tried every second
            await self.erase()
        if time.monotonic() - self._kept_s > UPKEEP_EVERY_S and not self.upkeep.locked():
            self._kept_s = time.monotonic()
            await self._tidy_up()

    async def _convert_if_due(self) -> None:
        """History waits for a quiet second, but not beyond half of what may wait: a burst has the cores to itself."""
        self._count_segments()
        if self.segments_behind >= SEGMENTS_BEHIND_MAX // 2 or time.monotonic() - self._committer.committed_at > 1.0:
            await self._convert()

    async def catch_up(self, sequence: int) -> None:
        """Return when history has every record up to `sequence`; the segment that is being written is closed for it."""
        if sequence <= self._store.history.through:
            return
        async with self._committer.quiet():
            await self._committer.call(self._store.log.roll)
        await self._convert()
        while self._store.history.through < sequence:  # what is held of others' groups is not known to be committed yet
            await asyncio.sleep(HELD_AGAIN_S)
            await self._convert()

    async def _convert(self) -> None:
        async with self._converting:
            await self.convert_closed()

    def _count_segments(self) -> None:
        """Counted anew each time: counted down by one who converts, beside another who counts, it went below 0."""
        self.segments_behind = len(self._store.unwritten_history())

    async def convert_closed(self, through: float = math.inf) -> None:
        """Bring what is closed into history, up to a record; the caller is `still`."""
        waiting = [(segment, last) for segment, last in self._store.unwritten_history() if last <= through]
        for segment, last in waiting:
            await self._convert_segment(segment, last)
            self._meter.sweeps.labels("history").inc()
            self._count_segments()
        if waiting:
            await in_thread(self._store.drop_old_segments)
            await asyncio.to_thread(release_memory)

    async def _convert_segment(self, segment: Path, last: int) -> None:
        parts, past = self._store.drafts(segment), PastEvents()
        while drafts := await in_thread(next, parts, None):
            began = time.perf_counter()
            for draft in drafts:
                self._store.find_users(draft)
                if time.perf_counter() - began > TURN_S:
                    await asyncio.sleep(0)
                    began = time.perf_counter()
            await in_thread(self._store.history.gather, past, drafts)
        if touched := self._store.touched_by_lost(last):
            self.mend(touched, "; ".join(str(record.fault) for record in self._store.history.lost))
        try:
            await in_thread(self._store.write_past, past, last)
        except WriteFailed as error:  # whoever wanted it
            stop_at_once(error)

    def mend(self, partitions: set[int], why: str) -> None:
        """Something of the past of partitions is damaged. Those that are in sync elsewhere too come anew from there: the shard starts over without
        them. Returns when there is none."""
        replication = self._committer.replication
        elsewhere = {partition for partition in partitions if replication is not None and replication.is_elsewhere(partition)}
        if elsewhere:
            self._store.note_damage(elsewhere, why)
            stop_at_once(GridError(f"{why}: partitions {sorted(elsewhere)} are copied anew from other shards"))

    async def _tidy_up(self) -> None:
        """Merge small files; drop what is older than the catalog keeps, or more than this shard's part of half the disk."""
        history = self._store.history
        async with self.upkeep:
            while await in_thread(history.merge):
                self._meter.sweeps.labels("merge").inc()
                await self._convert_if_due()  # merges of forty segments take a busy core a minute
            before_ms = self._engine.received_ms - self._engine.catalog.history_retention
            folder = self._store.folder
            shards = sum(1 for _ in folder.parent.glob("shard-*")) or 1
            bound = shutil.disk_usage(folder).total // 2 // shards
            dropped = await in_thread(history.drop_old, before_ms, bound)
            self._meter.sweeps.labels("retention").inc()
            if dropped:
                log.info("history: dropped %d files", dropped)

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No file of history or log comes or goes meanwhile."""
        async with self.upkeep, self._converting:
            yield

    # --- what lies on the disk -------------------------------------------------------------------------------------------

    async def verify_forever(self) -> None:
        """Read all that counts once a day, as every start does with the pages: damage is found while there is another copy, or all of it in memory."""
        while True:
            await asyncio.sleep(VERIFY_EVERY_S)
            try:
                await self.verify()
            except Exception:
                log.exception("not all that lies on the disk could be verified; it is tried again tomorrow")

    async def verify(self) -> list[str]:
        """Read pages and history from the disk. Damaged pages are written anew, from memory; partitions whose history is damaged come anew from
        other shards, if they are there. Returns what was found."""
        store, found = self._store, list[str]()
        store.checkpoints.read_from_disk()
        for partition in store.kept():
            for key, number, why in await asyncio.to_thread(store.checkpoints.damaged_pages, partition):
                store.write_again(partition, key, number)
                found.append(f"{why}; it was written anew")
        if found:
            await self._checkpoint()
        damaged = await asyncio.to_thread(store.history.damaged_files)
        self.damage = found = found + [str(error) for error in damaged]
        self._meter.sweeps.labels("verify").inc()
        for text in found:
            log.warning("damage was found: %s", text)
        if damaged:
            self.mend({error.partition for error in damaged}, str(damaged[0]))
        return found

    # --- erasure ------------------------------------------------------------------------------------------------------

    def is_erasure_due(self) -> bool:
        """Half of `erase_within` has passed for the oldest deletion; the other half is for the work."""
        pending = self._engine.erasures.pending
        due_ms = self._engine.catalog.erase_within // 2
        return bool(pending) and now_ms() - min(e.received_ms for e in pending) > due_ms

    async def erase(self) -> int:
        """Remove everything that was erased so far from log, history, dead letters and checkpoints. Returns how many deletions. A failed write stops
        the shard, whoever asked."""
        if self._store.keep_log:
            return 0
        async with self._erasing:  # a run that is under way ends first; then what it left
            self.is_erasing = True
            try:
                return await self._erase()
            except WriteFailed as error:
                stop_at_once(error)
            finally:
                self.is_erasing = False

    async def _erase(self) -> int:
        engine, store = self._engine, self._store
        async with self._committer.quiet():
            pending = list(engine.erasures.pending)
            positions = engine.positions.copy()
            sequence = store.log.next_sequence - 1
        if not pending:
            return 0
        await self.catch_up(sequence)  # history is made without them
        async with self.upkeep:
            await in_thread(store.history.forget, erased_ordinals(pending))
        await in_thread(store.checkpoints.forget_dead_letters, erased_letters(pending))
        await self._checkpoint()  # their pages are written anew, and the log that had them is dropped
        await in_thread(store.drop_old_segments)
        await in_thread(store.checkpoints.compact)
        for folder in (store.folder, store.folder / ROCKS_FOLDER):
            await in_thread(shutil.rmtree, folder_aside(folder), ignore_errors=True)
        if any(store.log.first_sequence(segment) <= sequence for segment, _ in store.log.closed()):
            return 0  # a stopped partition holds segments back: they stay on the list
        await in_thread(store.checkpoints.note_erased, [(e.received_ms, e.id_hash) for e in pending])
        await in_thread(store.checkpoints.put_erased, positions.tobytes())
        engine.erasures.finish(positions)
        self._meter.sweeps.labels("erasure").inc()
        log.info("erased %d users from the disk", len(pending))
        return sum(1 for e in pending if engine.epochs[e.partition] or not engine.copied[e.partition])

    def erasures(self) -> list[dict[str, Any]]:
        """Deletions that are not yet taken to the disk, for people; `user` is the stable handle, as the id is gone."""
        within = self._engine.catalog.erase_within
        return [
            {
                "user": (e.partition << 32 | e.ordinal) if e.ordinal >= 0 else -1, "erased": e.received_ms, "due": e.received_ms + within,
                "state": "removing" if self.is_erasing else "waiting",
            }
            for e in self._engine.erasures.pending
            if self._engine.epochs[e.partition] or not self._engine.copied[e.partition]  # each once, where it is served
        ]  # fmt: skip


def erased_ordinals(pending: list[Erasure]) -> dict[int, NDArray[np.uint32]]:
    """Ordinals by partition."""
    by_partition: dict[int, list[int]] = {}
    for erasure in pending:
        if erasure.ordinal >= 0:
            by_partition.setdefault(erasure.partition, []).append(erasure.ordinal)
    return {partition: np.array(ordinals, dtype=np.uint32) for partition, ordinals in by_partition.items()}


def erased_letters(pending: list[Erasure]) -> Callable[[dict[str, Any]], bool]:
    """Whether a dead letter is of a user who was erased after it came."""
    latest: dict[int, int] = {}
    for erasure in pending:
        latest[erasure.id_hash] = max(latest.get(erasure.id_hash, 0), erasure.received_ms)

    def is_gone(letter: dict[str, Any]) -> bool:
        erased_ms = latest.get(xxhash.xxh3_64_intdigest(letter["event"]["user_id"].encode()))
        return erased_ms is not None and int(letter["time"]) <= erased_ms

    return is_gone
