"""Snapshots of all shards, and the schedule on which they are made: the controller's part.

make: each shard stores its files (`snapshotting.py`) --> one manifest --> who was erased is told
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.clock import now_ms
from grid.errors import FieldInvalid, SnapshotFailed
from grid.storage.snapshots import Erased, Repository, ShardPart, Snapshot, created_s, new_id, salted

if TYPE_CHECKING:
    from actors.controller import Controller

log = logging.getLogger("profilegrid")
SNAPSHOT_LOOK_S, ERASURES_TOLD_S = 10.0, 3600.0


class Snapshots:
    """Leaves to the controller: what is asked, its state, calls of shards."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._looked_s = self._told_s = 0.0

    async def make(self, url: str) -> dict[str, Any]:
        """A snapshot at a URL. Returns id, users, bytes. Raises SnapshotFailed."""
        repository = await asyncio.to_thread(_repository, url)
        created_ms, state = now_ms(), self._controller.state
        async with self._controller.layout_lock:  # each partition is in one shard's part
            parts = [ShardPart.of(part) for part in await self._controller.of_every_shard("snapshot", url)]
        if sum(len(part.positions) for part in parts) != state.partitions:
            raise SnapshotFailed(url, "some partitions were in no shard: they are being handed over; make another")
        snapshot = Snapshot(new_id(created_ms), created_ms, now_ms(), state.partitions, state.seed, state.catalog_version, dict(state.catalogs), parts)
        try:
            await asyncio.to_thread(repository.commit, snapshot)
        except OSError as error:
            raise SnapshotFailed(url, str(error)) from None
        await self.tell_erasures(url)
        return {"id": snapshot.id, "users": snapshot.users, "bytes": snapshot.nbytes, "created_ms": created_ms}

    async def tell_erasures(self, url: str) -> int:
        """Tell the snapshots at a URL who was erased. Returns how many. Raises SnapshotFailed."""
        seed = self._controller.state.seed
        users = [user for mine in await self._controller.of_every_shard("erased_users") for user in mine]
        hashes = salted(np.array([id_hash for _, id_hash in users], dtype=np.uint64), seed).tolist()
        erased = [Erased(seed, id_hash, erased_ms) for id_hash, (erased_ms, _) in zip(hashes, users, strict=True)]
        repository = await asyncio.to_thread(_repository, url)
        try:
            await asyncio.to_thread(repository.put_erasures, erased)
        except OSError as error:
            raise SnapshotFailed(url, str(error)) from None
        self._told_s = time.monotonic()
        return len(erased)

    async def keep(self) -> None:
        """One when the newest is old enough, then those beyond `snapshots_keep` go; erasures are told every hour."""
        config = self._controller.config
        if time.monotonic() < self._looked_s:
            return
        self._looked_s = time.monotonic() + SNAPSHOT_LOOK_S
        repository = await asyncio.to_thread(_repository, config.snapshots_url)
        ids = await asyncio.to_thread(repository.ids)
        if not ids or now_ms() / 1000 - created_s(ids[-1]) > config.snapshots_every_s:
            made = await self.make(config.snapshots_url)
            dropped, _ = await asyncio.to_thread(repository.prune, config.snapshots_keep)
            log.info("snapshot made", extra={"facts": {**made, "dropped": dropped}})
        elif time.monotonic() - self._told_s > ERASURES_TOLD_S:
            await self.tell_erasures(config.snapshots_url)


def _repository(url: str) -> Repository:
    """Where snapshots lie. Raises FieldInvalid for what is no place."""
    try:
        if url:
            return Repository(url)
        why = "it is empty"
    except (ValueError, ImportError) as error:
        why = str(error)
    raise FieldInvalid("url", repr(url), f"a folder or a URL that fsspec can open ({why})")
